"""What columns can be used for, by their features alone, and tables written under the name of their content."""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_ft.tables.arrow import batches, counted, store
from hf_ft.tables.column_types import (
    file_column,
    holds_images,
    holds_labels,
    holds_text,
    holds_words,
    image_column,
    type_name,
)

COLUMNS: dict[str, tuple[Any, set[str]]] = {
    "text": (Value("string"), {"text", "labels"}),
    "long text": (Value("large_string"), {"text", "labels"}),
    "whole numbers": (Value("int64"), {"labels"}),
    "numbers": (Value("float32"), {"labels"}),
    "classes": (ClassLabel(names=["a", "b"]), {"labels"}),
    "lists of text": (List(Value("string")), {"words", "labels"}),
    "lists of classes": (List(ClassLabel(names=["a"])), {"labels"}),
    "images": (datasets.Image(), {"images"}),
    "bytes": (Value("binary"), {"images"}),
    "a time": (Value("timestamp[s]"), set()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_uses_of_a_column(name: str) -> None:
    feature, expected = COLUMNS[name]
    tests = {"text": holds_text, "words": holds_words, "images": holds_images, "labels": holds_labels}
    assert {use for use, test in tests.items() if test(feature)} == expected
    assert type_name(feature)


def test_columns_of_files_are_found_by_their_feature() -> None:
    """Not by their name: a column of paths called `image` is text."""
    paths = Dataset.from_dict({"image": ["a.png"]})
    images = paths.cast_column("image", datasets.Image())
    sounds = Dataset.from_dict({"audio": ["a.wav"], "image": ["x"]}).cast_column("audio", datasets.Audio(decode=False))
    assert (file_column(paths), image_column(paths)) == (None, None)
    assert (file_column(images), image_column(images)) == ("image", "image")
    assert (file_column(sounds), image_column(sounds)) == ("audio", None)
    assert file_column([{"image": 1}]) is None


def test_the_same_content_is_the_same_file() -> None:
    features = Features({"x": Value("int64")})
    first, again = (store([pa.table({"x": [1, 2]}), pa.table({"x": [3]})], features) for _ in range(2))
    other = store([pa.table({"x": [1, 2, 4]})], features)
    assert first["x"][:] == [1, 2, 3]
    assert first.cache_files == again.cache_files != other.cache_files
    assert [len(batch) for batch in batches(first, 2)] == [2, 1]


def test_counts_in_words() -> None:
    assert [counted(number, "image") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
