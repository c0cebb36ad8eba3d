"""The examples of a split as the cache uses them: rows, fingerprints, lengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.feature_cache.cache_key import fingerprints
from hf_ft.feature_cache.rows import records, row_lengths
from hf_ft.feature_cache.views import FixedViews
from hf_ft.modalities import longest_first

SAMPLE = 8
"""Number of examples on which a model split is verified; half as many for images, which have equal size."""


@dataclass(frozen=True)
class EncodedSplit:
    """An encoded split with the fingerprints of its rows `(rows, 16)` and their lengths in tokens or pixels.

    `lengths` is None if all rows have the same size, as encoded images do.
    """

    rows: Dataset | FixedViews
    fingerprints: NDArray[np.uint8]
    lengths: NDArray[np.int64] | None

    @classmethod
    def of(cls, rows: Dataset, encoding: str = "") -> EncodedSplit:
        """Return a split with the fingerprints and lengths of its rows; for `encoding` see `encoding_of`."""
        return cls(rows, fingerprints(rows, encoding), row_lengths(rows))

    @classmethod
    def of_views(cls, rows: Dataset, views: int, seed: int, encoding: str) -> EncodedSplit:
        """Return a split of which each image has several fixed views, as rows of their own."""
        fixed = FixedViews(rows, views, seed)
        return cls(fixed, fixed.fingerprints(fingerprints(rows, encoding)), None)

    def fetch(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Return some rows as a collator takes them."""
        return records(self.rows[[int(index) for index in indices]])

    def sample(self) -> list[dict[str, Any]]:
        """Return a few rows for verifying a model split, longest first, spread over all lengths but the longest tenth.

        A model split must be correct for texts of any length, so lengths should differ; the longest texts would only
        slow the verification down.
        """
        if self.lengths is None:
            step = self.rows.views if isinstance(self.rows, FixedViews) else 1  # one view of each image
            return self.fetch(range(0, min(SAMPLE // 2 * step, len(self.rows)), step))
        last = len(self.rows) - 1
        places = np.linspace(0.1 * last, last, min(SAMPLE, len(self.rows))).astype(int)
        return self.fetch(longest_first(self.lengths)[places])
