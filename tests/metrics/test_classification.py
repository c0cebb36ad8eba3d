"""The metrics against scikit-learn, hand-computed values, and loops that are too slow to be wrong."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from hf_ft.errors import UserError
from hf_ft.metrics import bootstrap as resampling
from hf_ft.metrics import classification as metrics
from hf_ft.metrics.classification import METRICS, MULTI_LABEL, SINGLE_LABEL, Array
from hf_ft.tasks.classes import MULTI, SINGLE

PROBLEM_TYPES = [SINGLE_LABEL, MULTI_LABEL]
TARGETS = {SINGLE_LABEL: SINGLE, MULTI_LABEL: MULTI}
THRESHOLD = 0.4


def softmax(logits: Array) -> Array:
    return np.array([[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits])


def sigmoid(logits: Array) -> Array:
    return np.array([[1 / (1 + math.exp(-x)) for x in row] for row in logits])


def naive_ece(references: Array, logits: Array) -> float:
    """Guo et al. 2017, equations 2 to 3 and 5, word by word."""
    probabilities = softmax(logits)
    confidence, predicted = probabilities.max(axis=1), logits.argmax(axis=1)
    total = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            accuracy = np.mean(predicted[inside] == references[inside])
            total += inside.sum() / len(references) * abs(accuracy - confidence[inside].mean())
    return float(total)


def naive_map(references: Array, logits: Array) -> float:
    columns = [k for k in range(references.shape[1]) if references[:, k].any()]
    by_class = [sklearn_metrics.average_precision_score(references[:, k], logits[:, k]) for k in columns]
    return float(np.mean(by_class)) if by_class else 0.0


def naive_macro_f1(references: Array, predicted: Array) -> float:
    occurring = np.flatnonzero(references.any(axis=0) | predicted.any(axis=0))
    if not len(occurring):
        return 0.0
    by_class = sklearn_metrics.f1_score(references, predicted, average=None, zero_division=0)
    return float(by_class[occurring].mean())


def probabilities(logits: Array) -> Array:
    """By SciPy, so that equal probabilities are equal."""
    found: Array = scipy_softmax(logits, axis=1)
    return found


def by_rank(members: Array, scores: Array) -> dict[str, float]:
    """Means over the classes that some and not all examples have, class by class."""
    columns = [k for k in range(members.shape[1]) if 0 < members[:, k].sum() < len(members)]
    roc = [sklearn_metrics.roc_auc_score(members[:, k], scores[:, k]) for k in columns]
    precision = [sklearn_metrics.average_precision_score(members[:, k], scores[:, k]) for k in columns]
    return {"roc_auc": float(np.mean(roc)), "average_precision": float(np.mean(precision))}


def by_scikit_learn(references: Array, logits: Array, problem_type: str, ranked: bool = True) -> dict[str, float]:
    """Every metric by a call of its own, written apart from the package."""
    f1 = sklearn_metrics.f1_score
    precision, recall = sklearn_metrics.precision_score, sklearn_metrics.recall_score
    if problem_type == SINGLE_LABEL:
        predicted, classes = logits.argmax(axis=1), list(range(logits.shape[1]))
        return {
            "accuracy": sklearn_metrics.accuracy_score(references, predicted),
            "f1_macro": f1(references, predicted, average="macro", zero_division=0),
            "f1_weighted": f1(references, predicted, average="weighted", zero_division=0),
            "precision_macro": precision(references, predicted, average="macro", zero_division=0),
            "recall_macro": recall(references, predicted, average="macro", zero_division=0),
            "mcc": sklearn_metrics.matthews_corrcoef(references, predicted),
            "cohen_kappa": sklearn_metrics.cohen_kappa_score(references, predicted),
            **(by_rank(np.eye(len(classes))[references], probabilities(logits)) if ranked else {}),
            "top5_accuracy": sklearn_metrics.top_k_accuracy_score(references, logits, k=5, labels=classes),
            "log_loss": sklearn_metrics.log_loss(references, softmax(logits), labels=classes),
            "ece": naive_ece(references, logits),
        }
    predicted = (sigmoid(logits) >= THRESHOLD).astype(int)
    columns = zip(references.T, sigmoid(logits).T, strict=True)
    losses = [sklearn_metrics.log_loss(actual, probable, labels=[0, 1]) for actual, probable in columns]
    return {
        "f1_micro": f1(references, predicted, average="micro", zero_division=0),
        "f1_macro": naive_macro_f1(references, predicted),
        "precision_micro": precision(references, predicted, average="micro", zero_division=0),
        "recall_micro": recall(references, predicted, average="micro", zero_division=0),
        "subset_accuracy": sklearn_metrics.accuracy_score(references, predicted),
        "map": naive_map(references, logits),
        "roc_auc": by_rank(references, logits)["roc_auc"],
        "log_loss": np.mean(losses),
    }


RESAMPLED_TO_FIRST_ORDER = {"roc_auc", "average_precision"}


CLASSES = {SINGLE_LABEL: 9, MULTI_LABEL: 5}
CHANCE_CORRECTED = {"mcc", "cohen_kappa", "roc_auc", "average_precision"}


def example(problem_type: str, n: int = 60, classes: int | None = None, seed: int = 0) -> tuple[Array, Array]:
    """Logits with many ties, one class that nobody has, and references that the logits half know."""
    generator, classes = np.random.default_rng(seed), classes or CLASSES[problem_type]
    if problem_type == SINGLE_LABEL:
        references = generator.integers(classes - 1, size=n)
        truth = np.eye(classes)[references]
    else:
        references = (generator.random((n, classes)) < 0.3).astype(int)
        references[:, -1] = 0
        truth = references.astype(float)
    logits = generator.normal(size=(n, classes)) + 1.5 * truth - 0.5
    return np.round(logits, 1), references


def naive_bootstrap(logits: Array, references: Array, problem_type: str, resamples: int) -> dict[str, Array]:
    """One loop over resamples: each example repeated as often as it was drawn."""
    chunks = resampling.resampling_weights(len(logits), resamples, seed=3)
    columns = np.concatenate(list(chunks), axis=1).T.astype(int)
    assert columns.shape == (resamples, len(logits))
    assert (columns.sum(axis=1) == len(logits)).all()
    drawn = [np.repeat(np.arange(len(logits)), counts) for counts in columns]
    values = [by_scikit_learn(references[chosen], logits[chosen], problem_type) for chosen in drawn]
    return {name: np.array([value[name] for value in values]) for name in values[0]}


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    """No metric may warn: there would be nothing for the user to do."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Their own, on import or in writing to Arrow, not about metrics.
        warnings.filterwarnings("default", category=DeprecationWarning)
        warnings.filterwarnings("default", category=FutureWarning)
        yield


# Values.


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("seed", range(5))
def test_values_equal_scikit_learn(problem_type: str, seed: int) -> None:
    logits, references = example(problem_type, seed=seed)
    assert len(np.unique(logits)) < logits.size / 2, "the example must hold ties"
    scores = metrics.score(logits, references, problem_type, THRESHOLD, resamples=1)
    expected = by_scikit_learn(references, logits, problem_type)
    assert list(scores) == list(METRICS[problem_type])
    assert set(scores) == set(expected)
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=1e-12), name
        assert scores[name].n == 60


def test_ece_by_hand() -> None:
    # Confidences 0.9, 0.9 (one right): bin 14, gap |0.5 - 0.9|. 0.6 (right): bin 9, gap 0.4. Weighted: 0.4.
    confidence = np.array([0.9, 0.9, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    scores = metrics.score(logits, np.array([0, 1, 0]), SINGLE_LABEL, resamples=1)
    assert scores["ece"].value == pytest.approx((2 * 0.4 + 1 * 0.4) / 3)


def test_ece_cancels_within_a_bin_but_not_between_bins() -> None:
    confidence = np.array([0.75, 0.75, 0.75, 0.75])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    calibrated = metrics.score(logits, np.array([0, 0, 0, 1]), SINGLE_LABEL, resamples=1)["ece"]
    assert calibrated.value == pytest.approx(0)
    overconfident = metrics.score(logits, np.array([1, 1, 1, 1]), SINGLE_LABEL, resamples=1)["ece"]
    assert overconfident.value == pytest.approx(0.75)


def test_map_takes_equal_scores_together() -> None:
    logits = np.array([[2.0], [1.0], [1.0], [0.0]])
    first = metrics.score(logits, np.array([[0], [1], [0], [1]]), MULTI_LABEL, resamples=1)["map"].value
    second = metrics.score(logits, np.array([[0], [0], [1], [1]]), MULTI_LABEL, resamples=1)["map"].value
    assert first == second == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_one_class_multi_label_is_not_scored_as_two_classes() -> None:
    logits, references = np.array([[3.0], [3.0], [-3.0], [-3.0]]), np.array([[1], [0], [0], [0]])
    scores = metrics.score(logits, references, MULTI_LABEL, resamples=50)
    assert scores["f1_micro"].value == scores["f1_macro"].value == pytest.approx(2 / 3)
    assert scores["precision_micro"].value == pytest.approx(1 / 2)


def test_validation_may_lack_a_class() -> None:
    # Class 2 exists for the model, but nobody has it and nobody predicts it: it does not lower the average.
    logits = np.array([[5.0, 0, -1], [0, 5, -1], [5, 0, -1]])
    for references in (np.array([0, 1, 0]), np.array([0, 1, 1])):
        scores = metrics.score(logits, references, SINGLE_LABEL, resamples=20)
        predicted = logits.argmax(axis=1)
        expected = sklearn_metrics.f1_score(references, predicted, average="macro", labels=[0, 1])
        assert scores["f1_macro"].value == pytest.approx(expected)
    assert metrics.score(logits, np.array([0, 1, 0]), SINGLE_LABEL, resamples=20)["recall_macro"].value == 1
    # The same rule for multi-label, where scikit-learn left alone counts the class as a failure.
    rows = np.eye(3, dtype=int)[[0, 1, 0]]
    scores = metrics.score(np.where(rows, 5.0, -5.0), rows, MULTI_LABEL, resamples=20)
    assert scores["f1_macro"].value == scores["map"].value == 1
    drawn = metrics.bootstrap(np.where(rows, 5.0, -5.0), rows, MULTI_LABEL, resamples=20)
    assert drawn["f1_macro"].min() == drawn["map"].min() == 1


# Intervals.


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_resampling_equals_a_loop_over_scikit_learn(problem_type: str) -> None:
    logits, references = example(problem_type, n=24)
    vectorised = metrics.bootstrap(logits, references, problem_type, THRESHOLD, resamples=80, seed=3)
    naive = naive_bootstrap(logits, references, problem_type, resamples=80)
    assert set(vectorised) == set(naive) == set(METRICS[problem_type])
    for name in {*naive} - RESAMPLED_TO_FIRST_ORDER:
        np.testing.assert_allclose(vectorised[name], naive[name], rtol=0, atol=1e-9, err_msg=name)
        assert len(np.unique(naive[name])) > 5, f"{name} must vary for the comparison to mean anything"


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_interval_is_the_percentiles_of_the_loop(problem_type: str) -> None:
    logits, references = example(problem_type, n=24)
    scores = metrics.score(logits, references, problem_type, THRESHOLD, resamples=80, seed=3, confidence=0.8)
    for name, drawn in naive_bootstrap(logits, references, problem_type, resamples=80).items():
        low, high = np.percentile(drawn, [10, 90])
        if name in RESAMPLED_TO_FIRST_ORDER | {"accuracy", "subset_accuracy", "top5_accuracy"}:
            continue  # shares of 24 examples have the exact interval, see below; for the others see test_by_rank
        assert scores[name].low == pytest.approx(min(low, scores[name].value), abs=1e-6), name
        assert scores[name].high == pytest.approx(max(high, scores[name].value), abs=1e-6), name


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_chunk_size_changes_no_resample(problem_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, references = example(problem_type, n=31)
    whole = metrics.bootstrap(logits, references, problem_type, resamples=50)
    monkeypatch.setattr(resampling, "CHUNK_CELLS", 31 * 7)
    chunks = [chunk.shape for chunk in resampling.resampling_weights(31, 50, seed=0)]
    assert chunks == [(31, 7)] * 7 + [(31, 1)]
    for name, drawn in metrics.bootstrap(logits, references, problem_type, resamples=50).items():
        np.testing.assert_allclose(drawn, whole[name], rtol=0, atol=1e-12, err_msg=name)


def test_weights_are_draws_with_replacement() -> None:
    weights = np.concatenate(list(resampling.resampling_weights(50, 4000, seed=0)), axis=1)
    assert weights.shape == (50, 4000)
    assert (weights.sum(axis=0) == 50).all()
    assert weights.mean(axis=1) == pytest.approx(np.ones(50), abs=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.02)
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_interval_contains_the_value_and_shrinks_with_n(problem_type: str) -> None:
    small = metrics.score(*example(problem_type, n=100), problem_type, THRESHOLD, resamples=400)
    large = metrics.score(*example(problem_type, n=1600), problem_type, THRESHOLD, resamples=400)
    for scores in (small, large):
        for name, score in scores.items():
            assert score.low <= score.value <= score.high, name
    for name in small:
        ratio = (small[name].high - small[name].low) / (large[name].high - large[name].low)
        assert 2 < ratio < 8, f"{name}: sixteen times the examples must make it about four times narrower"


def test_interval_of_accuracy_is_the_binomial_one() -> None:
    references = np.zeros(400, dtype=int)
    logits = np.tile([0.0, 1.0], (400, 1))
    logits[:300, 0] = 2
    score = metrics.score(logits, references, SINGLE_LABEL, resamples=4000)["accuracy"]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert score.value == 0.75
    assert (score.low, score.high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.005)


def test_interval_includes_the_value_of_a_biased_metric() -> None:
    """A calibrated model has almost no ece, and all of its resamples have more."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.55, 0.95, size=2000)
    references = (generator.random(2000) > confidence).astype(int)
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    drawn = metrics.bootstrap(logits, references, SINGLE_LABEL, resamples=200)["ece"]
    score = metrics.score(logits, references, SINGLE_LABEL, resamples=200, confidence=0.5)["ece"]
    assert score.value < np.percentile(drawn, 25)
    assert score.low == score.value
    assert score.high == pytest.approx(np.percentile(drawn, 75))


def test_same_seed_same_interval_and_paired_draws() -> None:
    logits, references = example(SINGLE_LABEL)
    first = metrics.score(logits, references, SINGLE_LABEL, resamples=50)
    assert first == metrics.score(logits, references, SINGLE_LABEL, resamples=50)
    assert first != metrics.score(logits, references, SINGLE_LABEL, resamples=50, seed=1)
    drawn = metrics.bootstrap(logits, references, SINGLE_LABEL, resamples=50)["accuracy"]
    other = metrics.bootstrap(logits + 1.0, references, SINGLE_LABEL, resamples=50)["accuracy"]
    np.testing.assert_array_equal(drawn, other)


# Degenerate input.


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_one_example(problem_type: str) -> None:
    references = np.array([1]) if problem_type == SINGLE_LABEL else np.array([[0, 1]])
    for name, score in metrics.score(np.array([[-2.0, 2.0]]), references, problem_type).items():
        low = score.value if name in ("log_loss", "ece") else 0.025
        assert score.low == pytest.approx(low), name
        assert score.high == pytest.approx(score.value), name
        assert score.n == 1


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
@pytest.mark.parametrize("all_right", [True, False])
def test_intervals_hold_where_all_are_right_or_all_wrong(problem_type: str, all_right: bool) -> None:
    """Of 100 answers in 4 equal classes: the interval of Clopper and Pearson, from 0.9638 to 1 or 0 to 0.0362."""
    ids = np.arange(100) % 4
    references = ids if problem_type == SINGLE_LABEL else np.eye(4, dtype=int)[ids]
    answers = ids if all_right else (ids + 1) % 4
    scores = metrics.score(np.eye(4)[answers] * 12 - 6, references, problem_type)
    exact = binomtest(100 if all_right else 0, 100).proportion_ci(0.95, "exact")
    assert exact.high - exact.low == pytest.approx(0.0362, abs=1e-4)
    others = {"log_loss", "ece", "map", *(() if all_right else CHANCE_CORRECTED)}  # wrong is not 0 by chance
    shares = {name: score for name, score in scores.items() if name not in others}
    assert len(shares) >= 5
    for name, score in shares.items():
        assert score.value == all_right, name
        # Where classes are confused in a ring, those that a class is taken for count to its examples as well.
        width = exact.high - exact.low if all_right or "macro" not in name else 1 - 0.025 ** (1 / 200)
        assert score.high - score.low == pytest.approx(width, rel=1e-6), name
    if problem_type == MULTI_LABEL and all_right:
        assert scores["map"].low == pytest.approx(exact.low)


def test_a_class_with_one_example_leaves_an_average_over_classes_unsure() -> None:
    """100 right answers, of which one class has one: accuracy is sure to 0.036, the mean of two classes hardly."""
    references = np.array([0] * 99 + [1])
    scores = metrics.score(np.eye(2)[references], references, SINGLE_LABEL)
    assert scores["accuracy"].low == pytest.approx(0.9638, abs=1e-4)
    assert scores["f1_weighted"].low == pytest.approx(0.9638, abs=1e-4)
    assert scores["recall_macro"].low == pytest.approx(0.025 ** ((1 + 1 / 99) / 4), abs=1e-4)
    assert resampling.even_size([25, 25, 25, 25, 0]) == 100
    assert resampling.even_size([0, 0]) == 0


@pytest.mark.parametrize("wrong", range(13))
def test_interval_of_accuracy_near_the_edge(wrong: int) -> None:
    """One mistake more never makes the interval surer; ends are exact as long as fewer than ten are wrong."""
    references = np.zeros(60, dtype=int)
    logits = np.eye(2)[(np.arange(60) < wrong).astype(int)]
    score = metrics.score(logits, references, SINGLE_LABEL)["accuracy"]
    fewer = metrics.score(np.eye(2)[(np.arange(60) < wrong - 1).astype(int)], references, SINGLE_LABEL)["accuracy"]
    assert score.low <= fewer.low
    exact = binomtest(60 - wrong, 60).proportion_ci(0.95, "exact")
    if wrong < 10:
        assert (score.low, score.high) == pytest.approx((exact.low, exact.high))
    else:
        assert (score.low, score.high) == pytest.approx((exact.low, exact.high), abs=0.03)


def test_a_single_class_in_the_references() -> None:
    logits, _ = example(SINGLE_LABEL)
    references = np.full(len(logits), 2)
    scores = metrics.score(logits, references, SINGLE_LABEL, resamples=20)
    defined = set(METRICS[SINGLE_LABEL]) - CHANCE_CORRECTED
    values = by_scikit_learn(references, logits, SINGLE_LABEL, ranked=False)
    assert set(scores) == defined
    for name in defined:
        assert scores[name].value == pytest.approx(values[name]), name


def test_no_positives_at_all() -> None:
    scores = metrics.score(np.full((4, 3), -9.0), np.zeros((4, 3), dtype=int), MULTI_LABEL, resamples=20)
    assert {name: score.value for name, score in scores.items() if name != "log_loss"} == {
        "f1_micro": 0,
        "f1_macro": 0,
        "precision_micro": 0,
        "recall_micro": 0,
        "subset_accuracy": 1,
        "map": 0,
    }
    assert all(math.isfinite(score.low) and math.isfinite(score.high) for score in scores.values())


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_saturated_probabilities_cost_a_finite_loss(problem_type: str) -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]])
    references = np.array([0, 1]) if problem_type == SINGLE_LABEL else np.array([[1, 0], [0, 1]])
    score = metrics.score(logits, references, problem_type, resamples=200)["log_loss"]
    worst = -math.log(np.finfo(np.float64).eps)
    assert score.value == pytest.approx(worst / 2)
    assert score.low == pytest.approx(0, abs=1e-12)
    assert score.high == pytest.approx(worst)


def test_few_examples_per_class_raise_no_warning() -> None:
    logits, references = np.eye(40) * 9, np.arange(40)
    assert metrics.score(logits, references, SINGLE_LABEL, resamples=5)["f1_macro"].value == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_not_finite_logits_say_so(broken: float) -> None:
    logits, references = example(SINGLE_LABEL)
    logits[[7, 9], 1] = broken
    message = "logits of 2 of 60 examples are NaN or infinite .first: example 7."
    with pytest.raises(ValueError, match=message):
        metrics.score(logits, references, SINGLE_LABEL)
    with pytest.raises(ValueError, match=message):
        metrics.compute_metrics(SINGLE_LABEL)(prediction(logits, references))
    with pytest.raises(ValueError, match=message):
        metrics.fit_threshold(logits, np.ones(logits.shape))


@pytest.mark.parametrize(
    ("problem_type", "logits", "references", "message"),
    [
        (SINGLE_LABEL, np.zeros(3), np.zeros(3, int), r"shape \(examples, classes\), neither 0, not \(3,\)"),
        (SINGLE_LABEL, np.zeros((0, 2)), np.zeros(0, int), r"neither 0, not \(0, 2\)"),
        (SINGLE_LABEL, np.zeros((3, 2)), np.zeros(2, int), r"must have the shape \(3,\), not \(2,\)"),
        (SINGLE_LABEL, np.zeros((3, 2)), np.zeros(3), "integer class ids, not float64"),
        (SINGLE_LABEL, np.zeros((3, 2)), np.array([0, 2, -100]), "between 0 and 1, not -100, 2"),
        (MULTI_LABEL, np.zeros((3, 2)), np.zeros(3, int), r"must have the shape \(3, 2\), not \(3,\)"),
        (MULTI_LABEL, np.zeros((1, 2)), np.array([[0.5, 1]]), r"must be 0 or 1, not 0\.5"),
    ],
)
def test_input_that_does_not_fit(problem_type: str, logits: Array, references: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.score(logits, references, problem_type)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"threshold": 1.5}, r"between 0 and 1, not 1\.5"),
        ({"confidence": 95}, "between 0 and 1, not 95"),
        ({"resamples": 0}, "at least 1 resample, not 0"),
    ],
)
def test_numbers_out_of_range(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.score(*example(MULTI_LABEL), MULTI_LABEL, **option)


# Threshold.


def micro_f1(logits: Array, references: Array, threshold: float) -> float:
    predicted = (sigmoid(logits) >= threshold).astype(int)
    return float(sklearn_metrics.f1_score(references.ravel(), predicted.ravel(), zero_division=0))


@pytest.mark.parametrize("seed", range(20))
def test_threshold_equals_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, references = example(MULTI_LABEL, n=int(generator.integers(1, 15)), classes=4, seed=seed)
    logits = logits + generator.normal()
    threshold = metrics.fit_threshold(logits, references)
    levels = np.unique(sigmoid(logits))
    candidates = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2, [0.5, levels[0] / 2]])
    values = np.array([micro_f1(logits, references, candidate) for candidate in candidates])
    assert 0 <= threshold <= 1
    assert micro_f1(logits, references, threshold) == pytest.approx(values.max(), abs=1e-12)
    if micro_f1(logits, references, 0.5) == values.max():
        assert threshold == 0.5, "0.5 stays when nothing is better"


def test_threshold_lies_between_the_scores_it_separates() -> None:
    logits = np.log([[0.9 / 0.1, 0.8 / 0.2], [0.7 / 0.3, 0.6 / 0.4]])
    assert metrics.fit_threshold(logits, np.array([[1, 1], [0, 0]])) == pytest.approx(0.75)


def test_threshold_separates_neighbouring_floats() -> None:
    upper = np.nextafter(0.75, 1)
    assert (upper + 0.75) / 2 == 0.75, "the middle must round down for this to mean anything"
    assert metrics._thresholds_between(np.array([upper, 0.75]))[1] == upper


def test_threshold_breaks_ties_towards_one_half() -> None:
    # Predicting the first alone (2/3) or all four (4/6) is equally good; 0.85 and 0.075 are their middles.
    logits = np.log([[0.9 / 0.1, 0.8 / 0.2, 0.2 / 0.8, 0.15 / 0.85]])
    references = np.array([[1, 0, 0, 1]])
    assert micro_f1(logits, references, 0.85) == micro_f1(logits, references, 0.075) == pytest.approx(2 / 3)
    assert metrics.fit_threshold(logits, references) == pytest.approx(0.85)


@pytest.mark.parametrize("shift", [-1000.0, -3.0, 0.0, 3.0, 1000.0])
def test_threshold_of_extreme_input_is_a_probability(shift: float) -> None:
    logits = np.array([[0.0, 0.5], [-0.5, 0.2]]) + shift
    assert metrics.fit_threshold(logits, np.zeros((2, 2))) == 0.5
    threshold = metrics.fit_threshold(logits, np.ones((2, 2)))
    assert 0 <= threshold <= 1
    assert metrics.score(logits, np.ones((2, 2)), MULTI_LABEL, threshold, resamples=1)["f1_micro"].value == 1


# Directions and names.


def test_directions() -> None:
    lower = {name for specs in METRICS.values() for name, spec in specs.items() if not spec.higher_is_better}
    assert lower == {"log_loss", "ece"}
    checked = 0
    for problem_type, specs in METRICS.items():
        for name, spec in specs.items():
            assert (spec.name, spec.problem_type) == (name, problem_type)
            assert TARGETS[problem_type].higher_is_better(name) is spec.higher_is_better
            checked += 1
        assert not TARGETS[problem_type].higher_is_better("loss")
    assert checked == sum(map(len, METRICS.values())) >= 20


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_direction_agrees_with_a_better_model(problem_type: str) -> None:
    logits, references = example(problem_type, n=200)
    truth = np.eye(CLASSES[problem_type])[references] if problem_type == SINGLE_LABEL else references
    better, worse = np.where(truth, 6.0, -6.0), -np.where(truth, 6.0, -6.0)
    good, bad = (metrics.score(x, references, problem_type, resamples=1) for x in (better, worse))
    for name, spec in METRICS[problem_type].items():
        assert (good[name].value > bad[name].value) is spec.higher_is_better, name
    assert logits.shape == better.shape


def test_default_metric_exists() -> None:
    assert metrics.default_metric(SINGLE_LABEL) == "accuracy"
    assert metrics.default_metric(MULTI_LABEL) == "f1_micro"
    assert all(metrics.default_metric(problem_type) in METRICS[problem_type] for problem_type in METRICS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SINGLE.higher_is_better("acuracy"), "Unknown metric of single_label.*'acuracy'.*'accuracy'"),
        (lambda: metrics.compute_metrics("single_label"), "problem type 'single_label'.*'single_label_class"),
        (lambda: metrics.default_metric("regression"), "problem type 'regression'"),
        (lambda: metrics.score(np.zeros((1, 2)), [0], "multi_label"), "problem type 'multi_label'"),
        (lambda: metrics.majority_baseline([0], [0], "multi"), "problem type 'multi'"),
    ],
)
def test_unknown_names_say_what_exists(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


# Trainer.


def prediction(logits: Any, references: Array) -> Any:
    return SimpleNamespace(predictions=logits, label_ids=references)


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_compute_metrics_equals_score(problem_type: str) -> None:
    logits, references = example(problem_type)
    threshold = metrics.fit_threshold(logits, references) if problem_type == MULTI_LABEL else 0.5
    scores = metrics.score(logits, references, problem_type, threshold, resamples=1)
    compute = metrics.compute_metrics(problem_type)
    values = compute(prediction(logits, references))
    assert values == {name: score.value for name, score in scores.items()}
    assert all(type(value) is float for value in values.values()), "Trainer writes them as JSON"
    assert compute(prediction((logits, np.zeros((len(logits), 2, 8))), references)) == values


def test_compute_metrics_takes_what_trainer_gives() -> None:
    logits, references = example(MULTI_LABEL)
    in_float32 = prediction(logits.astype(np.float32), references.astype(np.float32))
    values = metrics.compute_metrics(MULTI_LABEL)(in_float32)
    threshold = metrics.fit_threshold(logits, references)
    scores = metrics.score(logits, references, MULTI_LABEL, threshold, resamples=1)
    assert values == {name: pytest.approx(score.value, abs=1e-6) for name, score in scores.items()}


# Baseline.


def test_majority_baseline_single_label() -> None:
    baseline = metrics.majority_baseline([2, 2, 1, 0], [2, 2, 2, 1, 3], SINGLE_LABEL)
    assert set(baseline) == {name for name, spec in METRICS[SINGLE_LABEL].items() if spec.reads == "labels"}
    assert baseline["mcc"] == baseline["cohen_kappa"] == 0
    assert baseline["accuracy"] == pytest.approx(3 / 5)
    assert baseline["recall_macro"] == pytest.approx(1 / 3)
    assert baseline["f1_macro"] == pytest.approx((2 * 3 / (5 + 3)) / 3)


def test_majority_baseline_multi_label_takes_classes_of_more_than_half() -> None:
    train = [[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1]]
    baseline = metrics.majority_baseline(train, [[1, 0, 0], [0, 0, 1]], MULTI_LABEL)
    assert set(baseline) == {"f1_micro", "f1_macro", "precision_micro", "recall_micro", "subset_accuracy"}
    assert baseline["subset_accuracy"] == baseline["precision_micro"] == baseline["recall_micro"] == 0.5


def test_majority_baseline_multi_label_never_predicts_nothing() -> None:
    train = [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    baseline = metrics.majority_baseline(train, [[0, 1, 0], [1, 0, 0]], MULTI_LABEL)
    assert baseline["f1_micro"] == 0.5


def test_majority_baseline_needs_examples() -> None:
    with pytest.raises(ValueError, match="got 0 to train, 1 to score"):
        metrics.majority_baseline([], [1], SINGLE_LABEL)


def test_import_is_light() -> None:
    """The command line asks for directions before it loads anything slow."""
    code = "import sys, hf_ft.metrics.classification as m; m.default_metric(m.SINGLE_LABEL); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "numpy" in loaded
    assert not {"evaluate", "sklearn", "scipy", "torch", "transformers", "datasets"} & set(loaded)
