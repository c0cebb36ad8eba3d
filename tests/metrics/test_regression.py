"""Metrics of numbers against scikit-learn and SciPy, and their resampled values against a loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn import metrics as sklearn_metrics

from hf_ft import UserError
from hf_ft.metrics.bootstrap import Floats, resample, resampling_weights
from hf_ft.metrics.regression import metric_values, midranks, statistics
from hf_ft.tasks.text_regression import NUMBER


def example(n: int = 30) -> tuple[Floats, Floats]:
    """Predictions and references far from 0, with many ties, that agree somewhat."""
    random = np.random.default_rng(1)
    actual = 5000.0 + random.integers(0, 9, n).astype(np.float64)
    noisy: Floats = np.round(actual + random.normal(0, 3, n))
    return noisy, actual


def by_libraries(predicted: Floats, actual: Floats) -> dict[str, float]:
    return {
        "mse": sklearn_metrics.mean_squared_error(actual, predicted),
        "mae": sklearn_metrics.mean_absolute_error(actual, predicted),
        "r2": sklearn_metrics.r2_score(actual, predicted),
        "pearson": pearsonr(actual, predicted).statistic,
        "spearman": spearmanr(actual, predicted).statistic,
    }


def test_resampling_equals_a_loop_over_the_libraries() -> None:
    """Each resample as data of its own, with examples repeated as often as they were drawn."""
    predicted, actual = example()
    drawn = resample(statistics(predicted, actual), len(actual), resamples=60, seed=3)
    weights = np.concatenate(list(resampling_weights(len(actual), 60, 3)), axis=1).astype(int)
    assert set(drawn) == set(NUMBER.metrics) == set(metric_values(predicted, actual))
    for i, counts in enumerate(weights.T):
        chosen = np.repeat(np.arange(len(actual)), counts)
        for name, value in by_libraries(predicted[chosen], actual[chosen]).items():
            assert drawn[name][i] == pytest.approx(value, abs=1e-9), name


def test_ranks_with_ties() -> None:
    numbers, counts = np.array([3.0, 1.0, 3.0, 2.0]), np.array([2, 1, 1, 3])
    repeated = rankdata(np.repeat(numbers, counts))
    firsts = np.append(0, counts.cumsum()[:-1])
    assert midranks(numbers)(counts[:, None].astype(float))[:, 0].tolist() == repeated[firsts].tolist()


def test_a_constant_has_no_correlation() -> None:
    """What is not defined is 0, without a warning, in value and resamples."""
    constant, varied = np.full(5, 7.0), np.arange(5.0)
    for predicted, actual in ((constant, varied), (varied, constant), (constant[:1], varied[:1])):
        found = metric_values(predicted, actual)
        drawn = resample(statistics(predicted, actual), len(actual), resamples=20)
        assert (found["pearson"], found["spearman"]) == (0, 0)
        assert all(np.isfinite(array).all() for array in drawn.values())
        assert not drawn["pearson"].any()
        assert not drawn["spearman"].any()


def test_direction_of_each_metric() -> None:
    predicted, actual = example()
    good, bad = metric_values(actual, actual), metric_values(predicted, actual)
    assert len(good) == 5
    for name in good:
        assert (good[name] > bad[name]) is NUMBER.higher_is_better(name)
    assert not NUMBER.higher_is_better(NUMBER.default_metric)


def test_diverged_predictions_are_told() -> None:
    with pytest.raises(UserError, match="1 of 2 predictions are NaN or infinite"):
        NUMBER.score(np.array([[1.0], [np.nan]]), [1.0, 2.0], ("price",))
