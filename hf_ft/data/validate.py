"""Validation: labels are read, and unusable rows are reported or skipped.

Labels are read as names and compared by name. Only positions and label numbers are in memory, a few bytes per example.
"""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.data.columns import Columns
from hf_ft.data.duplicates import Contents, hashed, text_bytes
from hf_ft.data.file_columns import as_files
from hf_ft.data.readers.raw_split import RawSplit
from hf_ft.environment import progress
from hf_ft.errors import UserError, choose, shorten
from hf_ft.modalities import FileInput
from hf_ft.settings import DataSettings
from hf_ft.tables import BATCH, batches, file_column, is_list
from hf_ft.tasks import IntArray, Task, Values

FILE_BATCH, FILE_WORKERS = 64, 4
"""Files that are in memory at a time, and threads that decode them."""


@dataclass(frozen=True)
class LabelledSplit:
    """A split that is being prepared: its input columns under their final names, its labels, and the rows in use.

    `used` is ascending; rows that are skipped or not sampled leave it, and the columns stay as they are.
    """

    role: str
    inputs: Dataset
    labels: Values
    used: IntArray


def take_split(role: str, source: RawSplit, columns: Columns, config: DataSettings, task: Task) -> LabelledSplit:
    """Take inputs and labels out of a split.

    Raises:
        UserError: the split lacks a column, or its labels are of another kind.
    """
    rows = source.rows
    for option, name in [*columns.inputs.items(), ("label", columns.label)]:
        hint = f"All splits need the same columns (see --{option}_column)."
        choose(name, rows.features, f"column in {role}:", hint, option=f"{option}_column")
    labels = columns.target.read(rows, columns.label, config)
    inputs = rows.select_columns(list(columns.inputs.values()))
    inputs = inputs.rename_columns({name: key for key, name in columns.inputs.items() if name != key})
    files = task.modality.files
    if files is not None and files.role in columns.inputs:
        inputs = as_files(inputs, files, source.folders)
    return LabelledSplit(role, inputs, labels, np.arange(len(rows)))


# --- Checking rows --------------------------------------------------------------------------------------------------


def without_bad(split: LabelledSplit, config: DataSettings, notes: list[str]) -> LabelledSplit:
    """Skip, or report, rows whose label is missing or whose text is blank; `checked_rows` does so for files.

    Raises:
        UserError: there are such rows, unless `bad_examples` is `skip`.
    """
    split = _drop(split, split.labels.missing, split.labels.lacking, config, notes)
    for what, is_bad in split.labels.problems(split.inputs):
        split = _drop(split, is_bad, what, config, notes)
    notes += split.labels.remarks(split.role)
    for name in split.inputs.column_names:
        if name != file_column(split.inputs):
            blank = "no words" if is_list(split.inputs.features[name]) else f"an empty {name}"
            split = _drop(split, _blank(split.inputs, name), blank, config, notes)
    return split


def _blank(inputs: Dataset, name: str) -> NDArray[np.bool_]:
    """The rows with nothing but blanks in a column of texts, or with no words in one of lists of words."""
    nested = is_list(inputs.features[name])
    columns = (batch[name] for batch in batches(inputs.select_columns([name])))
    lengths = (pc.list_value_length(c) if nested else pc.utf8_length(pc.utf8_trim_whitespace(c)) for c in columns)
    return np.concatenate([length.fill_null(0) for length in lengths]) == 0


def _drop(
    split: LabelledSplit, is_bad: NDArray[np.bool_], what: str, config: DataSettings, notes: list[str]
) -> LabelledSplit:
    bad = split.used[is_bad[split.used]]
    if len(bad) == 0:
        return split
    have = f"{len(bad):,} of {len(split.used):,} examples {'has' if len(bad) == 1 else 'have'} {what}"
    if config.bad_examples != "skip":
        rows = shorten(int(row) + 1 for row in bad)
        raise UserError(
            f"{split.role}: {have} (rows {rows}, counted from 1). Fix them, or skip them with --bad_examples skip."
        )
    notes.append(f"{split.role}: {have}; skipped.")
    _check_some_left(split.role, len(split.used) - len(bad))
    return dataclasses.replace(split, used=split.used[~is_bad[split.used]])


def _check_some_left(role: str, count: int) -> None:
    if count == 0:
        raise UserError(f"{role}: no example is left after skipping the bad ones. Fix the data.")


@dataclass(frozen=True)
class Checked:
    """The rows of a split that can be used, the hash of all of them, and what each is known by."""

    rows: Dataset
    digest: str
    contents: Contents


def checked_rows(split: LabelledSplit, config: DataSettings, task: Task, notes: list[str]) -> Checked:
    """The rows in use with their labels; files that cannot be read are skipped.

    Raises:
        UserError: lists the files that cannot be read, unless `bad_examples` is `skip`.
    """
    # Labels come first because `map` writes its cache beside the first file of a data set: that must be our own
    # cache, not the user's folder.
    columns = [split.labels.column(), split.inputs]
    rows = datasets.concatenate_datasets(columns, axis=1).select(split.used)
    kind = task.modality.files
    problems, digest, contents = _read_all(rows, split.role, kind)
    if not problems:
        return Checked(rows, digest, contents)
    listed = shorten(problems.values(), 5)
    cannot = f"{split.role}: {len(problems):,} of {len(rows):,} {kind.noun if kind else 'text'}s cannot be read"
    if config.bad_examples != "skip":
        raise UserError(f"{cannot}: {listed}. Fix them, or skip them with --bad_examples skip.")
    notes.append(f"{cannot}; skipped: {listed}.")
    _check_some_left(split.role, len(rows) - len(problems))
    return Checked(rows.select(np.setdiff1d(np.arange(len(rows)), list(problems))), digest, contents)


def _read_all(rows: Dataset, role: str, kind: FileInput | None) -> tuple[dict[int, str], str, Contents]:
    """Read every row once: which cannot be read (row -> name and reason), and the hashes of those that can.

    Files are hashed as encoded and decoded completely, since a header alone does not show that the rest is missing.
    """
    problems: dict[int, str] = {}
    hasher, known, labelled = hashlib.sha256(), array("Q"), array("Q")
    noun = kind.noun if kind else "text"
    bar = progress(f"Checking {noun}s of {role}", len(rows), f"{noun}s", shown=bool(kind))  # texts take no time
    position = 0
    with bar as advance, ThreadPoolExecutor(FILE_WORKERS) as pool:
        for batch in batches(rows, FILE_BATCH if kind else BATCH):
            labels = batch["labels"].to_numpy()
            inputs = batch.drop_columns(["labels"]).to_pylist()
            # The pool holds one batch of files at a time.
            contents = pool.map(kind.check, [row[kind.role] for row in inputs]) if kind else map(text_bytes, inputs)
            for row, label, content in zip(inputs, labels, contents, strict=True):
                if isinstance(content, str):
                    path = ((row[kind.role] if kind else None) or {}).get("path")
                    name = "/".join(Path(path).parts[-3:]) if path else f"row {position + 1}"
                    problems[position] = f"{name} ({content})"
                else:
                    of_file, of_input = content
                    hasher.update(of_file + label.tobytes())
                    known.append(hashed(of_input))
                    labelled.append(hashed(of_input + label.tobytes()))
                position += 1
                advance(1)
    return problems, hasher.hexdigest(), Contents(np.array(known, np.uint64), np.array(labelled, np.uint64))
