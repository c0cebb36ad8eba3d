"""Labels of any kind as columns of numbers, for scores that treat all kinds alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def label_columns(labels: NDArray[Any]) -> NDArray[np.float64]:
    """The labels as numbers to regress on `(n, columns)`: one-hot classes, 0 and 1, or standardised numbers.

    Columns that have one value for all examples are dropped: there is nothing to learn from them.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        columns = labels.astype(np.float64)
    elif np.issubdtype(labels.dtype, np.integer):
        columns = (labels[:, None] == np.unique(labels)).astype(np.float64)
    else:
        columns = ((labels - labels.mean()) / (labels.std() or 1.0))[:, None].astype(np.float64)
    return columns[:, np.ptp(columns, axis=0) > 0]
