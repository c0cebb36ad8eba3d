"""Transferability scores: how well frozen features fit labels, for choosing a model before any is trained.

Labels are integers `(n,)` for classes, numbers `(n,)` for a quantity, or 0 and 1 `(n, labels)` where an example may
carry several. Every score reads the same features `(n, d)`, is better when larger, and needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import RidgeCV
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_ft.heads.labels import label_columns
from hf_ft.heads.logme import logme

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

FOLDS, NEIGHBOURS = 5, 10
PENALTIES = tuple(10.0**power for power in range(-2, 7))
"""Of the ridge probe, on standardised features: from many examples of few features to few examples of many."""
LEAST_VOTE = 1e-6
"""Vote of a neighbour whose cosine is zero or less."""


def transferability_scores(
    features: NDArray[Any], labels: NDArray[Any], metric: str, groups: Integers | None = None, seed: int = 0
) -> dict[str, float]:
    """`logme`, `knn` and `probe` of one model's features; the last two are cross-validated on the same folds.

    Args:
        metric: what `knn` and `probe` are measured by: `accuracy`, `f1_macro`, `map` or `r2`.
        groups: examples that must stay in one fold, such as the sentence of each word, by number.
    """
    folds = assign_folds(labels, groups, min(FOLDS, len(labels)), seed)
    return {
        "logme": logme(features, labels),
        "knn": knn(features, labels, folds, metric),
        "probe": ridge_probe(features, labels, folds, metric),
    }


def assign_folds(labels: NDArray[Any], groups: Integers | None = None, folds: int = FOLDS, seed: int = 0) -> Integers:
    """The fold of each example `(n,)`, stratified by class, or by size where labels are numbers.

    Goes into `PredefinedSplit`. scikit-learn's own `StratifiedKFold` refuses classes of fewer examples than folds and
    does not stratify numbers.

    Args:
        groups: examples that must stay in one fold, by number; folds are not stratified then.
    """
    random = np.random.default_rng(seed)
    if groups is not None:
        names, places = np.unique(groups, return_inverse=True)
        return (random.permutation(len(names)) % folds)[places]
    labels = np.asarray(labels)
    shuffled = random.permutation(len(labels))
    if labels.ndim == 1:
        shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    assigned = np.empty(len(labels), dtype=np.int64)
    assigned[shuffled] = np.arange(len(labels)) % folds
    return assigned


def knn(
    features: NDArray[Any], labels: NDArray[Any], folds: Integers, metric: str, neighbours: int = NEIGHBOURS
) -> float:
    """The cross-validated score of the nearest neighbours by cosine, which vote with it as their weight."""
    known = len(folds) - int(np.bincount(folds).max())  # in the smallest training part
    voters = KNeighborsRegressor(min(neighbours, known), weights=_votes, algorithm="brute", metric="cosine")
    return _cross_validated(voters, features, labels, folds, metric)


def _votes(distances: Floats) -> Floats:
    """The cosine itself; scikit-learn's cosine distance is one minus it."""
    votes: Floats = np.maximum(1 - distances, LEAST_VOTE)
    return votes


def ridge_probe(features: NDArray[Any], labels: NDArray[Any], folds: Integers, metric: str) -> float:
    """The cross-validated score of ridge regression on the label columns.

    The penalty is the one that leave-one-out prefers within the training folds. Its closed form makes it much faster
    than the head solver (`linear_solver.fit_linear`), which minimises the loss of the task.
    """
    return _cross_validated(RidgeCV(alphas=PENALTIES), features, labels, folds, metric)


class Float32Scaler(StandardScaler):
    """A scaler for features computed in float32: what varies by less than their rounding is constant.

    Scikit-learn asks by the rounding of float64, and would blow float32 noise up to unit variance.
    """

    scale_: Floats

    def fit(self, X: Floats, y: Any = None, sample_weight: Any = None) -> Float32Scaler:
        """Mean and standard deviation of each column, 1 in place of what is only rounding."""
        super().fit(X, y, sample_weight)
        constant = np.sqrt(self.var_) <= np.finfo(np.float32).eps * np.abs(self.mean_)
        self.scale_ = np.where(constant, 1.0, self.scale_)
        return self


def _cross_validated(
    estimator: BaseEstimator, features: NDArray[Any], labels: NDArray[Any], folds: Integers, metric: str
) -> float:
    """The score of an estimator of the label columns on standardised features, predicted fold by fold."""
    columns = label_columns(labels)
    pipeline = make_pipeline(Float32Scaler(), estimator)
    found = cross_val_predict(pipeline, np.asarray(features, dtype=np.float64), columns, cv=PredefinedSplit(folds))
    return measure(found.reshape(columns.shape), columns, metric)


def constant_score(labels: NDArray[Any], metric: str) -> float:
    """The score of always predicting the mean of the labels: the baseline of all scores but LogME."""
    columns = label_columns(labels)
    return measure(np.tile(columns.mean(0), (len(columns), 1)), columns, metric)


def measure(found: Floats, columns: Floats, metric: str) -> float:
    """The `accuracy`, `f1_macro`, `map` (mean average precision) or `r2` of predicted columns `(n, columns)`."""
    measures: Mapping[str, Callable[[], float]] = {
        "accuracy": lambda: accuracy_score(columns.argmax(1), found.argmax(1)),
        "f1_macro": lambda: f1_score(columns.argmax(1), found.argmax(1), average="macro", zero_division=0.0),
        "map": lambda: average_precision_score(columns, found, average="macro"),
        "r2": lambda: r2_score(columns, found, multioutput="variance_weighted"),
    }
    return float(measures[metric]())
