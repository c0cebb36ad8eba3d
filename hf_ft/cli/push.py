"""Publish a trained model on the Hub.

Shows what will be published, refuses files with tokens, keys, names or local paths in them, and adds one commit. A new
repository is private unless --public is set.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.cli.result_argument import check_result

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft push beans --repo_id me/beans --dry_run"


def add_arguments(parser: Parser) -> None:
    """The result, the repository, and how to publish."""
    parser.add_argument("folder", metavar="OUT", help="output folder of a training run")
    parser.add_argument("--repo_id", required=True, metavar="ME/NAME", help="repository on the Hub")
    seen = parser.add_mutually_exclusive_group()
    hidden = argparse.SUPPRESS  # of defaults that the help need not show
    seen.add_argument("--private", action="store_true", default=hidden, help="only you may read it (the default)")
    seen.add_argument("--public", dest="private", action="store_false", default=hidden, help="everybody may read it")
    parser.add_argument("--adapter", action="store_true", help="publish the adapter alone, as a PEFT repository")
    parser.add_argument("--revision", metavar="B", help="branch, made from main if it does not exist")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of writing to the branch")
    parser.add_argument("--tag", metavar="T", help="tag for the commit")
    parser.add_argument("--commit_message", metavar="TEXT", help="title of the commit")
    parser.add_argument("--overwrite", action="store_true", help="replace what the repository holds")
    parser.add_argument(
        "--allow",
        metavar="KIND",
        action="append",
        choices=["email", "host", "path", "user"],
        help="publish e-mail addresses, host names, local paths or user names that were found: email, host, path, user",
    )
    parser.add_argument("--dry_run", action="store_true", help="only show what would be published; asks no Hub")


def run(options: Namespace) -> None:
    """Publish, or show what would be published."""
    check_result(options.folder)
    from hf_ft.publishing import push

    values = {name: value for name, value in vars(options).items() if value is not None}
    push(Path(values.pop("folder")), values.pop("repo_id"), **values)
