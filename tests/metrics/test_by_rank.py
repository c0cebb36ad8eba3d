"""ROC-AUC and average precision: values, intervals against exact resampling, and where they are undefined."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_ft.errors import UserError
from hf_ft.metrics import classification as metrics
from hf_ft.metrics.bootstrap import resampling_weights
from hf_ft.metrics.by_rank import MOST_CLASSES, area_under_roc, precision_over_recall
from hf_ft.metrics.classification import METRICS, MULTI_LABEL, ONE_CLASS, SINGLE_LABEL

PAIRS = {"roc_auc": (area_under_roc, roc_auc_score), "precision": (precision_over_recall, average_precision_score)}
BY_RANK = {"roc_auc", "average_precision"}


def ranked(n: int, share: float, seed: int = 0) -> tuple[Any, Any]:
    """Scores with ties that half know which examples are positive."""
    generator = np.random.default_rng(seed)
    positive = generator.random(n) < share
    return np.round(generator.normal(size=n) + 1.5 * positive, 1), positive


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_values_and_slopes(name: str, share: float) -> None:
    """Values are scikit-learn's, and slopes its differences when one example counts a little more."""
    own, sklearn = PAIRS[name]
    scores, positive = ranked(80, share)
    value, slope = own(scores, positive)
    assert value == pytest.approx(sklearn(positive, scores), abs=1e-12)
    assert slope.sum() == pytest.approx(0, abs=1e-12)  # doubling all examples changes nothing
    for i in range(0, 80, 7):
        weights, step = np.ones(80), 1e-6
        weights[i] += step
        difference = (sklearn(positive, scores, sample_weight=weights) - value) / step
        assert slope[i] == pytest.approx(difference, abs=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_intervals_are_those_of_exact_resampling(name: str) -> None:
    """With 25 of 500 positive, both ends differ from those of resampling by less than a tenth of the interval."""
    own, sklearn = PAIRS[name]
    scores, positive = ranked(500, 0.05)
    assert 15 < positive.sum() < 40
    value, slope = own(scores, positive)
    weights = np.concatenate(list(resampling_weights(500, 400, seed=1)), axis=1)
    exact = np.quantile([sklearn(positive, scores, sample_weight=column) for column in weights.T], [0.025, 0.975])
    close = np.quantile(value + slope @ weights, [0.025, 0.975])
    assert np.abs(exact - close).max() < 0.15 * np.ptp(exact)
    assert np.ptp(exact) > 0.05


def test_of_two_classes_as_users_compute_it() -> None:
    """ROC-AUC of two classes is scikit-learn's of the second one's probability, whichever is the rare one."""
    generator = np.random.default_rng(0)
    logits, references = generator.normal(size=(60, 2)), generator.integers(2, size=60)
    scores = metrics.score(logits, references, SINGLE_LABEL, resamples=20)
    chance = metrics.class_probabilities(logits)[:, 1]
    assert scores["roc_auc"].value == pytest.approx(roc_auc_score(references, chance))
    both = average_precision_score(references, chance), average_precision_score(1 - references, 1 - chance)
    assert scores["average_precision"].value == pytest.approx(np.mean(both))
    assert 0 <= scores["roc_auc"].low < scores["roc_auc"].value < scores["roc_auc"].high <= 1


def test_a_perfect_ranking_has_an_interval() -> None:
    """All resamples are equal, so the rarest class decides how certain the value is."""
    references = np.array([0] * 55 + [1] * 5)
    logits = np.eye(2)[references] * 3
    score = metrics.score(logits, references, SINGLE_LABEL)["roc_auc"]
    assert (score.value, score.high) == (1, 1)
    assert 0.5 < score.low < 0.95


@pytest.mark.parametrize(
    ("problem_type", "references", "missing"),
    [
        (SINGLE_LABEL, np.zeros(6, dtype=int), {*BY_RANK, "mcc", "cohen_kappa", "top5_accuracy"}),
        (SINGLE_LABEL, np.array([0, 1, 0, 1, 0, 0]), {"top5_accuracy"}),
        (MULTI_LABEL, np.ones((6, 3), dtype=int), {"roc_auc"}),
        (MULTI_LABEL, np.eye(6, 3, dtype=int), set()),
    ],
)
def test_undefined_metrics_are_left_out(problem_type: str, references: Any, missing: set[str]) -> None:
    """Nowhere do they appear as a number, and the reason is known."""
    logits = np.random.default_rng(0).normal(size=(6, 3))
    whole = {*METRICS[problem_type]}
    assert {*metrics.undefined(references, 3, problem_type)} == missing
    assert {*metrics.score(logits, references, problem_type, resamples=5)} == whole - missing
    assert {*metrics.bootstrap(logits, references, problem_type, resamples=5)} == whole - missing
    prediction: Any = type("P", (), {"predictions": logits, "label_ids": references})
    assert {*metrics.compute_metrics(problem_type)(prediction)} == whole - missing
    assert not missing & {*metrics.majority_baseline(references, references, problem_type)}
    for name in missing:
        with pytest.raises(UserError, match=f"'{name}' is undefined"):
            metrics.bootstrap(logits, references, problem_type, resamples=5, names=[name])
    by_data = metrics.undefined_by_data(references, 3, problem_type)
    assert {*by_data} == missing - {"top5_accuracy"}  # which three classes never have
    if ONE_CLASS in metrics.undefined(references, 3, problem_type).values():
        assert metrics.undefined(references, 3, problem_type)["mcc"] == ONE_CLASS


def test_many_classes_are_not_ranked() -> None:
    """Sorting each of thousands of classes would take longer than training a head."""
    references = np.arange(MOST_CLASSES + 1)
    assert {*metrics.undefined(references, MOST_CLASSES, SINGLE_LABEL)} == set()
    assert {*metrics.undefined(references, MOST_CLASSES + 1, SINGLE_LABEL)} == BY_RANK


@pytest.mark.parametrize("name", ["mcc", "cohen_kappa", "roc_auc", "average_precision", "top5_accuracy"])
def test_intervals_of_ten_thousand_examples_take_a_moment(name: str) -> None:
    """Each metric takes less than two seconds with a thousand resamples."""
    generator = np.random.default_rng(0)
    references = generator.integers(10, size=10_000)
    logits = generator.normal(size=(10_000, 10)) + np.eye(10)[references]
    begun = time.process_time()
    drawn = metrics.bootstrap(logits, references, SINGLE_LABEL, names=[name])[name]
    sampling: Callable[[], Any] = lambda: sum(chunk.sum() for chunk in resampling_weights(10_000, 1000, 0))  # noqa: E731
    taken = time.process_time() - begun
    begun = time.process_time()
    sampling()
    assert taken - (time.process_time() - begun) < 2
    assert 0 < np.std(drawn) < 0.02
