"""Encodings: the code that turns a stored row into model inputs, and whether cached batches can replace it."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from transformers import default_data_collator

from hf_ft.feature_cache.cache_request import CacheRequest
from hf_ft.feature_cache.examples import EncodedSplit
from hf_ft.feature_cache.function_identity import identify
from hf_ft.feature_cache.policy import NotCached
from hf_ft.modalities import ImageTransform
from hf_ft.tables import file_column


def transform_of(rows: Dataset) -> Any:
    """Return the function that a data set applies when its rows are read; None if it has none."""
    kind = getattr(rows, "format", None) or {}
    return kind["format_kwargs"].get("transform") if kind.get("type") == "custom" else None


def is_built_in(rows: Dataset, processor: Any) -> bool:
    """Return whether images are read by the built-in transform with this processor."""
    transform = transform_of(rows)
    return type(transform) is ImageTransform and transform.processor is processor


def encoding_of(rows: Dataset, request: CacheRequest) -> str:
    """Return the identity of code that changes the rows of a split when they are read; "" if none is needed.

    None is needed for tokens, which are stored in the row, nor for images that only the processor changes, because its
    settings are part of the key. So the keys of the built-in tasks cost nothing.

    Raises:
        Unidentifiable: The state of the task's `encode`, or of the transform that it set, cannot be read.
    """
    plain = is_built_in(rows, request.processor) and not transform_of(rows).augments
    if plain or not (transform_of(rows) or file_column(rows)):
        return ""
    return identify([request.encode, transform_of(rows)])


def check_repeatable(request: CacheRequest, split: EncodedSplit, sample: list[dict[str, Any]]) -> None:
    """Check that a custom encoding returns the same inputs when the same examples are read again.

    Raises:
        NotCached: It does not.
    """
    if not encoding_of(request.datasets[0], request):
        return
    once, again = request.collator(sample), request.collator(split.sample())
    if any(not torch.equal(value, again[name]) for name, value in once.items() if torch.is_tensor(value)):
        raise NotCached("its examples are encoded differently each time they are read")


def check_labels(request: CacheRequest, sample: list[dict[str, Any]]) -> None:
    """Check that the collator does not change labels: cached batches have the labels of the examples.

    Raises:
        NotCached: It does.
    """
    stored = default_data_collator([{"labels": row["labels"]} for row in sample])["labels"]
    if not torch.equal(request.collator(sample)["labels"], stored):
        raise NotCached("its collator changes the labels")
