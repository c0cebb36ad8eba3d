"""The option `--redraw OUT` of commands that draw figures from a record."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError

if TYPE_CHECKING:
    from hf_ft.records import Record


def add_redraw(group: Any, experiment: str, what: str = "tables and figures") -> None:
    """Add the option to a group of options: it writes `what` of a finished `experiment` again."""
    group.add_argument(
        "--redraw",
        metavar="OUT",
        default=argparse.SUPPRESS,
        help=f"only write {what} of a finished {experiment} again",
    )


def record_to_redraw(layers: Sequence[tuple[str, dict[str, Any]]], kind: type[Record]) -> Path | None:
    """The folder of `--redraw`, taken out of the options; None where it is not asked for.

    Raises:
        UserError: other options beside it, or no valid record in the folder.
    """
    folder = layers[-1][1].pop("redraw", None)
    if folder is None:
        return None
    if layers[-1][1]:
        raise UserError(f"--redraw takes no other option: the figures are made from {kind.FILE} alone.")
    from hf_ft.records import read_finished

    read_finished(Path(folder).expanduser(), kind)
    return Path(folder).expanduser()
