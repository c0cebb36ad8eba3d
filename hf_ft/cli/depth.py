"""Find how many blocks to freeze: short trials at every freeze depth, longer ones of the best.

Scores on validation decide; the test split is not read.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft.cli.redraw import add_redraw, record_to_redraw

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = """\
hf-ft depth --task text_classification --model FacebookAI/roberta-base \\
    --dataset reviews.csv --output_dir depths"""


def add_arguments(parser: Parser) -> None:
    """The freeze depths and seeds, and every setting but the method, which is what is searched."""
    from hf_ft.settings import add_settings

    parser.usage = (
        "hf-ft depth --task T --model M --dataset D --output_dir OUT [options]\n       hf-ft depth --redraw OUT"
    )
    group = parser.add_argument_group("search")
    texts = {
        "depths": ("N,M,...", "numbers of frozen blocks to try: 0 is `full`, all are `head` (default: at most 9)"),
        "seeds": ("N", "number of seeds, or a list: `0,7` (default: 1)"),
    }
    for name, (metavar, text) in texts.items():
        group.add_argument(f"--{name}", metavar=metavar, default=argparse.SUPPRESS, help=text)
    add_redraw(group, "search")
    add_settings(parser, without=("method", "plan"))


def run(options: Namespace) -> None:
    """Search, or draw the figure of a search again."""
    from hf_ft.records import FreezeDepthRecord
    from hf_ft.settings import settings_layers

    layers = settings_layers(vars(options))
    if (folder := record_to_redraw(layers, FreezeDepthRecord)) is not None:
        from hf_ft.experiments import redraw_depth

        print("\n".join(str(path) for path in redraw_depth(folder)))
        return
    from hf_ft.experiments import read_depth_settings

    settings = read_depth_settings(layers)
    from hf_ft.experiments import search

    search(settings)
