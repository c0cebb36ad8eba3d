"""A threshold on the probability of one of two exclusive classes; `fit_threshold` fits it to the margins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hf_ft.metrics.bootstrap import Floats
from hf_ft.metrics.classification import label_probabilities


def margins(logits: npt.ArrayLike, positive: int) -> Floats:
    """Return by how much the logit of one of two classes exceeds the other, `(examples,)`.

    That is the logit of its probability.

    Args:
        logits: `(examples, 2)`.
        positive: The class, 0 or 1.
    """
    both = np.asarray(logits, dtype=np.float64)
    margin: Floats = both[:, positive] - both[:, 1 - positive]
    return margin


def decided(logits: npt.ArrayLike, positive: int, threshold: float) -> Floats:
    """Return logits whose larger one says whether the probability of `positive` reaches the threshold, `(examples, 2)`.

    Args:
        logits: `(examples, 2)`.
        positive: The class to predict from the threshold on, 0 or 1.
        threshold: A probability.
    """
    reached = label_probabilities(margins(logits, positive)) >= threshold
    chosen = np.where(reached, positive, 1 - positive)
    return np.eye(2)[chosen]
