"""Metrics of how well scores rank the examples of a class above the others: area under the ROC curve, and average
precision.

Each function returns the value together with its derivative by the weight of each example, so that a resample costs one
scalar product: to first order, a metric of resampled examples is its value plus the weighted sum of these derivatives.
For the area under the ROC curve that is the method of DeLong 1988 (https://doi.org/10.2307/2531595). Exact resampling
would sort each class again for each resample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hf_ft.metrics.bootstrap import Floats, Statistic, ratio
from hf_ft.metrics.counts import grouping

Array: TypeAlias = npt.NDArray[Any]
Ranking: TypeAlias = tuple[float, Floats]
"""Value of a metric, and its derivative by the weight of each example, `(examples,)`."""

MOST_CLASSES = 100
"""Metrics of more classes are left out: each class is sorted on its own."""


def area_under_roc(scores: Floats, positive: npt.NDArray[np.bool_]) -> Ranking:
    """Return the share of pairs of a positive and another example in which the positive one has the higher score.

    Args:
        scores: `(examples,)`; equal scores count half.
        positive: `(examples,)`, some and not all of them.
    """
    from scipy.stats import rankdata

    ranks, own, others = (rankdata(part) for part in (scores, scores[positive], scores[~positive]))
    beaten = (ranks[positive] - own) / len(others)  # of each positive example, the share of others below it
    beating = 1 - (ranks[~positive] - others) / len(own)  # of each other example, the share of positive ones above it
    value = float(beaten.mean())
    slope = np.empty(len(scores))
    slope[positive], slope[~positive] = (beaten - value) / len(own), (beating - value) / len(others)
    return value, slope


def precision_over_recall(scores: Floats, positive: npt.NDArray[np.bool_]) -> Ranking:
    """Return average precision: the mean of the precision at the score of each positive example.

    Args:
        scores: `(examples,)`; equal scores are retrieved together, as in scikit-learn.
        positive: `(examples,)`, at least one of them.
    """
    _, entry = np.unique(-scores, return_inverse=True)
    hits = np.bincount(entry, positive)
    right, retrieved = hits.cumsum(), np.bincount(entry).cumsum()
    precision, total = right / retrieved, hits.sum()
    value = float((hits * precision).sum() / total)
    # One more example raises the numbers right and retrieved at its own score and at all lower ones.
    more_right = (hits / retrieved)[::-1].cumsum()[::-1]
    more_retrieved = (hits * precision / retrieved)[::-1].cumsum()[::-1]
    slope: Floats = positive * (precision[entry] - value + more_right[entry]) - more_retrieved[entry]
    return value, slope / total


def macro(
    of_class: Callable[[Floats, npt.NDArray[np.bool_]], Ranking], scores: Floats, members: npt.NDArray[np.bool_]
) -> Ranking:
    """Return the mean over the classes that some and not all examples have.

    Args:
        of_class: `area_under_roc` or `precision_over_recall`.
        scores: `(examples, classes)`.
        members: Whether an example has a class, of the same shape.
    """
    mixed = np.flatnonzero(members.any(axis=0) & ~members.all(axis=0))
    found = [of_class(scores[:, k], members[:, k]) for k in mixed]
    return float(np.mean([value for value, _ in found])), np.mean([slope for _, slope in found], axis=0)


def first_order(ranking: Ranking) -> Statistic:
    """Return the metric of resampled examples to first order, within 0 and 1."""
    value, slope = ranking
    return lambda weights: np.clip(value + slope @ weights, 0, 1)


def exact_average_precision(references: Array, scores: Floats) -> Statistic:
    """Return mean average precision of several labels as weighted sums over score levels.

    A level is a distinct score of a positive example, since precision counts only there. Each example belongs to the
    first level, from the top, at which it is retrieved, so that equal scores enter together, as in scikit-learn.
    """
    classes = []
    for k in np.flatnonzero(references.any(axis=0)):
        positive, descending = references[:, k] == 1, -scores[:, k]
        levels = np.unique(descending[positive])
        entry = np.searchsorted(levels, descending)
        positive_entry = np.where(positive, entry, len(levels))
        classes.append((grouping(entry, len(levels)), grouping(positive_entry, len(levels))))

    def statistic(weights: Floats) -> Floats:
        total, occurring = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for retrieving, hitting in classes:
            hits = hitting @ weights
            precision = ratio(hits.cumsum(axis=0), (retrieving @ weights).cumsum(axis=0))
            positives = hits.sum(axis=0)
            total += ratio((hits * precision).sum(axis=0), positives)
            occurring += positives > 0
        return ratio(total, occurring)

    return statistic
