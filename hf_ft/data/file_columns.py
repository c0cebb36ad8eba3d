"""Columns of files: paths made absolute, and sizes and bytes read without decoding anything."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from hf_ft.modalities import FileInput
from hf_ft.tables import batches, holds_text, store


def as_files(inputs: Dataset, kind: FileInput, folders: Sequence[Path]) -> Dataset:
    """Store the column of files by their feature of `datasets`, relative paths made absolute below `folders`."""
    name, feature, wanted = kind.role, inputs.features[kind.role], kind.feature()
    if isinstance(feature, type(wanted)):
        return inputs.cast_column(name, dataclasses.replace(feature, decode=wanted.decode))
    if not holds_text(feature):
        return inputs.cast_column(name, wanted)

    def absolute(path: str | None) -> str | None:
        places = [str(folder / path) for folder in folders] if path else []
        return next((place for place in places if os.path.exists(place)), places[0] if places else path)

    paths = ([absolute(path) for path in batch[name].to_pylist()] for batch in batches(inputs))
    tables = (pa.table({name: wanted.cast_storage(pa.array(batch, pa.string()))}) for batch in paths)
    return store(tables, Features({name: wanted}))


def file_sizes(inputs: Dataset, name: str) -> Iterator[int]:
    """The size of each encoded file in bytes, -1 where there is none."""
    for batch in batches(inputs):
        for chunk in batch[name].chunks:
            sizes, paths = pc.binary_length(chunk.field("bytes")).to_pylist(), chunk.field("path").to_pylist()
            for size, path in zip(sizes, paths, strict=True):
                yield size if size is not None else _size_on_disk(path)


def _size_on_disk(path: str | None) -> int:
    try:
        return Path(path).stat().st_size if path else -1
    except OSError:
        return -1


def encoded_bytes(cell: Any) -> bytes:
    """The content of an encoded file, from the cell itself or from its path.

    Raises:
        OSError: the file cannot be read.
    """
    content: bytes = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    return content
