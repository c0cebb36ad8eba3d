"""Bootstrap intervals for any metric that is a function of how often each example was drawn.

Own code rather than `scipy.stats.bootstrap`: all metrics, and all models that are compared, share the same resamples,
and a resample is a column of weights, so that a thousand of them are a few matrix products.
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
"""Cells of one chunk of resampling weights (8 MiB): bounds the memory, and small enough for the cache."""

FEW = 10
"""Fewer right or wrong answers are too few to resample: of three wrong ones, every twentieth resample has none."""


@dataclass(frozen=True)
class Score:
    """The value of a metric on `n` examples, with its bootstrap interval from `low` to `high`."""

    value: float
    low: float
    high: float
    n: int


def resampling_weights(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield weights `(n, resamples)` in chunks of columns, the same whatever the size of a chunk.

    A resample is a column of weights: how often each example was drawn. Metrics are functions of weighted sums over
    examples, so that matrix products replace a loop over resamples.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // n)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(n, size=(size, n))
        cells = drawn * size + np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=n * size).reshape(n, size).astype(np.float64)


def resample(statistics: Mapping[str, Statistic], n: int, resamples: int = 1000, seed: int = 0) -> dict[str, Floats]:
    """Compute every statistic on each of `resamples` draws of `n` examples with replacement: `(resamples,)` by name.

    Raises:
        UserError: fewer than one resample.
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
    """Each value with its interval: the percentiles of its resampled values, or at the edge the exact one.

    Percentiles (Efron 1979, https://doi.org/10.1214/aos/1176344552) cover the choice of the examples scored, not of
    training seeds. Resampling biases some metrics; where the percentiles leave the value outside, the interval is
    widened. Where every answer is right, or wrong, resamples are all alike and would say "1.0000 to 1.0000":

    - Of `shares` of the n examples (accuracy) the interval of Clopper and Pearson (1934,
      https://doi.org/10.1093/biomet/26.4.404) is used where fewer than ten are right or fewer than ten wrong.
    - Other metrics between 0 and 1 get, at exactly 0 or 1, the interval of a share of `sizes[name]` examples: of as
      many as their value is an average of. See `even_size` for averages over classes.
    - Losses, errors and correlations are not in `sizes`: nothing bounds what was not seen, so theirs are percentiles.

    Raises:
        UserError: a confidence outside 0 to 1.
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
    """How many examples in equal classes would make a mean over classes as sure as examples in `counts` do.

    A mean over K classes varies as the sum of 1 / count over K squared: with one example in a class it hangs on that
    one, however many the others have. Classes without examples do not count.
    """
    there = np.asarray(counts, dtype=np.float64)
    there = there[there > 0]
    return float(len(there) ** 2 / (1 / there).sum()) if len(there) else 0.0


def ratio(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, and 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
