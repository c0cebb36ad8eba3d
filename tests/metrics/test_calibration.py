"""Calibration on made-up probabilities: what was distorted is found, and scores are those of the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from hf_ft import UserError
from hf_ft.metrics import classification
from hf_ft.metrics.calibration import (
    STEEPEST,
    Calibration,
    calibration_score,
    fit_temperature,
    fit_temperature_and_bias,
)

SINGLE, MULTI = classification.SINGLE_LABEL, classification.MULTI_LABEL


def drawn(examples: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn with their probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (examples, classes))
    shares = classification.class_probabilities(logits).cumsum(axis=1)
    return logits, (random.random((examples, 1)) > shares).sum(axis=1).clip(0, classes - 1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_temperature_that_was_applied_is_found(factor: float, classes: int) -> None:
    logits, references = drawn(20_000, classes)
    found = fit_temperature(logits * factor, references)
    assert found.scale * factor == pytest.approx(1, rel=0.05)
    assert found.shift is None
    assert np.allclose(found.undone(logits * factor * found.scale), logits * factor)


def test_no_other_temperature_has_a_lower_loss() -> None:
    """But for the smoothing, whose share here is one in four hundred."""
    logits, references = drawn(400, 3)
    found = fit_temperature(logits * 3, references).scale

    def loss(scale: float) -> float:
        return calibration_score(logits * 3 * scale, references, SINGLE).log_loss

    assert loss(found) < min(loss(found * 1.2), loss(found / 1.2), loss(1.0))


def test_a_split_without_mistakes_gives_no_certainty() -> None:
    """Trap: its likelihood has no maximum; the answers are as sure as so many examples allow."""
    references = np.arange(100) % 2
    logits = np.eye(2)[references]
    found = fit_temperature(logits, references).scale
    confidence = classification.class_probabilities(logits * found).max(axis=1).mean()
    assert found < STEEPEST
    assert 0.98 < confidence < 0.999


def test_logits_that_say_nothing_become_even() -> None:
    """Answers without relation to the truth are made as unsure as the limit allows, and keep their order."""
    random = np.random.default_rng(0)
    logits, references = random.normal(0, 5, (3000, 4)), random.integers(0, 4, 3000)
    found = fit_temperature(logits, references).scale
    assert 0.99 / STEEPEST < found < 0.1
    assert calibration_score(logits * found, references, SINGLE).log_loss == pytest.approx(np.log(4), abs=0.01)


def test_temperature_and_biases_of_several_labels_are_found() -> None:
    random = np.random.default_rng(0)
    logits, bias = random.normal(0, 2, (20_000, 3)), np.array([1.5, 0.0, -2.0])
    references = (random.random(logits.shape) < classification.label_probabilities(logits)).astype(int)
    distorted = (logits - bias) * 2
    found = fit_temperature_and_bias(distorted, references)
    assert found.scale == pytest.approx(0.5, rel=0.05)
    assert found.bias == pytest.approx(bias, abs=0.1)


def test_a_label_without_examples_keeps_its_bias() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (200, 3))
    references = (random.random(logits.shape) < 0.5).astype(int)
    references[:, 1] = 0
    found = fit_temperature_and_bias(logits, references)
    assert found.bias is not None
    assert found.bias[1] == 0
    assert np.all(found.bias[[0, 2]] != 0)


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        fit_temperature([[np.nan, 1.0]], [0])


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_scores_are_those_of_the_metrics(problem_type: str) -> None:
    """Log loss and calibration error are the metrics of that name, and Brier's score is scikit-learn's."""
    logits, references = drawn(500, 2)
    if problem_type == MULTI:
        references = (np.random.default_rng(1).random(logits.shape) < 0.4).astype(int)
    found = calibration_score(logits, references, problem_type)
    known = classification.score(logits, references, problem_type, resamples=10)
    assert found.log_loss == pytest.approx(known["log_loss"].value)
    if problem_type == SINGLE:
        assert found.ece == pytest.approx(known["ece"].value)
        positive = classification.class_probabilities(logits)[:, 1]
        assert found.brier == pytest.approx(2 * brier_score_loss(references, positive))
    else:
        shares = classification.label_probabilities(logits)
        assert found.brier == pytest.approx(((shares - references) ** 2).mean())
        bins = np.digitize(shares.ravel(), np.arange(1, 15) / 15, right=True)
        gaps = [abs((references.ravel() - shares.ravel())[bins == one].sum()) for one in range(15)]
        assert found.ece == pytest.approx(sum(gaps) / shares.size)


def test_bins_of_equal_mass_and_the_curve() -> None:
    """Each point is the mean of as many predictions as the others, in the order of their probability."""
    logits, references = drawn(400, 3)
    found = calibration_score(logits, references, SINGLE)
    confidence = classification.class_probabilities(logits).max(axis=1)
    right = logits.argmax(axis=1) == references
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, 10)
    assert [point.predictions for point in found.points] == [40] * 10
    assert [point.predicted for point in found.points] == pytest.approx([confidence[part].mean() for part in parts])
    assert [point.observed for point in found.points] == pytest.approx([right[part].mean() for part in parts])
    assert found.ece_equal_mass > 0


def test_few_predictions_make_few_points() -> None:
    """Every point stands for twenty predictions or more, and for all of them where there are fewer."""
    logits, references = drawn(65, 3)
    assert [point.predictions for point in calibration_score(logits, references, SINGLE).points] == [22, 22, 21]
    assert len(calibration_score(logits[:5], references[:5], SINGLE).points) == 1


def test_what_moves_a_threshold_is_apart() -> None:
    """The shift is the sum of both, and each can be taken back alone."""
    found = Calibration(0.5, np.array([1.0, 2.0]), 0.2, np.array([3.0, 3.0]))
    logits = np.array([[1.0, -1.0]])
    calibrated = logits * 0.5 + [4.0, 5.0]
    assert found.shift == pytest.approx([4.0, 5.0])
    assert found.undone(calibrated) == pytest.approx(logits)
    assert found.unmoved(calibrated) == pytest.approx(logits * 0.5 + [1.0, 2.0])
