"""Publish a trained model on the Hub.

Shows what would be published, and refuses files with tokens, keys or local paths in them.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.cli.result_argument import check_result

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft push beans --repo_id me/beans --private --dry_run"


def add_arguments(parser: Parser) -> None:
    """The result, and the repository."""
    parser.add_argument("folder", metavar="OUT", help="output folder of a training run")
    parser.add_argument("--repo_id", required=True, metavar="ME/NAME", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--dry_run", action="store_true", help="only show what would be published")


def run(options: Namespace) -> None:
    """Publish, or show what would be published."""
    check_result(options.folder)
    from hf_ft.results import push

    print("\n".join(push(Path(options.folder), options.repo_id, options.private, options.dry_run)))
