"""Columns: which hold the inputs and which the labels, what kind of labels they are, and which rows cannot be used.

Labels are read as names and compared by name. In memory are only positions and label numbers, a few bytes per example.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from numpy.typing import NDArray
from tqdm import tqdm

from hf_ft.config import Config
from hf_ft.lookup import UserError, choose, shorten
from hf_ft.sources import BATCH, Source, as_images, batches, counted, holds_text, read_image, store
from hf_ft.tasks import Task, get_task, task_names

IntArray = NDArray[np.int64]

SINGLE, MULTI = "single_label_classification", "multi_label_classification"

PAIRS = {"text_pair": "text", "sentence2": "sentence1", "hypothesis": "premise", "question2": "question1"}
"""Usual column of a second text -> the column of the first text that it belongs to."""

IMAGE_BATCH, IMAGE_WORKERS = 64, 4


# --- Finding columns ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Where inputs and labels are: `inputs` maps each role to a column; `multi_hot` is a list of 0 and 1 per row."""

    inputs: Mapping[str, str]
    label: str
    problem_type: str
    multi_hot: bool


def find_columns(rows: Dataset, split: str, config: Config, notes: list[str]) -> Columns:
    """The columns to use, from the user's word, from their usual names, or because only one can be meant.

    Raises:
        UserError: a column is missing, ambiguous or of the wrong type.
    """
    task, features = get_task(config.task), rows.features
    inputs = {role: name for role in task.inputs if (name := getattr(config, f"{role}_column"))}
    for role, name in [*inputs.items(), ("label", config.label_column)]:
        if name:
            choose(name, features, f"column in {split}:", f"Set --{role}_column to one of these.")
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
        # A column of images may also hold the paths of files.
        if not (holds_text(features[name]) or (role == "image" and _holds_images(features[name]))):
            what = f"{_dtype(features[name])}, not {'images or paths of images' if role == 'image' else 'text'}"
            raise UserError(f"Column '{name}' holds {what}. Choose another with --{role}_column.")
    ordered = {role: inputs[role] for role in task.inputs if role in inputs}
    return Columns(ordered, label, *_kind_of_labels(rows, label, config))


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
    fits = {"image": _holds_images, "label": _holds_labels}.get(role, holds_text)
    left = [str(name) for name, feature in features.items() if name not in taken and fits(feature)]
    if role == "label":
        left = [name for name in left if isinstance(_element(features[name]), ClassLabel)] or left
    if len(left) == 1:
        notes.append(f"The {role} is column '{left[0]}', the only one that can be it.")
        return left[0]
    raise UserError(
        f"No column of {split} is called as a {role} usually is ({shorten(usual, 8)}). Its columns: "
        f"{', '.join(features) or 'none'}. Name the right one with --{role}_column."
    )


def _element(feature: Any) -> Any:
    return feature.feature if isinstance(feature, List | LargeList) else feature


def _dtype(feature: Any) -> str:
    kind = type(feature).__name__
    # `Json` is what `datasets` makes of a column of JSON lines whose values are of several types.
    return "a mix of types" if kind == "Json" else str(getattr(feature, "dtype", kind))


def _holds_images(feature: Any) -> bool:
    """Encoded images: the `Image` feature, or what it is stored as when a file does not say so."""
    is_struct = isinstance(feature, dict) and "bytes" in feature
    return isinstance(feature, datasets.Image) or is_struct or _dtype(feature) in ("binary", "large_binary")


def _holds_labels(feature: Any) -> bool:
    element = _element(feature)
    kinds = ("int", "uint", "bool", "float", "double", "string", "large_string")
    return isinstance(element, ClassLabel | Value) and element.dtype.startswith(kinds)


def _kind_of_labels(rows: Dataset, column: str, config: Config) -> tuple[str, bool]:
    """Whether a row has one label or several, and whether they come as a list of 0 and 1, one place per label."""
    feature, separator = rows.features[column], config.label_separator
    if not _holds_labels(feature):
        raise UserError(
            f"Column '{column}' holds {_dtype(feature)}, which is no label: give whole numbers, text, or lists of "
            "them. Choose another column with --label_column."
        )
    if separator is not None and not holds_text(feature):
        raise UserError(f"label_separator splits text, but column '{column}' holds {_dtype(feature)}. Leave it out.")
    if separator is not None and config.problem_type == SINGLE:
        raise UserError(f"label_separator makes several labels of one cell, which contradicts problem_type {SINGLE}.")
    is_list = isinstance(feature, List | LargeList)
    found = MULTI if is_list or separator is not None else SINGLE
    return config.problem_type or found, is_list and _is_multi_hot(rows, column)


def _is_multi_hot(rows: Dataset, column: str) -> bool:
    """Whether the lists are places to fill, not label numbers: all of one length above 2, and nothing but 0 and 1."""
    element = _element(rows.features[column])
    if isinstance(element, ClassLabel) or holds_text(element):
        return False
    lengths: set[int] = set()
    for batch in batches(rows.select_columns([column])):
        lists = batch[column].combine_chunks().drop_null()
        lengths |= set(pc.list_value_length(lists).to_pylist())
        if len(lengths) > 1 or not set(pc.unique(pc.list_flatten(lists)).to_pylist()) <= {0, 1}:
            return False
    return all(length > 2 for length in lengths)


# --- Reading labels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """The labels of a split as pairs: row `rows[i]` carries the label `names[codes[i]]`; `rows` ascends.

    `counts` is the number of labels of each row, -1 where they are missing. `declared` is the order that the data
    themselves give to labels, empty when they give none.
    """

    names: tuple[str, ...]
    rows: IntArray
    codes: IntArray
    counts: IntArray
    declared: tuple[str, ...]


def _read_labels(rows: Dataset, columns: Columns, separator: str | None) -> Labels:
    feature = rows.features[columns.label]
    names_of = _names_of(feature, columns, separator)
    numbers: dict[str, int] = {}
    owners, codes, counts = array("q"), array("q"), array("q")
    for batch in batches(rows.select_columns([columns.label])):
        for value in batch[columns.label].to_pylist():
            names = None if value is None else names_of(value)
            codes.extend(numbers.setdefault(name, len(numbers)) for name in names or ())
            owners.extend([len(counts)] * len(names or ()))
            counts.append(-1 if names is None else len(names))
    element = _element(feature)
    declared = tuple(element.names or ()) if isinstance(element, ClassLabel) else ()
    return Labels(tuple(numbers), np.array(owners), np.array(codes), np.array(counts), declared)


def _names_of(feature: Any, columns: Columns, separator: str | None) -> Callable[[Any], list[str] | None]:
    """A function from a cell to the names of its labels, without repeats; None when the label is missing."""
    element = _element(feature)

    def name(value: Any) -> str | None:
        if isinstance(element, ClassLabel):
            return element.int2str(value) if value >= 0 else None  # the Hub writes -1 for labels kept secret
        if isinstance(value, str):
            return value.strip() or None
        return str(value) if value == value else None  # NaN is the one number that differs from itself

    def names(cell: Any) -> list[str] | None:
        if columns.multi_hot:
            return [str(place) for place, value in enumerate(cell) if value]
        values = cell.split(separator) if separator is not None else cell if isinstance(cell, list) else [cell]
        found = (name(value) for value in values if value is not None)
        listed = list(dict.fromkeys(one for one in found if one is not None))
        return listed if isinstance(cell, list) or separator is not None else listed or None

    return names


_INTEGER = re.compile(r"[-+]?\d+")
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as people do: "2" before "10", "page 9" before "page 10", whatever the case."""
    names = list(names)
    if all(_INTEGER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))

    def key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
        chunks = re.split(r"(\d+)", name.casefold())
        return [(not chunk.isdecimal(), int(chunk) if chunk.isdecimal() else 0, chunk) for chunk in chunks], name

    return sorted(names, key=key)


# --- Parts: a split on its way --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A split on its way: its input columns under their final names, its labels, and the rows in use, ascending."""

    role: str
    inputs: Dataset
    labels: Labels
    used: IntArray

    def label_counts(self) -> dict[str, int]:
        """How many of the rows in use carry each label."""
        codes = self.labels.codes[np.isin(self.labels.rows, self.used)]
        counts = np.bincount(codes, minlength=len(self.labels.names)).tolist()
        return dict(zip(self.labels.names, counts, strict=True))


def take_part(role: str, source: Source, columns: Columns, config: Config) -> Part:
    """Take inputs and labels out of a split.

    Raises:
        UserError: the split lacks a column, or its labels are decimal numbers.
    """
    rows = source.rows
    for option, name in [*columns.inputs.items(), ("label", columns.label)]:
        choose(name, rows.features, f"column in {role}:", f"All splits need the same columns (see --{option}_column).")
    labels = _read_labels(rows, columns, config.label_separator)
    decimal = labels.names and all(map(_DECIMAL.fullmatch, labels.names))
    if decimal and not (config.problem_type or labels.declared or all(map(_INTEGER.fullmatch, labels.names))):
        raise UserError(
            f"Column '{columns.label}' holds decimal numbers ({shorten(labels.names, 3)}): regression is not a task "
            f"yet (tasks: {', '.join(task_names())}). If they are classes, write whole numbers, or say "
            f"--problem_type {SINGLE}."
        )
    inputs = rows.select_columns(list(columns.inputs.values()))
    inputs = inputs.rename_columns({name: key for key, name in columns.inputs.items() if name != key})
    if "image" in columns.inputs:
        inputs = as_images(inputs, source.folders)
    return Part(role, inputs, labels, np.arange(len(rows)))


def label_names(train: Part, notes: list[str]) -> tuple[str, ...]:
    """The labels that train has, in the order that the data declare, else in natural order."""
    counts, declared = train.label_counts(), train.labels.declared
    present = [name for name, count in counts.items() if count]
    if len(present) < 2:
        what = f"All examples of train have the label '{present[0]}'" if present else "No example of train has a label"
        raise UserError(f"{what}: there is nothing to tell apart. Give data with at least two labels.")
    if absent := [name for name in declared if not counts.get(name)]:
        notes.append(f"Labels that the data declare but train has no example of are left out: {shorten(absent)}.")
    return tuple(name for name in declared or natural_order(present) if counts.get(name))


def number_labels(part: Part, names: tuple[str, ...], unknown: str, known: str) -> Part:
    """Number the labels by their place in `names`.

    Raises:
        UserError: rows in use have labels outside `names`; lists them with counts.
    """
    labels, place = part.labels, {name: number for number, name in enumerate(names)}
    strange = {name: count for name, count in part.label_counts().items() if count and name not in place}
    if strange:
        listed = shorten((f"{name} ({strange[name]:,})" for name in natural_order(strange)), 10)
        raise UserError(
            f"{part.role} has labels that {unknown}, with their number of examples: {listed}. {known}: "
            f"{shorten(names, 20)}. Take these examples out, or train on such labels as well."
        )
    # Labels of rows that are not in use may be unknown; their pairs go.
    codes = np.array([place.get(name, -1) for name in labels.names], dtype=np.int64)[labels.codes]
    numbered = dataclasses.replace(labels, names=names, rows=labels.rows[codes >= 0], codes=codes[codes >= 0])
    return dataclasses.replace(part, labels=numbered)


# --- Checking rows --------------------------------------------------------------------------------------------------


def without_bad(part: Part, config: Config, notes: list[str]) -> Part:
    """Leave out, or report, rows whose label is missing or whose text is blank. `checked_rows` looks at images."""
    counts = part.labels.counts
    part = _drop(part, counts < 0, "no label", config, notes)
    if config.problem_type == SINGLE:
        part = _drop(part, (counts == 0) | (counts > 1), "not exactly one label", config, notes)
    elif none := int((counts == 0).sum()):
        notes.append(f"{part.role}: {counted(none, 'example')} with none of the labels.")
    for name in part.inputs.column_names:
        if name != "image":
            part = _drop(part, _blank(part.inputs, name), f"an empty {name}", config, notes)
    return part


def _blank(inputs: Dataset, name: str) -> NDArray[np.bool_]:
    texts = (batch[name] for batch in batches(inputs.select_columns([name])))
    return np.concatenate([pc.utf8_length(pc.utf8_trim_whitespace(text)).fill_null(0) for text in texts]) == 0


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


def checked_rows(part: Part, multi: bool, config: Config, notes: list[str]) -> tuple[Dataset, str]:
    """The rows in use with their labels, and the hash of their content; images that cannot be read are left out.

    Raises:
        UserError: lists the images that cannot be read, unless `bad_examples` is `skip`.
    """
    # Labels come first because `map` writes its cache beside the first file of a data set: that must be our own
    # cache, not the user's folder.
    columns = [_label_column(part.labels, multi), part.inputs]
    rows = datasets.concatenate_datasets(columns, axis=1).select(part.used)
    problems, digest = _read_all(rows, part.role)
    if not problems:
        return rows, digest
    listed = shorten(problems.values(), 5)
    cannot = f"{part.role}: {len(problems):,} of {len(rows):,} images cannot be read"
    if config.bad_examples != "skip":
        raise UserError(f"{cannot}: {listed}. Mend them, or leave them out with --bad_examples skip.")
    notes.append(f"{cannot}; left out: {listed}.")
    _check_some_left(part.role, len(rows) - len(problems))
    return rows.select(np.setdiff1d(np.arange(len(rows)), list(problems))), digest


def _label_column(labels: Labels, multi: bool) -> Dataset:
    """The column `labels` on disk: int64, or a list of float32 per row. Rows without a label get null."""
    count, width = len(labels.counts), len(labels.names)

    def tables() -> Iterator[pa.Table]:
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            first, last = np.searchsorted(labels.rows, [start, start + size])
            rows, codes = labels.rows[first:last] - start, labels.codes[first:last]
            if multi:
                hot = np.zeros((size, width), dtype=np.float32)
                hot[rows, codes] = 1.0
                column = pa.ListArray.from_arrays(np.arange(size + 1, dtype=np.int32) * width, hot.ravel())
            else:
                single = np.full(size, -1, dtype=np.int64)
                single[rows] = codes
                column = pa.array(single, mask=single < 0)
            yield pa.table({"labels": column})

    return store(tables(), Features({"labels": List(Value("float32")) if multi else Value("int64")}))


def _read_all(rows: Dataset, role: str) -> tuple[dict[int, str], str]:
    """Read every row once: which cannot be read (row -> name and reason), and the hash of those that can.

    Images are hashed as encoded and decoded completely, since a header alone does not show that the rest is missing.
    """
    is_image = "image" in rows.features
    problems: dict[int, str] = {}
    hasher = hashlib.sha256()
    # `disable=None` shows the bar on a terminal only; texts take no time worth one.
    bar = tqdm(desc=f"Checking images of {role}", total=len(rows), unit="image", disable=None if is_image else True)
    position = 0
    with bar, ThreadPoolExecutor(IMAGE_WORKERS) as pool:
        for batch in batches(rows, IMAGE_BATCH if is_image else BATCH):
            labels = np.stack(batch["labels"].to_numpy())
            inputs = batch.drop_columns(["labels"]).to_pylist()
            # Contents are bytes, or text that says why there are none; the pool holds one batch of images at a time.
            texts = (json.dumps(list(row.values())).encode() for row in inputs)
            contents = pool.map(read_image, inputs) if is_image else texts
            for row, label, content in zip(inputs, labels, contents, strict=True):
                if isinstance(content, str):
                    path = (row["image"] or {}).get("path")
                    name = "/".join(Path(path).parts[-3:]) if path else f"row {position + 1}"
                    problems[position] = f"{name} ({content})"
                else:
                    hasher.update(content + label.tobytes())
                position += 1
                bar.update()
    return problems, hasher.hexdigest()
