"""Counts of examples by class in resamples, and the metrics that are formulas of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hf_ft.metrics.bootstrap import Floats, ratio

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array: TypeAlias = npt.NDArray[Any]


def grouping(groups: Array, count: int, values: Floats | None = None) -> csr_array:
    """Return the matrix `(count, examples)` that sums over groups; group ids of `count` or more are ignored."""
    from scipy.sparse import csr_array

    inside = np.flatnonzero(groups < count)
    entries = np.ones(len(inside)) if values is None else values[inside]
    return csr_array((entries, (groups[inside], inside)), shape=(count, len(groups)))


@dataclass(frozen=True)
class Counts:
    """Numbers of right, predicted and actual examples of each class in each resample, each `(classes, resamples)`."""

    right: Floats
    predicted: Floats
    actual: Floats

    @property
    def pooled(self) -> Counts:
        """All classes as one, for micro averages."""
        return Counts(*(counts.sum(axis=0) for counts in (self.right, self.predicted, self.actual)))

    @property
    def f1(self) -> Floats:
        """The harmonic mean of precision and recall; 0 for a class that is neither predicted nor actual."""
        return ratio(2 * self.right, self.predicted + self.actual)

    @property
    def precision(self) -> Floats:
        """The proportion of predicted examples that are right."""
        return ratio(self.right, self.predicted)

    @property
    def recall(self) -> Floats:
        """The proportion of actual examples that are predicted."""
        return ratio(self.right, self.actual)

    @property
    def by_chance(self) -> Floats:
        """The number of examples times that of right ones if predictions were drawn at random, `(resamples,)`."""
        found: Floats = (self.predicted * self.actual).sum(axis=0)
        return found

    @property
    def matthews(self) -> Floats:
        """Matthews correlation of exclusive classes (Gorodkin 2004); 0 if all predictions or references are equal."""
        n = self.actual.sum(axis=0)
        spread = (n**2 - (self.predicted**2).sum(axis=0)) * (n**2 - (self.actual**2).sum(axis=0))
        return ratio(n * self.right.sum(axis=0) - self.by_chance, np.sqrt(spread.clip(0)))

    @property
    def kappa(self) -> Floats:
        """Cohen's kappa of exclusive classes: how far above chance the share of right predictions is."""
        n = self.actual.sum(axis=0)
        return ratio(n * self.right.sum(axis=0) - self.by_chance, n**2 - self.by_chance)

    def macro(self, by_class: Floats) -> Floats:
        """Return the mean over the classes that occur; the others must be 0 in `by_class`."""
        occurring = (self.predicted + self.actual > 0).sum(axis=0)
        return ratio(by_class.sum(axis=0), occurring.astype(np.float64))

    def weighted(self, by_class: Floats) -> Floats:
        """Return the mean over classes, weighted by their number of actual examples."""
        return ratio((by_class * self.actual).sum(axis=0), self.actual.sum(axis=0))
