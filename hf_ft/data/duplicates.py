"""Duplicates: examples with the same content, within a split or in two of them.

A test example that was in the training data does not test generalisation, and a duplicate with another label is an
error in the data. Texts are compared without the blanks at their ends, files by their decoded content.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.data.file_columns import encoded_bytes, file_sizes
from hf_ft.tables import batches, file_column
from hf_ft.tasks import BoolArray, IntArray

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Contents:
    """What the examples of a split are known by: hashes of the input, and of input and label, `(examples,)` each."""

    inputs: Hashes
    labelled: Hashes


@dataclass(frozen=True)
class Overlap:
    """How many examples of `split` are duplicates of examples of `of`, and how many only of ones with another label.

    Where both are one split, the first of equal examples is not counted.
    """

    split: str
    of: str
    examples: int
    other_label: int


@dataclass(frozen=True)
class Duplicates:
    """The duplicates in a dataset: counts for each pair of splits that has any, and which examples are in train.

    `train` is what the examples of train are known by, for data that come later.
    """

    overlaps: tuple[Overlap, ...] = ()
    in_train: Mapping[str, BoolArray] = field(default_factory=dict)
    train: Contents | None = None

    def notes(self, sizes: Mapping[str, int]) -> list[str]:
        """A sentence for each pair of splits."""
        return [_note(found, sizes[found.split]) for found in self.overlaps]


def hashed(content: bytes) -> int:
    """Hash a content to 64 bits: among a million examples two are alike by chance once in forty million data sets."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def text_bytes(row: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """A row of texts or words as bytes: as it is, and without blanks at the ends of its texts."""
    cells = list(row.values())
    bare = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    return json.dumps(cells).encode(), json.dumps(bare).encode()


def find_duplicates(contents: Mapping[str, Contents]) -> Duplicates:
    """Count the duplicates within each split, and those in validation and test of examples in earlier splits."""
    overlaps, in_train = [], {}
    roles = list(contents)
    for i, role in enumerate(roles):
        mine = contents[role]
        repeats = len(mine.inputs) - len(np.unique(mine.inputs))
        conflicts = len(np.unique(mine.labelled)) - len(np.unique(mine.inputs))
        overlaps.append(Overlap(role, role, repeats, conflicts))
        for other in roles[:i]:
            copied = np.isin(mine.inputs, contents[other].inputs)
            agreeing = np.isin(mine.labelled, contents[other].labelled)
            overlaps.append(Overlap(role, other, int(copied.sum()), int((copied & ~agreeing).sum())))
            if other == "train" and copied.any():
                in_train[role] = copied
    return Duplicates(tuple(found for found in overlaps if found.examples), in_train, contents.get("train"))


FILE = "train_contents.npy"
"""What the training examples of a result are known by, in the part of its folder that is never published."""


def save_contents(contents: Contents, folder: Path) -> None:
    """Write what examples are known by into a folder."""
    np.save(folder / FILE, np.stack([contents.inputs, contents.labelled]), allow_pickle=False)


def load_contents(folder: Path) -> Contents | None:
    """What `save_contents` wrote; None where the file is missing or damaged."""
    try:
        inputs, labelled = np.load(folder / FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return Contents(inputs, labelled)


def _note(found: Overlap, size: int) -> str:
    several = found.examples != 1
    of = "earlier ones" if found.split == found.of else f"examples in {found.of}"
    what = f"exact duplicates of {of}" if several else f"an exact duplicate of one in {found.of}"
    other = f", {found.other_label:,} of them under another label" if found.other_label else ""
    return f"{found.split}: {found.examples:,} of {size:,} examples {'are' if several else 'is'} {what}{other}."


# --- Before anything is decoded -------------------------------------------------------------------------------------

FILE_BATCH = 64


def equal_inputs(inputs: Dataset, used: IntArray) -> IntArray:
    """A group number for each of the rows `used`: the same for equal texts, or for files of equal bytes.

    Nothing is decoded, and only files of equal size are read.
    """
    keys: list[Any]
    if (name := file_column(inputs)) is not None:
        sizes = np.fromiter(file_sizes(inputs, name), dtype=np.int64)[used]
        counts = Counter(sizes.tolist())
        alike = [i for i, size in enumerate(sizes.tolist()) if size >= 0 and counts[size] > 1]
        keys = list(range(len(used)))
        rows = inputs.select(used[alike])
        read = (row[name] for batch in batches(rows, FILE_BATCH) for row in batch.to_pylist())
        for i, cell in zip(alike, read, strict=True):
            with suppress(OSError):  # a file that cannot be read is reported when examples are checked
                keys[i] = hashlib.sha256(encoded_bytes(cell)).digest()
    else:
        keys = [hashed(text_bytes(row)[1]) for batch in batches(inputs.select(used)) for row in batch.to_pylist()]
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
