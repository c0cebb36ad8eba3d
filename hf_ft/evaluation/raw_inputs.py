"""Inputs in memory, as `LoadedModel.predict` takes them: one or many, files, images, texts or words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_ft.errors import UserError, shorten
from hf_ft.modalities import FileInput


def is_one(inputs: Any) -> bool:
    """Return whether inputs are a single one: text, a path, a dictionary, an image or one array of it."""
    if isinstance(inputs, str | bytes | os.PathLike | Mapping) or not isinstance(inputs, Iterable):
        return True
    return getattr(inputs, "ndim", 1) in (2, 3)


def file_cells(items: Sequence[Any], kind: FileInput) -> dict[str, list[Any]]:
    """Return the columns of inputs that are files, or in memory what files hold, after reading each once.

    Raises:
        UserError: Some are neither, or cannot be read; lists them by number.
    """
    cells, names, bad = [], [], []
    for number, item in enumerate(items, start=1):
        value = item.get(kind.role) if isinstance(item, Mapping) else item
        path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
        cell = {"path": os.path.expanduser(path), "bytes": None} if path is not None else kind.encode(value)
        if cell is None:
            raise UserError(
                f"Input {number} is an object of type {type(value).__name__}, not one {kind.noun}.",
                option="inputs",
                hint=f"Pass paths, {kind.noun}s of Pillow or arrays of uint8, or a list of these.",
            )
        found = kind.check(cell)
        if isinstance(found, str):
            bad.append(f"{path or f'input {number}'} ({found})")
        cells.append(cell)
        names.append(path or f"input {number}")
    if bad:
        raise UserError(
            f"{len(bad):,} of {len(items):,} {kind.noun}s cannot be read: {shorten(bad)}.",
            option="inputs",
            value=bad[0],
        )
    return {"input": names, kind.role: cells}


def text_cells(items: Sequence[Any], roles: Sequence[str]) -> list[dict[str, Any]]:
    """Return inputs as rows with the keys `text`, `text_pair` or `tokens`.

    A dictionary is a row already. Lists are words for a task that reads `tokens`, else pairs of texts.

    Raises:
        UserError: Some are no such inputs, or empty.
    """
    rows = []
    for number, item in enumerate(items, start=1):
        row = _text_row(item, roles)
        values = [*row.values()] if row else []
        if not values or any(not isinstance(one, str) for one in _flat(values)):
            raise UserError(
                f"Input {number} is an object of type {type(item).__name__}, which is not read as text.",
                option="inputs",
                hint="Pass texts, dictionaries with the keys " + " and ".join(("text", *roles[-1:])) + ", or a list.",
            )
        if not all(one.strip() if isinstance(one, str) else one for one in values):
            raise UserError(f"Input {number} is empty.", option="inputs", hint="Leave it out.")
        rows.append(row)
    return rows


def _text_row(item: Any, roles: Sequence[str]) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": str(item)}
    if isinstance(item, Mapping):
        return {key: item[key] for key in ("text", *roles) if item.get(key) is not None}
    if not isinstance(item, list | tuple):
        return {}
    if "tokens" in roles:
        return {"tokens": list(item)}
    return dict(zip(("text", "text_pair"), item, strict=True)) if len(item) == 2 else {}


def _flat(values: Sequence[Any]) -> list[Any]:
    return [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
