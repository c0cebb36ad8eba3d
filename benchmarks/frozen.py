"""What the comparisons with frozen layers share: which arms there are, for a frozen body and for some frozen blocks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from side_by_side import Arm, Bench

from hf_ft.errors import UserError, choose

PLAIN = Arm("plain Trainer", "plain")
SGD = Arm("hf_ft, cache, SGD", "hf_ft", {"cache": "on", "head_solver": "sgd"})
PASS = Arm("one forward pass", "forward")
LINEAR = (
    Arm("hf_ft, cache, exact", "hf_ft", {"cache": "on", "head_solver": "exact"}),
    Arm("logistic regression, raw", "forward", {"fit": "raw"}),
    Arm("logistic regression, standardised", "forward", {"fit": "standardised"}),
)
"""What there is for a head of one linear layer only."""

BLOCKS = (
    Arm("hf_ft, live", "hf_ft", {"cache": "off"}),
    Arm("hf_ft, cached", "hf_ft", {"cache": "on"}),
)


def compare(bench: Bench, frozen: Sequence[str] | None) -> None:
    """Compare once for each entry of `frozen`: `head`, or how many blocks; default `head`, and all blocks but two."""
    prepared = bench.prepare(bench.options.seeds[0])
    words = frozen or ["head", str(prepared["blocks"] - 2)]
    known = [name for name in prepared["plans"] if name != "none"]
    try:
        for word in words:
            choose(word, known, "value for --frozen:")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for word in words:
        heads = (SGD, PASS, *(LINEAR if prepared["head"] else ()))
        arms = [PLAIN, *(heads if word == "head" else BLOCKS)]
        title = "everything but the head" if word == "head" else f"{word} of {prepared['blocks']} blocks"
        bench.compare(f"{title} frozen", arms, word, {arm.name: (PLAIN.name, arm.name) for arm in arms[1:]})
