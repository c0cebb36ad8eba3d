"""Labels that are names: reading them from a column, and writing the column `labels`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, List, Value
from numpy.typing import NDArray

from hf_ft.tables import BATCH, batches, counted, element, holds_text, store
from hf_ft.tasks.target import BoolArray, NamedLabels


@dataclass(frozen=True)
class SingleLabels(NamedLabels):
    """One label per row; the column `labels` is int64."""

    def problems(self, inputs: Dataset) -> Iterator[tuple[str, BoolArray]]:
        """Yield the rows whose list has no label or several."""
        yield "not exactly one label", (self.counts == 0) | (self.counts > 1)

    def column(self) -> Dataset:
        """Return the class id of each row."""
        numbers = np.full(len(self.counts), -1, dtype=np.int64)
        numbers[self.rows] = self.codes
        return store([pa.table({"labels": pa.array(numbers, mask=numbers < 0)})], Features({"labels": Value("int64")}))


@dataclass(frozen=True)
class SeveralLabels(NamedLabels):
    """Any number of labels per row; the column `labels` is a list of 0.0 and 1.0, one entry per label."""

    def remarks(self, role: str) -> list[str]:
        """Return a note on rows without any label, which is allowed."""
        none = int((self.counts == 0).sum())
        return [f"{role}: {counted(none, 'example')} with none of the labels."] if none else []

    def column(self) -> Dataset:
        """Return a list of float32 per row, written in batches."""
        width = len(self.names)

        def tables() -> Iterator[pa.Table]:
            for start in range(0, len(self.counts), BATCH):
                size = min(BATCH, len(self.counts) - start)
                first, last = np.searchsorted(self.rows, [start, start + size])
                hot = np.zeros((size, width), dtype=np.float32)
                hot[self.rows[first:last] - start, self.codes[first:last]] = 1.0
                offsets = np.arange(size + 1, dtype=np.int32) * width
                yield pa.table({"labels": pa.ListArray.from_arrays(offsets, hot.ravel())})

        return store(tables(), Features({"labels": List(Value("float32"))}))


def read_names(
    rows: Dataset, column: str, names_of: Callable[[Any], list[str] | None]
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the fields of `NamedLabels` except the last.

    Args:
        rows: The split.
        column: The label column.
        names_of: Returns the label names in a cell, None if the label is missing.
    """
    numbers: dict[str, int] = {}
    owners, codes, counts = array("q"), array("q"), array("q")
    for batch in batches(rows.select_columns([column])):
        for value in batch[column].to_pylist():
            names = None if value is None else names_of(value)
            codes.extend(numbers.setdefault(name, len(numbers)) for name in names or ())
            owners.extend([len(counts)] * len(names or ()))
            counts.append(-1 if names is None else len(names))
    return tuple(numbers), np.array(owners), np.array(codes), np.array(counts)


def declared_names(feature: Any) -> tuple[str, ...]:
    """Return the label names that the data declare, in order; empty if they declare none."""
    inner = element(feature)
    return tuple(inner.names or ()) if isinstance(inner, ClassLabel) else ()


def name_of(feature: Any) -> Callable[[Any], str | None]:
    """Return a function from a value of a label column to the label's name, None if it is missing."""
    inner = element(feature)

    def name(value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(inner, ClassLabel):
            return str(inner.int2str(value)) if value >= 0 else None  # the Hub writes -1 for hidden labels
        if isinstance(value, str):
            return value.strip() or None
        return str(value) if value == value else None  # NaN is the one number that differs from itself

    return name


def is_multi_hot(rows: Dataset, column: str) -> bool:
    """Return whether lists are multi-hot vectors, not class ids: all of one length above 2, and only 0 and 1."""
    inner = element(rows.features[column])
    if isinstance(inner, ClassLabel) or holds_text(inner):
        return False
    lengths: set[int] = set()
    for batch in batches(rows.select_columns([column])):
        lists = batch[column].combine_chunks().drop_null()
        lengths |= set(pc.list_value_length(lists).to_pylist())
        if len(lengths) > 1 or not set(pc.unique(pc.list_flatten(lists)).to_pylist()) <= {0, 1}:
            return False
    return all(length > 2 for length in lengths)
