"""Columns: which hold the inputs and which the labels, what kind of labels they are, and which rows cannot be used.

Labels are read as names and compared by name. In memory are only positions and label numbers, a few bytes per example.
"""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features
from numpy.typing import NDArray
from tqdm import tqdm

from hf_ft.data.duplicates import Contents, hashed, text_bytes
from hf_ft.data.sources import Source, as_images, read_image
from hf_ft.errors import UserError, choose, shorten
from hf_ft.settings import Config
from hf_ft.tables import (
    BATCH,
    batches,
    element,
    holds_images,
    holds_labels,
    holds_text,
    holds_words,
    is_list,
    type_name,
)
from hf_ft.tasks import IntArray, Target, Task, Values, get_task

PAIRS = {"text_pair": "text", "sentence2": "sentence1", "hypothesis": "premise", "question2": "question1"}
"""Usual column of a second text -> the column of the first text that it belongs to."""

INPUTS = {
    "text": (holds_text, "text"),
    "image": (holds_images, "images or paths of images"),
    "tokens": (holds_words, "lists of words"),
}
"""Input role -> the columns that can play it, and what these hold, in words; other roles are texts."""

IMAGE_BATCH, IMAGE_WORKERS = 64, 4


# --- Finding columns ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Where inputs and labels are, and what kind of labels: `inputs` maps each role to a column."""

    inputs: Mapping[str, str]
    label: str
    target: Target


def find_columns(rows: Dataset, split: str, config: Config, notes: list[str]) -> Columns:
    """The columns to use, from the user's word, from their usual names, or because only one can be meant.

    Raises:
        UserError: a column is missing, ambiguous or of the wrong type.
    """
    task, features = get_task(config.task), rows.features
    inputs = {role: name for role in task.inputs if (name := getattr(config, f"{role}_column"))}
    for role, name in [*inputs.items(), ("label", config.label_column)]:
        if name:
            choose(
                name, features, f"column in {split}:", f"Set --{role}_column to one of these.", option=f"{role}_column"
            )
    label = config.label_column
    if label is None and (found := usual_columns(features, task.label_names, set(inputs.values()))):
        label = found[0] if len(found) == 1 else _ambiguous("label", found, split)
    first = next(iter(task.inputs))
    if first not in inputs:
        usual = _usual_inputs(features, task, split, inputs, {*inputs.values(), label})
        inputs |= usual or {first: _only(first, features, {*inputs.values(), label}, task.inputs[first], split, notes)}
    if label is None:
        label = _only("label", features, set(inputs.values()), task.label_names, split, notes)
    if unused := [name for name in features if name not in (*inputs.values(), label)]:
        notes.append(f"Columns not used: {shorten(unused, 10)}.")
    for role, name in inputs.items():
        fits, what = INPUTS.get(role, INPUTS["text"])
        # A column of images may also hold the paths of files.
        if not (fits(features[name]) or (role == "image" and holds_text(features[name]))):
            held = f"{type_name(features[name])}, not {what}"
            raise UserError(f"Column '{name}' holds {held}. Choose another with --{role}_column.")
    ordered = {role: inputs[role] for role in task.inputs if role in inputs}
    return Columns(ordered, label, _target(task, rows, label, config))


def _target(task: Task, rows: Dataset, label: str, config: Config) -> Target:
    if config.problem_type:
        task.target(config.problem_type, "Leave out --problem_type.")
    target = task.find_target(rows, label, config)
    target.check_options(config)
    return target


def usual_columns(features: Features, usual: Sequence[str], taken: set[str | None]) -> list[str]:
    """The columns with one of the usual names in any case, in the order of those names."""
    return [name for word in usual for name in features if name.lower() == word and name not in taken]


def _usual_inputs(
    features: Features, task: Task, split: str, wanted: Mapping[str, str], taken: set[str | None]
) -> dict[str, str] | None:
    """Inputs by their usual names: one column, or two that belong together; None when there is none."""
    found = {role: usual_columns(features, usual, taken) for role, usual in task.inputs.items() if role not in wanted}
    first, *others = found
    every = [name for names in found.values() for name in names]
    if found[first] and len(every) == 1:
        return {first: every[0]}
    if len(every) == 2 and PAIRS.get(every[1].lower()) == every[0].lower():
        return {first: every[0], others[0]: every[1]}
    return _ambiguous(first, every, split) if every else None


def _ambiguous(role: str, found: Sequence[str], split: str) -> NoReturn:
    pair = " (and --text_pair_column for a second text)" if role == "text" else ""
    raise UserError(
        f"Several columns of {split} could be the {role}: {', '.join(found)}. Choose with --{role}_column{pair}."
    )


def _only(
    role: str, features: Features, taken: set[str | None], usual: Sequence[str], split: str, notes: list[str]
) -> str:
    """The one column that has the right type for a role and no other use.

    Raises:
        UserError: there is none, or more than one.
    """
    fits = holds_labels if role == "label" else INPUTS.get(role, INPUTS["text"])[0]
    left = [str(name) for name, feature in features.items() if name not in taken and fits(feature)]
    if role == "label":
        left = [name for name in left if isinstance(element(features[name]), ClassLabel)] or left
    if len(left) == 1:
        notes.append(f"The {role} is column '{left[0]}', the only one that can be it.")
        return left[0]
    raise UserError(
        f"No column of {split} is called as a {role} usually is ({shorten(usual, 8)}). Its columns: "
        f"{', '.join(features) or 'none'}. Name the right one with --{role}_column."
    )


# --- Parts: a split on its way --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A split on its way: its input columns under their final names, its labels, and the rows in use, ascending."""

    role: str
    inputs: Dataset
    labels: Values
    used: IntArray


def take_part(role: str, source: Source, columns: Columns, config: Config) -> Part:
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
    if "image" in columns.inputs:
        inputs = as_images(inputs, source.folders)
    return Part(role, inputs, labels, np.arange(len(rows)))


# --- Checking rows --------------------------------------------------------------------------------------------------


def without_bad(part: Part, config: Config, notes: list[str]) -> Part:
    """Leave out, or report, rows whose label is missing or whose text is blank. `checked_rows` looks at images."""
    part = _drop(part, part.labels.missing, part.labels.lacking, config, notes)
    for what, is_bad in part.labels.problems(part.inputs):
        part = _drop(part, is_bad, what, config, notes)
    notes += part.labels.remarks(part.role)
    for name in part.inputs.column_names:
        if name != "image":
            blank = "no words" if is_list(part.inputs.features[name]) else f"an empty {name}"
            part = _drop(part, _blank(part.inputs, name), blank, config, notes)
    return part


def _blank(inputs: Dataset, name: str) -> NDArray[np.bool_]:
    """The rows with nothing but blanks in a column of texts, or with no words in one of lists of words."""
    nested = is_list(inputs.features[name])
    columns = (batch[name] for batch in batches(inputs.select_columns([name])))
    lengths = (pc.list_value_length(c) if nested else pc.utf8_length(pc.utf8_trim_whitespace(c)) for c in columns)
    return np.concatenate([length.fill_null(0) for length in lengths]) == 0


def _drop(part: Part, is_bad: NDArray[np.bool_], what: str, config: Config, notes: list[str]) -> Part:
    bad = part.used[is_bad[part.used]]
    if len(bad) == 0:
        return part
    have = f"{len(bad):,} of {len(part.used):,} examples {'has' if len(bad) == 1 else 'have'} {what}"
    if config.bad_examples != "skip":
        rows = shorten(int(row) + 1 for row in bad)
        raise UserError(
            f"{part.role}: {have} (rows {rows}, counted from 1). Mend them, or leave them out with --bad_examples skip."
        )
    notes.append(f"{part.role}: {have}; left out.")
    _check_some_left(part.role, len(part.used) - len(bad))
    return dataclasses.replace(part, used=part.used[~is_bad[part.used]])


def _check_some_left(role: str, count: int) -> None:
    if count == 0:
        raise UserError(f"{role}: no example is left after leaving out bad ones. Mend the data.")


@dataclass(frozen=True)
class Checked:
    """The rows of a split that can be used, the hash of all of them, and what each is known by."""

    rows: Dataset
    digest: str
    contents: Contents


def checked_rows(part: Part, config: Config, notes: list[str]) -> Checked:
    """The rows in use with their labels; images that cannot be read are left out.

    Raises:
        UserError: lists the images that cannot be read, unless `bad_examples` is `skip`.
    """
    # Labels come first because `map` writes its cache beside the first file of a data set: that must be our own
    # cache, not the user's folder.
    columns = [part.labels.column(), part.inputs]
    rows = datasets.concatenate_datasets(columns, axis=1).select(part.used)
    problems, digest, contents = _read_all(rows, part.role)
    if not problems:
        return Checked(rows, digest, contents)
    listed = shorten(problems.values(), 5)
    cannot = f"{part.role}: {len(problems):,} of {len(rows):,} images cannot be read"
    if config.bad_examples != "skip":
        raise UserError(f"{cannot}: {listed}. Mend them, or leave them out with --bad_examples skip.")
    notes.append(f"{cannot}; left out: {listed}.")
    _check_some_left(part.role, len(rows) - len(problems))
    return Checked(rows.select(np.setdiff1d(np.arange(len(rows)), list(problems))), digest, contents)


def _read_all(rows: Dataset, role: str) -> tuple[dict[int, str], str, Contents]:
    """Read every row once: which cannot be read (row -> name and reason), and the hashes of those that can.

    Images are hashed as encoded and decoded completely, since a header alone does not show that the rest is missing.
    """
    holds_images = "image" in rows.features
    problems: dict[int, str] = {}
    hasher, known, labelled = hashlib.sha256(), array("Q"), array("Q")
    # `disable=None` shows the bar on a terminal only; texts take no time worth one.
    bar = tqdm(desc=f"Checking images of {role}", total=len(rows), unit="image", disable=None if holds_images else True)
    position = 0
    with bar, ThreadPoolExecutor(IMAGE_WORKERS) as pool:
        for batch in batches(rows, IMAGE_BATCH if holds_images else BATCH):
            labels = batch["labels"].to_numpy()
            inputs = batch.drop_columns(["labels"]).to_pylist()
            # The pool holds one batch of images at a time.
            contents = pool.map(read_image, inputs) if holds_images else map(text_bytes, inputs)
            for row, label, content in zip(inputs, labels, contents, strict=True):
                if isinstance(content, str):
                    path = (row["image"] or {}).get("path")
                    name = "/".join(Path(path).parts[-3:]) if path else f"row {position + 1}"
                    problems[position] = f"{name} ({content})"
                else:
                    of_file, of_input = content
                    hasher.update(of_file + label.tobytes())
                    known.append(hashed(of_input))
                    labelled.append(hashed(of_input + label.tobytes()))
                position += 1
                bar.update()
    return problems, hasher.hexdigest(), Contents(np.array(known, np.uint64), np.array(labelled, np.uint64))
