"""What the comparisons with frozen layers share: which variants run, for a frozen body and for some frozen blocks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from side_by_side import Benchmark, Variant

from hf_ft.errors import UserError, choose

PLAIN = Variant("plain Trainer", "plain")
SGD = Variant("hf_ft, cache, SGD", "hf_ft", {"cache": "on", "head_solver": "sgd"})
PASS = Variant("one forward pass", "forward")
CHANNELS_LAST = Variant("one forward pass, channels last", "forward", {"layout": "channels_last"})
"""For images: the faster form for many networks of convolutions."""
LINEAR = (
    Variant("hf_ft, cache, exact", "hf_ft", {"cache": "on", "head_solver": "exact"}),
    Variant("logistic regression, raw", "forward", {"fit": "raw"}),
    Variant("logistic regression, standardised", "forward", {"fit": "standardised"}),
)
"""What there is for a head of one linear layer only."""

BLOCKS = (
    Variant("hf_ft, live", "hf_ft", {"cache": "off"}),
    Variant("hf_ft, cached", "hf_ft", {"cache": "on"}),
)


def compare(benchmark: Benchmark, frozen: Sequence[str] | None) -> None:
    """Compare once per entry of `frozen`: `head`, or a number of blocks (default: `head`, and all blocks but two)."""
    prepared = benchmark.prepare(benchmark.options.seeds[0])
    words = frozen or ["head", str(prepared["blocks"] - 2)]
    known = [name for name in prepared["plans"] if name != "none"]
    try:
        for word in words:
            choose(word, known, "value for --frozen:")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for word in words:
        passes = (PASS, CHANNELS_LAST) if benchmark.task == "image_classification" else (PASS,)
        heads = (SGD, *passes, *(LINEAR if prepared["head"] else ()))
        variants = [PLAIN, *(heads if word == "head" else BLOCKS)]
        title = "everything but the head" if word == "head" else f"{word} of {prepared['blocks']} blocks"
        benchmark.compare(
            f"{title} frozen", variants, word, {variant.name: (PLAIN.name, variant.name) for variant in variants[1:]}
        )
