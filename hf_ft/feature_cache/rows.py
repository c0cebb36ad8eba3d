"""Cached examples as a `torch` dataset, and the collator that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.feature_cache.feature_files import Features
from hf_ft.modalities import token_counts


class CachedRows(torch.utils.data.Dataset[Any]):
    """Examples whose inputs are replaced by cached features.

    A batch has `features`, the labels, and whatever the upper part of the model still reads of the original inputs.
    Whole batches are read at once (`__getitems__`), because a slice of a memory map is far cheaper than its rows.

    Args:
        collate: makes a batch of the remaining columns of some rows.
        lengths: the tokens of each example; None where all examples have one size.
    """

    def __init__(
        self, features: Features, rows: Dataset, collate: Callable[..., Any], lengths: NDArray[Any] | None
    ) -> None:
        self.features, self.rows, self.collate, self.lengths = features, rows, collate, lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = self.collate(records(self.rows[list(indices)]))
        return dict(batch) | {"features": self.features.take(indices)}


@dataclass(frozen=True)
class PrebatchedCollator:
    """The collator of a loader over `CachedRows`: batches pass through, lists of rows go to `collator`."""

    collator: Callable[[list[dict[str, Any]]], Any]

    def __call__(self, batch: Any) -> Any:
        return self.collator(batch) if isinstance(batch, list) else batch


def records(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A slice of a `Dataset`, which comes by columns, as a list of rows."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def row_lengths(rows: Dataset | CachedRows) -> NDArray[Any] | None:
    """Tokens of each row; None where all rows have one size."""
    if isinstance(rows, CachedRows):
        return rows.lengths
    return token_counts(rows)
