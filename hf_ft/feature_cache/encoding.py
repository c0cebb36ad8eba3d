"""Encodings: what turns a stored row into inputs of the model, and whether cached batches can stand for its work."""

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
    """The function that a data set applies when its rows are read, None without one."""
    kind = getattr(rows, "format", None) or {}
    return kind["format_kwargs"].get("transform") if kind.get("type") == "custom" else None


def is_built_in(rows: Dataset, processor: Any) -> bool:
    """Whether images are read by the built-in transform with this processor."""
    transform = transform_of(rows)
    return type(transform) is ImageTransform and transform.processor is processor


def encoding_of(rows: Dataset, request: CacheRequest) -> str:
    """The identity of what changes the rows of a split as they are read; empty where the row or the key says it.

    Tokens are stored in the row itself. Images are not, but those that the processor alone reads need no more than the
    processor's settings, which the key holds: so the keys of the built-in tasks cost nothing.

    Raises:
        Unidentifiable: the task's `encode`, or the transform that it set, holds something whose state cannot be read.
    """
    plain = is_built_in(rows, request.processor) and not transform_of(rows).augments
    if plain or not (transform_of(rows) or file_column(rows)):
        return ""
    return identify([request.encode, transform_of(rows)])


def check_repeatable(request: CacheRequest, split: EncodedSplit, sample: list[dict[str, Any]]) -> None:
    """Refuse an encoding of the caller's that returns other inputs when the same examples are read again.

    Raises:
        NotCached: it does.
    """
    if not encoding_of(split.rows, request):
        return
    once, again = request.collator(sample), request.collator(split.sample())
    if any(not torch.equal(value, again[name]) for name, value in once.items() if torch.is_tensor(value)):
        raise NotCached("its examples are encoded differently each time they are read")


def check_labels(request: CacheRequest, sample: list[dict[str, Any]]) -> None:
    """Refuse a collator that changes labels: cached batches have those of the examples.

    Raises:
        NotCached: it does.
    """
    stored = default_data_collator([{"labels": row["labels"]} for row in sample])["labels"]
    if not torch.equal(request.collator(sample)["labels"], stored):
        raise NotCached("its collator changes the labels")
