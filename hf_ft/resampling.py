"""Bootstrap intervals for any metric that is a function of how often each example was drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hf_ft.lookup import UserError

Floats: TypeAlias = npt.NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Floats]
"""A metric of resampled examples: weights `(examples, resamples)` to values `(resamples,)`."""

CHUNK_CELLS = 2**20
"""Cells of one chunk of resampling weights (8 MiB): bounds the memory, and small enough for the cache."""


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
    values: Mapping[str, float], drawn: Mapping[str, Floats], n: int, confidence: float = 0.95
) -> dict[str, Score]:
    """Each value with the percentile interval of its resampled values.

    Efron 1979, https://doi.org/10.1214/aos/1176344552: it covers the choice of the examples scored, not of training
    seeds. Resampling biases some metrics; where the percentiles leave the value outside, the interval is widened.

    Raises:
        UserError: a confidence outside 0 to 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"The confidence must lie between 0 and 1, not {confidence}.")
    tail = (1 - confidence) / 2
    scores = {}
    for name, value in values.items():
        low, high = np.quantile(drawn[name], (tail, 1 - tail))
        scores[name] = Score(value, min(float(low), value), max(float(high), value), n)
    return scores


def ratio(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, and 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
