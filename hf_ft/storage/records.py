"""Finished results: their records, read back and known for what they are before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError, shorten

RUN = {"task": str, "settings": dict, "data": dict, "metrics": dict, "stages": list}
COMPARISON = {"rows": list, "metric": str, "data": dict, "model": dict, "advice": list, "machine": dict}
SEARCH = {"choice": dict, "rungs": list, "layer_probes": dict, "data": dict, "model": dict, "cost": dict}
"""What the record of each kind of result holds at least, and of which type."""


def read_record(path: Path, holds: Mapping[str, type], what: str) -> dict[str, Any]:
    """The record of a finished result, `what` being how messages call it.

    Raises:
        UserError: there is none, it is damaged, or it is the record of something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        told = f"{path.parent} holds no {what} (no {path.name} in it)"
        raise UserError(f"{told}. Give the --output_dir of one.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({_line(error)}). Run the command that wrote it again.") from None
    record: dict[str, Any] = found if isinstance(found, dict) else {}
    if wrong := [key for key, kind in holds.items() if not isinstance(record.get(key), kind)]:
        raise UserError(f"{path} is no record of a {what}: it lacks {shorten(wrong)}. Give the --output_dir of one.")
    return record


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        UserError: as `read_record`.
    """
    record = read_record(folder / "run.json", RUN, "finished run")
    if not (isinstance(record["data"].get("labels"), list) and isinstance(record["data"].get("problem_type"), str)):
        raise UserError(f"{folder / 'run.json'} does not say which labels the model has. Train again.")
    return record


@contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Make what a record lacks further down, which shows only when it is drawn, one line as well."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        told = f"{path} is damaged ({type(error).__name__}: {_line(error)})"
        raise UserError(f"{told}. Run the command that wrote it again.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
