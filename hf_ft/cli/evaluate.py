"""Score a trained model on a dataset."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft.cli.autotune_option import add_autotune
from hf_ft.cli.result_argument import HELP, find_model
from hf_ft.cli.tta_option import add_tta, views_of

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft evaluate beans --dataset other_photos/"


def add_arguments(parser: Parser) -> None:
    """The result, the data, and the form of the answer."""
    parser.add_argument("folder", metavar="OUT", help=HELP)
    parser.add_argument("--dataset", required=True, help="Hub id, folder or file")
    parser.add_argument("--split", help="split to score (default: test, else validation, else train)")
    add_tta(parser)
    add_autotune(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: Namespace) -> None:
    """Check the options, then score."""
    from hf_ft.settings import check_path

    check_path(options.dataset, "dataset")
    folder, task = find_model(options.folder)
    views = views_of(options.tta, task)
    tune = options.autotune == "on"
    from hf_ft.evaluation import evaluate_folder

    print(evaluate_folder(folder, options.dataset, options.split, options.json, views, tune, options.folder))
