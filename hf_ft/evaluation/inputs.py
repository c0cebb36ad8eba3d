"""Inputs of `predict`: files and folders of images, tables, text files, or text on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.data import TABLES, read_tables, usual_columns
from hf_ft.errors import UserError, shorten
from hf_ft.evaluation.result_folder import InputSettings
from hf_ft.modalities import FileInput
from hf_ft.settings import DataSettings, check_path
from hf_ft.storage import check_names, files_below, readable
from hf_ft.tasks import Task, get_task

TEXTS = get_task("text_classification").inputs["text"]
"""The usual names of a column of texts."""


def file_rows(inputs: Sequence[str], kind: FileInput) -> dict[str, list[str]]:
    """Return the inputs in files and folders, after reading each once, so that errors come before any prediction.

    Raises:
        UserError: There are no files of that kind, or some cannot be read; lists them.
    """
    paths: list[Path] = []
    for item in inputs:
        path = Path(item).expanduser()
        if not path.is_symlink():  # a broken link is reported by name below
            check_path(os.path.abspath(path), "file or folder")
        paths += _files_in(path, kind) if path.is_dir() else [path]
    check_names(map(str, paths))
    if not paths or not all(item.strip() for item in inputs):
        listed = ", ".join(map(repr, inputs))
        raise UserError(f"No {kind.noun}s in {listed}. Known are files that end in {', '.join(kind.extensions)}.")
    contents = (kind.check({"path": str(path), "bytes": None}) for path in paths)
    bad = [f"{path} ({why})" for path, why in zip(paths, contents, strict=True) if isinstance(why, str)]
    if bad:
        raise UserError(f"{len(bad):,} of {len(paths):,} {kind.noun}s cannot be read: {shorten(bad)}.")
    return {"input": [str(path) for path in paths], kind.role: [str(path) for path in paths]}


def _files_in(folder: Path, kind: FileInput) -> list[Path]:
    """Return the files of that kind in a folder, including broken links; print what is skipped to standard error."""
    found = files_below(folder)
    for note in found.notes():
        print(f"{readable(str(folder))}: {note}", file=sys.stderr)
    names = sorted([*found.files, *found.broken])
    return [folder / name for name in names if Path(name).suffix.lower() in kind.extensions]


def text_rows(
    inputs: Sequence[str], task: Task, config: InputSettings, processor: Any, learnt: Sequence[str] | None
) -> dict[str, list[Any]]:
    """Return the texts in files (tables by column, other files line by line) or on the command line.

    Args:
        inputs: Paths, texts, or `-` for lines of standard input.
        task: The task of the model.
        config: The columns of the training data.
        processor: The tokenizer.
        learnt: The input roles that the model was trained on, if they are known.

    Raises:
        UserError: An input is empty or unreadable; or it is a pair, but the model was trained on single texts, or
            the other way round.
    """
    rows: list[dict[str, Any]] = []
    for item in inputs:
        check_names([item])
        path = Path(item).expanduser()
        if path.suffix.lower() in TABLES:
            rows += _table_rows(path, task, config, learnt)
        elif os.path.isfile(path):
            rows += _lines(path.read_bytes(), item)
        elif item == "-":
            rows += _lines(sys.stdin.buffer.read(), "standard input")
        elif not item.strip():
            raise UserError("An input is empty. Give files, text itself, or - for lines of standard input.")
        elif path.suffix == ".txt":
            check_path(str(path.absolute()), "file")
        elif os.path.isdir(path):
            raise UserError(f"{item} is a folder. Give files, or text itself.")
        else:
            rows.append({"text": item})
    if not rows:
        raise UserError(f"No text in {', '.join(inputs)}.")
    return text_columns(rows, task, config, processor, learnt)


def text_columns(
    rows: list[dict[str, Any]], task: Task, config: InputSettings, processor: Any, learnt: Sequence[str] | None
) -> dict[str, list[Any]]:
    """Return the input columns of rows of texts; for the arguments and errors see `text_rows`."""
    if task.from_text is not None:
        return task.from_text(rows, processor)
    if learnt is not None:
        _check_pairs(rows, learnt, config)
    roles = [role for role in task.inputs if any(role in row for row in rows)]
    columns = {role: [row.get(role, "") for row in rows] for role in roles}
    return {"input": [" | ".join(row.values()) for row in rows]} | columns


def _lines(content: bytes, name: str) -> list[dict[str, Any]]:
    """Return the non-empty lines of a UTF-8 file."""
    if b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        kind = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "no text but binary data"
        raise UserError(f"{name} is {kind}. Give text in UTF-8, one input on each line.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{name} is not in UTF-8: line {line} holds the byte 0x{content[error.start]:02x}. Save it in UTF-8, for "
            "example with iconv -f latin1 -t utf8."
        ) from None
    return [{"text": line} for line in text.splitlines() if line.strip()]


def _check_pairs(rows: Sequence[Mapping[str, Any]], learnt: Sequence[str], config: DataSettings) -> None:
    """Raise `UserError` unless the rows are pairs, or single texts, as the model was trained on."""
    pairs = sum(bool(row.get("text_pair")) for row in rows)
    if "text_pair" in learnt and pairs < len(rows):
        first, second = config.text_column or "text", config.text_pair_column or "text_pair"
        raise UserError(
            f"The model was trained on pairs of texts, and {len(rows) - pairs:,} of {len(rows):,} inputs are single "
            f"texts. Give a file of CSV or JSON lines with the columns {first} and {second}."
        )
    if "text_pair" not in learnt and pairs:
        raise UserError(
            f"The model was trained on single texts, and {pairs:,} of {len(rows):,} inputs are pairs. Give files with "
            "one column of texts."
        )


def _table_rows(path: Path, task: Task, config: DataSettings, learnt: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the inputs in a table, read as in training: from the columns of the training data, else the usual names.

    A task that also reads plain texts (`from_text`) falls back to a text column.
    """
    check_path(str(path.absolute()), "file")
    found = read_tables([path.absolute()], path.parent).rows
    if len(found) == 0:
        raise UserError(f"{path} holds no rows.")
    columns = {}
    for role, names in task.inputs.items():
        wanted = getattr(config, f"{role}_column")
        if learnt is not None and role not in learnt and config.text_column:
            continue  # training read one explicit column only
        if known := [wanted] if wanted in found.features else usual_columns(found.features, names, set()):
            columns[role] = known[0]
        elif task.from_text is not None and (texts := usual_columns(found.features, TEXTS, set())):
            columns["text"] = texts[0]
        elif role not in task.optional_inputs:
            listed, name = ", ".join(found.features), wanted or names[0]
            raise UserError(f"{path} has no column for the {role}: it has {listed}. Name it '{name}'.")
    if "tokens" in columns:  # a string would be read as a list of characters
        cells = enumerate(found[columns["tokens"]], start=1)
        if bad := [row for row, cell in cells if not (isinstance(cell, list) and cell)]:
            raise UserError(
                f"{path}: column '{columns['tokens']}' holds no list of words in row {shorten(bad)}. Give lists of "
                "words, or texts in a column called 'text'."
            )
    rows = zip(*(found[column] for column in columns.values()), strict=True)
    return [{role: _plain_cell(cell) for role, cell in zip(columns, row, strict=True)} for row in rows]


def _plain_cell(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_plain_cell(word) for word in cell]
    return "" if cell is None else str(cell)
