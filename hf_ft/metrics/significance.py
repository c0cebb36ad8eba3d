"""Paired comparison of methods that were scored on the same test examples, over several seeds.

A score is uncertain for two reasons: the choice of the test examples and the seed of training. Examples are resampled
(Efron 1979, https://doi.org/10.1214/aos/1176344552). Seeds are too few to resample: one in nine resamples of three
seeds is one seed three times, and the interval would end at the most extreme seed. So seeds contribute their standard
error times Student's t, and the two half-widths are combined in quadrature (limits recovered for each part alone: Zou
and Donner 2008, https://doi.org/10.1002/sim.3095).

With two seeds, t has one degree of freedom and is 12.7: the interval is correct, but wider than the range of the metric
unless the two seeds agree almost exactly. Such a difference is `Difference.undecided`.

Own code, because both methods share the same resamples, and `scipy.stats.bootstrap` samples anew in each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_ft.metrics.bootstrap import Floats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """How much one method scores above another: the mean over seeds with its 95 % interval.

    `undecided` is whether the interval includes zero only because there are two seeds, which disagree.
    """

    value: float
    low: float
    high: float
    undecided: bool = False

    @property
    def noise(self) -> bool:
        """Whether the interval includes zero: the two methods are indistinguishable."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class SeedScores:
    """The scores of one method, one per seed.

    Args:
        values: The score of each seed.
        draws: For each seed, the score on resamples of the test examples, `(resamples,)`.
        ends: For each seed, the interval over examples; used if all resamples are equal because every prediction was
            right, or wrong.
    """

    values: Sequence[float]
    draws: Sequence[Floats]
    ends: Sequence[tuple[float, float]] = ()

    def reach(self) -> tuple[float, float]:
        """Return the mean half-widths of the seeds' own intervals, below and above their scores."""
        if not self.ends:
            return 0.0, 0.0
        below, above = zip(
            *((v - low, high - v) for v, (low, high) in zip(self.values, self.ends, strict=True)), strict=True
        )
        return float(np.mean(below)), float(np.mean(above))


def mean_interval(found: SeedScores) -> Difference:
    """Return the mean score over seeds, with its interval over test examples and, if there are several, over seeds."""
    return _interval(found.values, np.stack(found.draws), found.reach())


def difference(one: SeedScores, other: SeedScores) -> Difference:
    """Return how much the first method scores above the second, paired by test example and by seed.

    Both must have the same seeds in the same order, and resample k of every seed and method must contain the same
    examples, as `Target.bootstrap` ensures. With one seed, the interval is over examples alone.
    """
    (below, above), (other_below, other_above) = one.reach(), other.reach()
    reach = max(below, other_above), max(above, other_below)
    return _interval(np.subtract(one.values, other.values).tolist(), np.stack(one.draws) - np.stack(other.draws), reach)


def _interval(values: Sequence[float], draws: Floats, alike: tuple[float, float]) -> Difference:
    """Return the mean with its interval; `alike` are the half-widths to use if all resamples are equal."""
    tail = (1 - CONFIDENCE) / 2
    means = draws.mean(axis=0)
    value, ends = float(np.mean(values)), np.quantile(means, (tail, 1 - tail))
    sides = (value - float(ends[0]), float(ends[1]) - value) if np.ptp(means) > 0 else alike
    examples, seeds = [max(0.0, side) for side in sides], _reach_of_seeds(values)
    low, high = value - float(np.hypot(examples[0], seeds)), value + float(np.hypot(examples[1], seeds))
    return Difference(value, low, high, len(values) == 2 and seeds > max(examples) and low <= 0 <= high)


def _reach_of_seeds(values: Sequence[float]) -> float:
    """Return the half-width of the interval of the mean over seeds; 0 for a single seed."""
    from scipy.stats import t

    count = len(values)
    if count == 1:
        return 0.0
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
