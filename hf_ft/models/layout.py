"""How one cached tensor is stored: its dtype and shape per example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Layout:
    """One tensor that is kept per example: dtype (as in `torch.float32`) and shape.

    With `ragged` the first dimension varies from example to example and is left out of `shape`.
    """

    dtype: str
    shape: tuple[int, ...]
    ragged: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the tensors."""
        return getattr(torch, self.dtype)

    @property
    def stored(self) -> np.dtype:
        """The dtype in the file: NumPy's own, or unsigned integers of the same bits."""
        try:
            return torch.empty(0, dtype=self.torch_dtype).numpy().dtype
        except TypeError:  # NumPy has no such dtype
            return np.dtype(f"u{self.torch_dtype.itemsize}")

    def file_shape(self, count: int, total_length: int) -> tuple[int, ...]:
        """The shape of the file for so many examples, of that length together."""
        return (total_length if self.ragged else count, *self.shape)
