"""Compare fine-tuning methods on one model and dataset: scores, significance, cost.

Trains every method with several seeds, and at several sizes of the training split if asked. The same command again
runs only what is missing.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft.cli.redraw import add_redraw, record_to_redraw

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = """\
hf-ft compare --task image_classification --model builtin --dataset photos/ \\
    --methods head,lora,lp_ft,full --examples_per_class 10,100 \\
    --output_dir compared"""


def add_arguments(parser: Parser) -> None:
    """The grid (methods, seeds, sizes), and every setting but those that the grid replaces."""
    from hf_ft.settings import add_settings

    parser.usage = (
        "hf-ft compare --task T --model M --dataset D --output_dir OUT [options]\n       hf-ft compare --redraw OUT"
    )
    group = parser.add_argument_group("comparison")
    texts = {
        "methods": (
            "A,B,...",
            "methods to compare, or `depths` (default: scratch,head,last_n:N,lora,lp_ft,full, N a third of the blocks)",
        ),
        "seeds": ("N", "number of seeds, or a list: `0,7` (default: 3)"),
        "examples_per_class": ("N,M,...", "sizes of the training split, such as 10,30,100 (default: all examples)"),
    }
    for name, (metavar, text) in texts.items():
        group.add_argument(f"--{name}", metavar=metavar, default=argparse.SUPPRESS, help=text)
    add_redraw(group, "comparison")
    add_settings(parser, without=("method", "plan", "keep_head", "examples_per_class"))


def run(options: Namespace) -> None:
    """Run the trials of the comparison, or draw its figures again."""
    from hf_ft.records import ComparisonRecord
    from hf_ft.settings import settings_layers

    layers = settings_layers(vars(options))
    if (folder := record_to_redraw(layers, ComparisonRecord)) is not None:
        from hf_ft.experiments import redraw_comparison

        print("\n".join(str(path) for path in redraw_comparison(folder)))
        return
    from hf_ft.experiments import read_comparison_settings

    settings = read_comparison_settings(layers)
    from hf_ft.experiments import run_comparison

    run_comparison(settings)
