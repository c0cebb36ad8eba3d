"""List pretrained models to start from, with size and licence.

Those called builtin:NAME need no Hub. Any other model of the Hub or of timm can be used as well.
"""

from __future__ import annotations

import itertools
import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from hf_ft.cli.wrapping import hanging
from hf_ft.modalities import get_modality

if TYPE_CHECKING:
    from hf_ft.models import Source
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft models --task text_classification --size small"


def add_arguments(parser: Parser) -> None:
    """What to list."""
    parser.add_argument("--task", help="only models for this task")
    parser.add_argument("--size", help="only models of this size: small, base or large")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: Namespace) -> None:
    """Print the list."""
    from hf_ft.models import sources_for

    found = sources_for(options.task, options.size)
    if options.json:
        print(json.dumps([{**vars(source), "size": source.size} for source in found], indent=1))
    else:
        _print_groups(found)


def _print_groups(found: Sequence[Source]) -> None:
    from hf_ft.environment import print_table

    gated = [source.name for source in found if source.gated]
    for (modality, size), group in itertools.groupby(found, lambda source: (source.modality, source.size)):
        sources, unit = list(group), get_modality(modality).unit
        rows = [(s.name, f"{s.parameters:.1f}M", _licence(s), f"{s.reads} {unit}", s.remark) for s in sources]
        print(f"{modality.capitalize()} models, {size}\n")
        header = ("model", "parameters", "licence", "longest", "remark")
        print_table(header, rows, right=(1, 3), plain=partial(_listed, sources))
        print()
    print(
        "Rank them on your data: hf-ft rank MODEL... or hf-ft rank --size small.\n"
        f"Gated, so that the Hub asks for your agreement and a token: {', '.join(gated) or 'none of these'}."
    )


def _licence(source: Source) -> str:
    return f"{source.licence}, gated" if source.gated else source.licence


def _listed(sources: Sequence[Source]) -> str:
    lines = []
    for source in sources:
        unit = get_modality(source.modality).unit
        lines.append(f"{source.name:50}{source.parameters:6.1f}M{source.reads:8} {unit}")
        lines += hanging(" " * 4, f"{_licence(source)}: {source.remark}")
    return "\n".join(lines)
