"""How well frozen features fit labels, three ways, and how far rankings agree: for choosing a model before training.

Labels are integers `(n,)` for classes, numbers `(n,)` for a quantity, or 0 and 1 `(n, labels)` where an example may
carry several. Every score reads the same features `(n, d)`, larger is better in each, and none needs a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd
from scipy.stats import kendalltau, rankdata

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Predict: TypeAlias = Callable[[Floats, Floats, Floats], Floats]
"""From features and columns of known examples, and features of others, to columns of the others."""

FOLDS, NEIGHBOURS = 5, 10
PENALTIES = tuple(10.0**power for power in range(-2, 7))
"""Of the linear probe, on standardised features: from many examples of few features to few of many."""
GRID, ITERATIONS = 100, 1000
EXACT_FIT = 1e-12
"""Squared residual, as a share of the squared labels, below which a fit counts as exact: log evidence has no limit."""


def columns_of(labels: NDArray[Any]) -> Floats:
    """What is regressed on, `(n, columns)`: a column of 0 and 1 for each class or label, or standardised numbers.

    A column in which all examples are alike is left out: there is nothing to learn from it.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        columns = labels.astype(np.float64)
    elif np.issubdtype(labels.dtype, np.integer):
        columns = (labels[:, None] == np.unique(labels)).astype(np.float64)
    else:
        columns = ((labels - labels.mean()) / (labels.std() or 1.0))[:, None].astype(np.float64)
    return columns[:, np.ptp(columns, axis=0) > 0]


# --- LogME ------------------------------------------------------------------------------------------------------------


def logme(features: NDArray[Any], labels: NDArray[Any]) -> float:
    """The logarithm of the maximum evidence of a Bayesian linear model, by example, averaged over label columns.

    The evidence of a column y is p(y | F, alpha, beta) = N(y; 0, I / beta + F F^T / alpha), maximised over alpha and
    beta: You et al. 2021, https://proceedings.mlr.press/v139/you21b.html, by the fixed point over the singular values
    of You et al. 2022, https://arxiv.org/abs/2110.10545. That alone may stop at a lesser maximum where features hardly
    differ from their mean, so it starts at the best of a grid. Scaling all features changes nothing. There is no
    intercept, as there is none in the papers.
    """
    columns = columns_of(labels)
    left, singular, _ = svd(np.asarray(features, dtype=np.float64), full_matrices=False)
    # What is less is rounding, since features are float32.
    strengths = singular[singular > singular.max() * np.finfo(np.float32).eps] ** 2
    along = (left[:, : len(strengths)].T @ columns) ** 2
    across = np.maximum((columns**2).sum(0) - along.sum(0), 0.0)
    return float(_Evidence(strengths[:, None], along, across, len(columns)).largest().mean())


@dataclass(frozen=True)
class _Evidence:
    """The log evidence by example of each label column, as a function of the ratio alpha / beta.

    `strengths` are the squared singular values of the features `(k, 1)`, `along` the squared labels along each left
    singular vector `(k, columns)` and `across` those outside their span `(columns,)`; `n` is the number of examples.
    """

    strengths: Floats
    along: Floats
    across: Floats
    n: int

    def at(self, ratio: Floats) -> Floats:
        """The evidence at a ratio for each column `(columns,)`, with the beta that is best there."""
        shrunk = ratio / (self.strengths + ratio)
        loss = np.maximum((self.along * shrunk).sum(0) + self.across, self._least)
        found: Floats = 0.5 * (np.log(self.n / loss) - math.log(2 * math.pi) - 1 + np.log(shrunk).sum(0) / self.n)
        return found

    def largest(self) -> Floats:
        """The largest evidence of each column."""
        grid = np.geomspace(self.strengths.min() * 1e-3, self.strengths.max() * 1e3, GRID)
        tried = np.stack([self.at(np.full(len(self.across), ratio)) for ratio in grid])
        ratio = grid[tried.argmax(0)]
        for _ in range(ITERATIONS):
            better = np.clip(self._better(ratio), grid[0], grid[-1])
            moved = np.abs(np.log(better / ratio)).max()
            ratio = better
            if moved < 1e-6:
                break
        return np.maximum(tried.max(0), self.at(ratio))

    def _better(self, ratio: Floats) -> Floats:
        """One step of the fixed point: alpha and beta for the weights that are likeliest at a ratio."""
        kept = self.strengths / (self.strengths + ratio)
        effective = kept.sum(0)
        weights = (kept**2 * self.along / self.strengths).sum(0)
        residual = np.maximum(((1 - kept) ** 2 * self.along).sum(0) + self.across, self._least)
        better: Floats = effective * residual / np.maximum(weights * (self.n - effective), np.finfo(float).tiny)
        return better

    @property
    def _least(self) -> Floats:
        """The squared residual below which a fit counts as exact."""
        least: Floats = EXACT_FIT * (self.along.sum(0) + self.across)
        return least


# --- Scores out of fold -----------------------------------------------------------------------------------------------


def deal(labels: NDArray[Any], groups: Integers | None = None, folds: int = FOLDS, seed: int = 0) -> Integers:
    """The fold of each example `(n,)`, drawn so that each has its share of every class, or of small and large numbers.

    With `groups`, all examples of a group (the words of a sentence) are in one fold.
    """
    random = np.random.default_rng(seed)
    if groups is not None:
        names, places = np.unique(groups, return_inverse=True)
        return (random.permutation(len(names)) % folds)[places]
    labels = np.asarray(labels)
    shuffled = random.permutation(len(labels))
    if labels.ndim == 1:
        shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    dealt = np.empty(len(labels), dtype=np.int64)
    dealt[shuffled] = np.arange(len(labels)) % folds
    return dealt


def knn(
    features: NDArray[Any], labels: NDArray[Any], folds: Integers, metric: str, neighbours: int = NEIGHBOURS
) -> float:
    """The score of the nearest neighbours, cross-validated over `folds`; see `measure` for `metric`.

    Features are standardised, and alike is what has a high cosine; neighbours vote with it as their weight.
    """

    def predict(known: Floats, columns: Floats, others: Floats) -> Floats:
        alike = _unit(others) @ _unit(known).T
        count = min(neighbours, alike.shape[1])
        nearest = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        votes = np.maximum(np.take_along_axis(alike, nearest, axis=1), 1e-6)
        found: Floats = np.einsum("ij,ijc->ic", votes / votes.sum(1, keepdims=True), columns[nearest])
        return found

    return _out_of_fold(predict, features, labels, folds, metric)


def linear_probe(features: NDArray[Any], labels: NDArray[Any], folds: Integers, metric: str) -> float:
    """The score of a linear layer on standardised features, cross-validated over `folds`; see `measure` for `metric`.

    Ridge regression on the columns of the labels, with the penalty that leave-one-out within the known folds prefers:
    one closed form for every kind of label. How `probe.fit_linear` fits a head that is kept is slower.
    """
    from sklearn.linear_model import RidgeCV

    def predict(known: Floats, columns: Floats, others: Floats) -> Floats:
        found: Floats = RidgeCV(alphas=PENALTIES).fit(known, columns).predict(others)
        return found.reshape(len(others), -1)

    return _out_of_fold(predict, features, labels, folds, metric)


def _out_of_fold(predict: Predict, features: NDArray[Any], labels: NDArray[Any], folds: Integers, metric: str) -> float:
    features, columns = np.asarray(features, dtype=np.float64), columns_of(labels)
    found = np.empty_like(columns)
    for fold in np.unique(folds):
        out = folds == fold
        centre, scale = features[~out].mean(0), features[~out].std(0)
        scale = np.where(scale > np.finfo(np.float32).eps * np.abs(centre), scale, 1.0)
        standard = (features - centre) / scale
        found[out] = predict(standard[~out], columns[~out], standard[out])
    return measure(found, columns, metric)


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def constant(labels: NDArray[Any], metric: str) -> float:
    """The score of always answering the mean of the labels: what a score has to be read against."""
    columns = columns_of(labels)
    return measure(np.tile(columns.mean(0), (len(columns), 1)), columns, metric)


METRICS: Mapping[str, Callable[[Floats, Floats], float]] = {
    "accuracy": lambda found, columns: float((found.argmax(1) == columns.argmax(1)).mean()),
    "f1_macro": lambda found, columns: _f1_macro(found.argmax(1), columns.argmax(1)),
    "map": lambda found, columns: _average_precision(found, columns),
    "r2": lambda found, columns: float(1 - ((found - columns) ** 2).sum() / ((columns - columns.mean(0)) ** 2).sum()),
}


def measure(found: Floats, columns: Floats, metric: str) -> float:
    """The `accuracy`, `f1_macro`, `map` (mean average precision) or `r2` of columns `(n, columns)` that were found."""
    return METRICS[metric](found, columns)


def _f1_macro(found: Integers, true: Integers) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(true, found, average="macro", zero_division=0.0))


def _average_precision(found: Floats, columns: Floats) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(columns, found, average="macro"))


# --- Rankings ---------------------------------------------------------------------------------------------------------


def ranks(values: Sequence[float]) -> Floats:
    """The place of each value, 1 for the largest; equal values share the mean of their places."""
    return np.asarray(rankdata(-np.asarray(values, dtype=np.float64)), dtype=np.float64)


def agreement(scores: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], float | None]:
    """Kendall's tau-b between each two scores of the same models: 1 the same order, -1 the opposite one.

    None where it is not defined, since a score gives all models the same value.
    """
    return {pair: tau(scores[pair[0]], scores[pair[1]]) for pair in combinations(scores, 2)}


def tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b of two lists of values; None where it is not defined."""
    found = float(kendalltau(one, other).statistic)
    return None if math.isnan(found) else found


def transferability_scores(
    features: NDArray[Any], labels: NDArray[Any], metric: str, groups: Integers | None = None, seed: int = 0
) -> dict[str, float]:
    """`logme`, `knn` and `probe` of one model's features; all but LogME are cross-validated on the same folds."""
    folds = deal(labels, groups, min(FOLDS, len(labels)), seed)
    return {
        "logme": logme(features, labels),
        "knn": knn(features, labels, folds, metric),
        "probe": linear_probe(features, labels, folds, metric),
    }
