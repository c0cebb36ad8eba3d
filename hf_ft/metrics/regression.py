"""Regression metrics: errors, explained variance and correlations, with their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from hf_ft.errors import UserError
from hf_ft.metrics.bootstrap import Floats, Score, Statistic, intervals, resample

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {"mse": False, "mae": False, "r2": True, "pearson": True, "spearman": True}
)
"""Metric -> whether a greater value is better."""


def score(outputs: Any, references: Any) -> dict[str, Score]:
    """Return every metric with its 95 % bootstrap interval.

    Args:
        outputs: Predicted numbers `(examples,)` or `(examples, 1)`.
        references: The true numbers, of the same shape.

    Raises:
        UserError: Predictions are not finite.
    """
    predicted, actual = checked_numbers(outputs), checked_numbers(references)
    drawn = resample(statistics(predicted, actual), len(actual))
    return intervals(metric_values(predicted, actual), drawn, len(actual))


def bootstrap(outputs: Any, references: Any, metric: str) -> Floats:
    """Return one metric on 1,000 resamples of the examples, `(resamples,)`."""
    found = statistics(checked_numbers(outputs), checked_numbers(references))
    return resample({metric: found[metric]}, len(references))[metric]


def checked_numbers(array: Any) -> Floats:
    """Return numbers or logits `(examples, 1)` as float64 of shape `(examples,)`.

    Raises:
        UserError: They are not finite.
    """
    flat = np.asarray(array, dtype=np.float64).reshape(-1)
    if not np.isfinite(flat).all():
        raise UserError(
            f"{int((~np.isfinite(flat)).sum())} of {len(flat)} predictions are NaN or infinite, so no metric means "
            "anything. If training diverged, lower the learning rate."
        )
    return flat


def metric_values(predicted: Floats, actual: Floats) -> dict[str, float]:
    """Return mean squared and absolute error, R2, Pearson's and Spearman's correlation, by scikit-learn and SciPy.

    R2 and the correlations are 0 where they are undefined: if all numbers are equal, or there are fewer than two.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    varied = len(actual) > 1 and bool(np.ptp(actual) > 0)
    both = varied and bool(np.ptp(predicted) > 0)
    return {
        "mse": float(mean_squared_error(actual, predicted)),
        "mae": float(mean_absolute_error(actual, predicted)),
        "r2": float(r2_score(actual, predicted)) if varied else 0.0,
        "pearson": float(pearsonr(actual, predicted).statistic) if both else 0.0,
        "spearman": float(spearmanr(actual, predicted).statistic) if both else 0.0,
    }


def statistics(predicted: Floats, actual: Floats) -> dict[str, Statistic]:
    """Return the same metrics as functions of example weights `(examples, resamples)`.

    Own code, because SciPy and scikit-learn score one sample at a time; here a thousand resamples are matrix products.
    """
    errors = predicted - actual
    # Sums of squares lose precision if the numbers are far from 0, so they are centred first.
    x, y = predicted - actual.mean(), actual - actual.mean()
    rank_x, rank_y = midranks(predicted), midranks(actual)
    return {
        "mse": lambda weights: (errors**2) @ weights / len(errors),
        "mae": lambda weights: np.abs(errors) @ weights / len(errors),
        "r2": lambda weights: _r2(errors, y, weights),
        "pearson": lambda weights: _correlation(x[:, None], y[:, None], weights),
        "spearman": lambda weights: _correlation(rank_x(weights), rank_y(weights), weights),
    }


def midranks(numbers: Floats) -> Callable[[Floats], Floats]:
    """Return a function from weights `(examples, resamples)` to the rank of each example within each resample.

    Equal numbers share the mean of their ranks, as in `scipy.stats.rankdata`, and so do the copies of an example that
    was sampled several times: the rank is the weight of all smaller numbers, plus half of (the weight of the equal
    ones + 1).
    """
    levels, level = np.unique(numbers, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(levels)))

    def ranks(weights: Floats) -> Floats:
        tied = np.add.reduceat(weights[order], starts, axis=0)
        found: Floats = (tied.cumsum(axis=0) - tied / 2 + 0.5)[level]
        return found

    return ranks


def _r2(errors: Floats, actual: Floats, weights: Floats) -> Floats:
    n = weights.sum(axis=0)
    spread = (actual**2) @ weights - (actual @ weights) ** 2 / n
    defined = spread > 1e-12 * np.maximum((actual**2) @ weights, 1e-300)
    return np.where(defined, 1 - (errors**2) @ weights / np.where(defined, spread, 1), 0.0)


def _correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Return Pearson's correlation of columns `(examples, 1 or resamples)` with weights `(examples, resamples)`."""
    n = weights.sum(axis=0)
    x = x - (x * weights).sum(axis=0) / n
    y = y - (y * weights).sum(axis=0) / n
    both, of_x, of_y = ((a * b * weights).sum(axis=0) for a, b in ((x, y), (x, x), (y, y)))
    scale = np.sqrt(of_x * of_y)
    return np.where(scale > 1e-12 * n, both / np.where(scale > 0, scale, 1), 0.0)
