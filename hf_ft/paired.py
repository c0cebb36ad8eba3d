"""Paired comparison of methods that were scored on the same test examples, over several seeds.

Two things make a score uncertain: which examples were scored, and which seed trained. The first is resampled (Efron
1979, https://doi.org/10.1214/aos/1176344552). Of the second there are too few to resample: three seeds drawn with
replacement are one seed three times in every ninth draw, and the interval ends at the most extreme of them. So seeds
come in by their standard error and Student's t, and the two reach as far together as the root of the sum of their
squares (limits recovered for each part alone: Zou and Donner 2008, https://doi.org/10.1002/sim.3095).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_ft.resampling import Floats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """How much one method scores above another: mean over seeds, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Whether the interval holds zero: the two cannot be told apart."""
        return self.low <= 0 <= self.high


def mean_interval(values: Sequence[float], draws: Sequence[Floats]) -> Difference:
    """The mean score over seeds with its interval over test examples and, where there are several, seeds.

    Args:
        values: the score of each seed.
        draws: for each seed the score on resamples of the test examples `(resamples,)`.
    """
    return _interval(values, np.stack(draws))


def difference(
    values: Sequence[float], draws: Sequence[Floats], others: Sequence[float], other_draws: Sequence[Floats]
) -> Difference:
    """By how much the first method scores above the second, paired by test example and by seed.

    Arguments as in `mean_interval`, seeds in the same order; resample number k of every seed and method has to be of
    the same examples, as `Target.bootstrap` makes them. One seed says nothing of how far seeds differ: the interval is
    that of the examples alone.
    """
    return _interval(np.subtract(values, others).tolist(), np.stack(draws) - np.stack(other_draws))


def _interval(values: Sequence[float], draws: Floats) -> Difference:
    tail = (1 - CONFIDENCE) / 2
    value, ends = float(np.mean(values)), np.quantile(draws.mean(axis=0), (tail, 1 - tail))
    below, above = (_reach(max(0.0, side), values) for side in (value - float(ends[0]), float(ends[1]) - value))
    return Difference(value, value - below, value + above)


def _reach(examples: float, values: Sequence[float]) -> float:
    """How far the interval goes to one side, of which examples alone make so much."""
    from scipy.stats import t

    count = len(values)
    if count == 1:
        return examples
    return float(np.hypot(examples, t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)))
