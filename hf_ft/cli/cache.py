"""List or clear cached features."""

from __future__ import annotations

import textwrap
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.errors import UserError, choose

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = """\
hf-ft cache list
hf-ft cache clear --older_than 30"""

HEADER = ("features", "examples", "size", "last used")


def add_arguments(parser: Parser) -> None:
    """What to do with which cache."""
    parser.add_argument("action", metavar="ACTION", nargs="?", help="list or clear")
    parser.add_argument(
        "--cache_dir", metavar="FOLDER", help="folder of the cache (default: HF_FT_CACHE, else HF_HOME)"
    )
    parser.add_argument(
        "--older_than", metavar="DAYS", type=float, help="clear only features that were not used for so many days"
    )


def run(options: Namespace) -> None:
    """List the entries of the cache, or remove them."""
    if options.action is None:
        raise UserError("No action for the cache. Use list or clear. See hf-ft cache --help.")
    choose(options.action, ("list", "clear"), "action", "See hf-ft cache --help.")
    if options.older_than is not None and options.action == "list":
        raise UserError("--older_than is an option of hf-ft cache clear only.")
    from hf_ft.settings import check_path, check_range

    if options.older_than is not None:
        check_range("older_than", options.older_than, "--older_than")
    from hf_ft.feature_cache import clear_cache, default_root, format_size

    root = Path(options.cache_dir).expanduser().absolute() if options.cache_dir else default_root()
    if options.cache_dir:
        check_path(str(root), "cache folder")
    if root.is_file():
        raise UserError(f"{root} is a file. Use the folder of a feature cache.")
    if options.action == "list":
        _print_entries(root)
    else:
        print(f"Freed {format_size(clear_cache(root, 86400 * (options.older_than or 0)))} in {root}")


def _print_entries(root: Path) -> None:
    from hf_ft.environment import print_table
    from hf_ft.feature_cache import cache_entries, format_size

    found = cache_entries(root)
    rows = [
        (
            entry.what,
            f"{entry.examples:,}",
            format_size(entry.size),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
        )
        for entry in reversed(found)
    ]
    if rows:
        print_table(HEADER, rows, right=(1, 2), plain=lambda: _listed(rows))
    total, unfinished = sum(entry.size for entry in found), sum(entry.unfinished for entry in found)
    begun = f", {format_size(unfinished)} of it unfinished" if unfinished else ""
    print(f"{format_size(total)} in {root}{begun}")


def _listed(rows: Sequence[tuple[str, str, str, str]]) -> str:
    lines = ["{:37} {:>12} {:>11} {:>16}".format(*HEADER)]
    for features, examples, size, used in rows:
        first, *rest = textwrap.wrap(features, 37, subsequent_indent="  ")
        lines += [f"{first:37} {examples:>12} {size:>11} {used}", *rest]
    return "\n".join(lines)
