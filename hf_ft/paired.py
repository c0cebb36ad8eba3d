"""Paired comparison of methods that were scored on the same test examples, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_ft.resampling import Floats

SEED = 0


@dataclass(frozen=True)
class Difference:
    """How much one method scores above another: mean over seeds, and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Whether the interval holds zero: the two cannot be told apart."""
        return self.low <= 0 <= self.high


def mean_interval(values: Sequence[float], draws: Sequence[Floats]) -> Difference:
    """The mean score over seeds with its interval over test examples and seeds.

    Args:
        values: the score of each seed.
        draws: for each seed the score on resamples of the test examples `(resamples,)`.
    """
    return _interval(float(np.mean(values)), np.stack(draws))


def difference(
    values: Sequence[float], draws: Sequence[Floats], others: Sequence[float], other_draws: Sequence[Floats]
) -> Difference:
    """By how much the first method scores above the second, paired by test example and by seed.

    Arguments as in `mean_interval`, seeds in the same order; resample number k of every seed and method has to be of
    the same examples, as `Target.bootstrap` makes them. Each resample draws examples and seeds, with replacement
    (Efron 1979, https://doi.org/10.1214/aos/1176344552). A few seeds tell little of how far seeds differ: with three,
    the interval is rather too narrow than too wide.
    """
    return _interval(float(np.mean(values) - np.mean(others)), np.stack(draws) - np.stack(other_draws))


def _interval(value: float, draws: Floats) -> Difference:
    seeds, resamples = draws.shape
    chosen = np.random.default_rng(SEED).integers(seeds, size=(resamples, seeds))
    means = draws[chosen, np.arange(resamples)[:, None]].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(value, min(float(low), value), max(float(high), value))
