"""Contents of data sets as Arrow tables: read batch by batch, and written under a name made from the content."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from numpy.typing import NDArray

BATCH = 10_000
"""Rows of a table that are in memory at a time."""


def counted(number: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def batches(rows: Dataset, size: int = BATCH) -> Iterator[pa.Table]:
    """The rows as Arrow tables, nothing decoded."""
    yield from rows.with_format("arrow").iter(size)


def store(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Write tables into the cache of `datasets`, under a name made from their content, and map them from there.

    The same content is the same file, so repeated runs and parallel processes share it.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE, "hf_ft")
    folder.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    part = folder / f"{uuid.uuid4().hex}.part"
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    with part.open("rb") as file:
        target = folder / f"{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}.arrow"
    if target.exists():
        part.unlink()
    else:
        part.replace(target)
    return Dataset.from_file(str(target))


def token_counts(rows: Dataset) -> NDArray[np.int64] | None:
    """Tokens of each encoded row; None where rows are no texts."""
    if "input_ids" not in rows.column_names:
        return None
    columns = (batch["input_ids"] for batch in batches(rows.select_columns(["input_ids"])))
    return np.concatenate([pc.list_value_length(column).to_numpy() for column in columns]).astype(np.int64)
