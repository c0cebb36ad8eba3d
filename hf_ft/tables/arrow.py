"""Contents of data sets as Arrow tables: read batch by batch, and written under a name made from the content."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, Features

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
