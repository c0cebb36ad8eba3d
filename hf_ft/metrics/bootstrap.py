"""Bootstrap intervals for any metric that is a function of example weights.

Own code rather than `scipy.stats.bootstrap`, because all metrics, and all models that are compared, share the same
resamples. A resample is a column of weights (how often each example was sampled), so that a thousand resamples take a
few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hf_ft.errors import UserError

Floats: TypeAlias = npt.NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Floats]
"""A metric of resampled examples: weights `(examples, resamples)` to values `(resamples,)`."""

CHUNK_CELLS = 2**20
"""Cells of one chunk of resampling weights (8 MiB), which bounds the memory and fits into the CPU cache."""

FEW = 10
"""Minimum number of right and of wrong predictions for percentiles: of three, every twentieth resample has none."""


@dataclass(frozen=True)
class Score:
    """The value of a metric on `n` examples, with its bootstrap interval from `low` to `high`."""

    value: float
    low: float
    high: float
    n: int


def resampling_weights(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield weights `(n, resamples)` in chunks of columns; the size of a chunk does not change them.

    A column says how often each example was sampled. Metrics are functions of weighted sums over examples, so that
    matrix products replace a loop over resamples.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // n)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(n, size=(size, n))
        cells = drawn * size + np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=n * size).reshape(n, size).astype(np.float64)


def resample(statistics: Mapping[str, Statistic], n: int, resamples: int = 1000, seed: int = 0) -> dict[str, Floats]:
    """Compute every statistic on resamples of `n` examples with replacement.

    Returns:
        Name -> values `(resamples,)`.

    Raises:
        UserError: `resamples` is below 1.
    """
    if resamples < 1:
        raise UserError(f"There must be at least 1 resample, not {resamples}.")
    drawn: dict[str, list[Floats]] = {name: [] for name in statistics}
    for weights in resampling_weights(n, resamples, seed):
        for name, statistic in statistics.items():
            drawn[name].append(statistic(weights))
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def intervals(
    values: Mapping[str, float],
    drawn: Mapping[str, Floats],
    n: int,
    confidence: float = 0.95,
    sizes: Mapping[str, float] = MappingProxyType({}),
    shares: Collection[str] = (),
) -> dict[str, Score]:
    """Return each value with its interval: percentiles of its resampled values, or an exact interval near 0 and 1.

    Percentiles (Efron 1979, https://doi.org/10.1214/aos/1176344552) cover the choice of the examples scored, not of
    training seeds. Resampling biases some metrics; if the percentiles exclude the value, the interval is widened to
    include it. If every prediction is right, or wrong, all resamples are equal, and percentiles would be "1.0000 to
    1.0000". Therefore:

    - Proportions of the n examples (accuracy) use the interval of Clopper and Pearson (1934,
      https://doi.org/10.1093/biomet/26.4.404) if fewer than ten predictions are right or fewer than ten are wrong.
    - Other metrics between 0 and 1 use, at exactly 0 or 1, the interval of a proportion of `sizes[name]` examples.
    - Losses, errors and correlations use percentiles, since they have no bound.

    Args:
        values: Metric -> value on all examples.
        drawn: Metric -> values on resamples, `(resamples,)`.
        n: The number of examples.
        confidence: The confidence level.
        sizes: Metric between 0 and 1 -> the number of examples that its value averages; see `even_size`.
        shares: The metrics that are proportions of the n examples.

    Raises:
        UserError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"The confidence must lie between 0 and 1, not {confidence}.")
    tail = (1 - confidence) / 2
    scores = {}
    for name, value in values.items():
        low, high = (float(end) for end in np.quantile(drawn[name], (tail, 1 - tail)))
        right = round(value * n)
        if name in shares and min(right, n - right) < FEW:
            low, high = _exact(right, n, confidence)
        elif name in sizes and value in (0, 1):
            reach = 1 - tail ** (1 / sizes[name]) if sizes[name] > 0 else 1.0
            low, high = min(low, value - value * reach), max(high, value + (1 - value) * reach)
        scores[name] = Score(value, min(low, value), max(high, value), n)
    return scores


def _exact(right: int, n: int, confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def even_size(counts: npt.ArrayLike) -> float:
    """Return the number of examples in equal classes with which a mean over classes has the same variance.

    The variance of a mean over K classes is proportional to the sum of 1 / count, divided by K squared: a class with a
    single example dominates it, however large the others are. Classes without examples are ignored.

    Args:
        counts: The number of examples of each class.
    """
    there = np.asarray(counts, dtype=np.float64)
    there = there[there > 0]
    return float(len(there) ** 2 / (1 / there).sum()) if len(there) else 0.0


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return `part / whole`, and 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
