"""Average several finished runs of one model into one: a greedy soup.

The runs share model, task, labels and data, and differ in seed or settings. From the best to the worst, each joins
unless the metric on validation falls. The result is scored, proved and saved like a run.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft soup beans-seed-0 beans-seed-1 beans-seed-2 --output_dir beans-soup"


def add_arguments(parser: Parser) -> None:
    """The runs, and the folder of the result."""
    parser.usage = "hf-ft soup OUT OUT... --output_dir OUT [options]"
    parser.add_argument("runs", metavar="OUT", nargs="*", help="output folder of a training run")
    parser.add_argument("--output_dir", metavar="OUT", help="folder of the result")
    parser.add_argument("--dataset", metavar="D", help="where the data are now (default: where the best run read them)")
    parser.add_argument("--overwrite_output_dir", action="store_true", help="replace a run in the output folder")


def run(options: Namespace) -> None:
    """Average, score and save."""
    from hf_ft.errors import UserError

    if not options.output_dir:
        raise UserError("`--output_dir` is missing.", option="output_dir", hint="Set it to a folder for the result.")
    from hf_ft.results import soup

    soup(
        options.runs,
        output_dir=options.output_dir,
        dataset=options.dataset,
        overwrite_output_dir=options.overwrite_output_dir,
    )
