"""Calibration: how well probabilities fit frequencies, and the scale and shift of logits that make them fit.

One label per example: a temperature, fitted by the negative log-likelihood (https://arxiv.org/abs/1706.04599). Several
labels: one temperature and a bias for each label, which is Platt scaling with a common slope. Targets are smoothed as
in Platt's method (https://doi.org/10.1007/s10994-007-5018-6): a validation split without any mistake would otherwise
ask for infinite certainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_ft.metrics.bootstrap import Floats
from hf_ft.metrics.classification import (
    ECE_BINS,
    SINGLE_LABEL,
    Array,
    checked_split,
    class_probabilities,
    label_probabilities,
    negative_log,
)

STEEPEST = 100.0
"""Logits are multiplied by at most this and at least its inverse."""
DRAWN, LEAST = 10, 20
"""Most points of a reliability curve, and the least number of predictions behind each of them."""


@dataclass(frozen=True)
class Calibration:
    """What is done to logits: `logits * scale + bias`, and what moves a threshold to 0.5.

    Args:
        scale: The inverse of the temperature.
        bias: Added to the logit of each class, `(classes,)`; None if probabilities fit without.
        threshold: The probability that is moved to 0.5; None without one.
        moved: What is added to the logits to move it, `(classes,)`; None without a threshold.
    """

    scale: float
    bias: Floats | None = None
    threshold: float | None = None
    moved: Floats | None = None

    @property
    def shift(self) -> Floats | None:
        """All that is added to the logits, `(classes,)`; None for nothing."""
        parts = [part for part in (self.bias, self.moved) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None

    def undone(self, logits: npt.ArrayLike) -> Floats:
        """Return the logits before calibration."""
        return (np.asarray(logits, dtype=np.float64) - (0.0 if self.shift is None else self.shift)) / self.scale

    def unmoved(self, logits: npt.ArrayLike) -> Floats:
        """Return calibrated logits as they were before the threshold moved."""
        return np.asarray(logits, dtype=np.float64) - (0.0 if self.moved is None else self.moved)


def fit_temperature(logits: npt.ArrayLike, references: npt.ArrayLike) -> Calibration:
    """Return the temperature of exclusive classes with the least negative log-likelihood.

    Args:
        logits: `(examples, classes)`.
        references: Class ids `(examples,)`.

    Raises:
        UserError: Logits are NaN or infinite.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp, softmax

    values, actual = checked_split(logits, references, SINGLE_LABEL)
    examples, classes = values.shape
    blur = 1 / (examples + 2)
    targets = np.full_like(values, blur / classes)
    targets[np.arange(examples), actual] += 1 - blur
    wanted = float((targets * values).sum()) / examples

    def loss(steepness: Floats) -> tuple[float, Floats]:
        scaled = values * np.exp(steepness[0])
        slope = (softmax(scaled, axis=1) * values).sum() / examples - wanted
        found = logsumexp(scaled, axis=1).mean() - wanted * np.exp(steepness[0])
        return float(found), np.array([slope * np.exp(steepness[0])])

    limit = np.log(STEEPEST)
    fitted = minimize(loss, np.zeros(1), jac=True, method="L-BFGS-B", bounds=[(-limit, limit)])
    return Calibration(float(np.exp(fitted.x[0])))


def fit_temperature_and_bias(logits: npt.ArrayLike, references: npt.ArrayLike) -> Calibration:
    """Return temperature and biases of independent labels with the least negative log-likelihood.

    A label that no example or every example has keeps its bias.

    Args:
        logits: `(examples, labels)`.
        references: 0 and 1, `(examples, labels)`.

    Raises:
        UserError: Logits are NaN or infinite.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    from hf_ft.metrics.classification import MULTI_LABEL

    values, actual = checked_split(logits, references, MULTI_LABEL)
    positives = actual.sum(axis=0)
    negatives = len(actual) - positives
    targets = np.where(actual == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    free = (positives > 0) & (negatives > 0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scale, bias = np.exp(parameters[0]), np.where(free, parameters[1:], 0.0)
        scaled = values * scale + bias
        error = (expit(scaled) - targets) / values.size
        slopes = np.append((error * values).sum() * scale, np.where(free, error.sum(axis=0), 0.0))
        return float((np.logaddexp(0, scaled) - targets * scaled).mean()), slopes

    limit = np.log(STEEPEST)
    bounds = [(-limit, limit), *[(None, None)] * len(free)]
    start = np.zeros(len(free) + 1)
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    return Calibration(float(np.exp(fitted.x[0])), np.where(free, fitted.x[1:], 0.0))


# --- How well probabilities fit ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityPoint:
    """Predictions of similar probability: their mean probability, how often they were right, and how many they are."""

    predicted: float
    observed: float
    predictions: int


@dataclass(frozen=True)
class CalibrationScore:
    """How well probabilities fit frequencies.

    Args:
        log_loss: The negative log-likelihood in nats; of several labels the mean over all pairs of example and label.
        ece: Expected calibration error over 15 bins of equal width.
        ece_equal_mass: The same over 15 bins of equally many predictions.
        brier: Squared error of the probabilities, summed over classes; of several labels the mean over all pairs.
        points: The reliability curve, over bins of equally many predictions.
    """

    log_loss: float
    ece: float
    ece_equal_mass: float
    brier: float
    points: list[ReliabilityPoint]


def calibration_score(logits: npt.ArrayLike, references: npt.ArrayLike, problem_type: str) -> CalibrationScore:
    """Return how well the probabilities of logits fit.

    The calibration errors are those of the most probable class; of several labels, those of all of them.

    Raises:
        UserError: Logits are NaN or infinite.
    """
    values, actual = checked_split(logits, references, problem_type)
    if problem_type == SINGLE_LABEL:
        probabilities = class_probabilities(values)
        rows = np.arange(len(values))
        truth = np.zeros_like(probabilities)
        truth[rows, actual] = 1
        loss = float(negative_log(probabilities[rows, actual]).mean())
        brier = float(((probabilities - truth) ** 2).sum(axis=1).mean())
        predicted, observed = probabilities.max(axis=1), (values.argmax(axis=1) == actual).astype(np.float64)
    else:
        probabilities, truth = label_probabilities(values), actual.astype(np.float64)
        loss = float(negative_log(np.where(truth == 1, probabilities, 1 - probabilities)).mean())
        brier = float(((probabilities - truth) ** 2).mean())
        predicted, observed = probabilities.ravel(), truth.ravel()
    width = np.ceil(predicted * ECE_BINS).clip(1).astype(np.int64) - 1
    mass = _equal_mass(predicted, ECE_BINS)
    points = _points(predicted, observed, _equal_mass(predicted, min(DRAWN, max(1, len(predicted) // LEAST))))
    return CalibrationScore(loss, _error(predicted, observed, width), _error(predicted, observed, mass), brier, points)


def _equal_mass(predicted: Floats, bins: int) -> Array:
    """Return the bin of each prediction, so that bins hold equally many."""
    found = np.empty(len(predicted), dtype=np.int64)
    found[np.argsort(predicted, kind="stable")] = np.arange(len(predicted)) * bins // len(predicted)
    return found


def _error(predicted: Floats, observed: Floats, bins: Array) -> float:
    """Return the calibration error: |frequency - probability| of bins, weighted by their shares, from sums of gaps."""
    return float(np.abs(np.bincount(bins, weights=observed - predicted)).sum() / len(predicted))


def _points(predicted: Floats, observed: Floats, bins: Array) -> list[ReliabilityPoint]:
    counts = np.bincount(bins)
    means, rates = (np.bincount(bins, weights=values) / np.maximum(counts, 1) for values in (predicted, observed))
    rows = zip(means.tolist(), rates.tolist(), counts.tolist(), strict=True)
    return [ReliabilityPoint(*row) for row in rows if row[2]]
