"""Predict labels for image files, folders, tables, or lines of text."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.cli.autotune_option import add_autotune
from hf_ft.cli.result_argument import HELP, find_model
from hf_ft.cli.tta_option import add_tta, views_of
from hf_ft.errors import UserError

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = """\
hf-ft predict beans photos/ --output predictions.csv
hf-ft predict me/reviews "a film that I would watch again\""""


def add_arguments(parser: Parser) -> None:
    """The result, the inputs, and where predictions go."""
    parser.add_argument("folder", metavar="OUT", help=HELP)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="files, folders, CSV or JSON lines; for text models also text itself, and - for lines of standard input",
    )
    parser.add_argument("--batch_size", type=int, metavar="N", default=32, help="examples per batch")
    add_tta(parser)
    add_autotune(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE", help="write .csv or .jsonl to FILE (default: print CSV)")
    output.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(options: Namespace) -> None:
    """Check the options, then predict."""
    from hf_ft.settings import check_range
    from hf_ft.storage import check_new_file

    check_range("per_device_eval_batch_size", options.batch_size, "--batch_size")
    if options.output and not options.output.endswith((".csv", ".jsonl")):
        raise UserError(f"--output {options.output} has no known format. Use a file name that ends in .csv or .jsonl.")
    if options.output:
        check_new_file(Path(options.output).expanduser(), "--output", options.inputs, options.overwrite)
    tune = options.autotune == "on"
    folder, task = find_model(options.folder)
    views = views_of(options.tta, task)
    from hf_ft.evaluation import predict_inputs

    predict_inputs(folder, options.inputs, options.output, options.batch_size, views, tune, options.folder)
