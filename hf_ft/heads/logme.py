"""LogME: how well frozen features fit labels, as the evidence of a Bayesian linear model.

It stays our own code: the authors' has no maximum where features hardly differ from their mean (see `logme`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd

from hf_ft.heads.labels import label_columns

Floats: TypeAlias = NDArray[np.float64]

GRID, ITERATIONS = 100, 1000
EXACT_FIT = 1e-12
"""Squared residual, as a share of the squared labels, below which a fit counts as exact: log evidence has no limit."""


def logme(features: NDArray[Any], labels: NDArray[Any]) -> float:
    """The logarithm of the maximum evidence of a Bayesian linear model, per example, averaged over label columns.

    The evidence of a column y is p(y | F, alpha, beta) = N(y; 0, I / beta + F F^T / alpha), maximised over alpha and
    beta: You et al. 2021, https://proceedings.mlr.press/v139/you21b.html, by the fixed point over the singular values
    of You et al. 2022, https://arxiv.org/abs/2110.10545. That alone may stop at a lesser maximum where features hardly
    differ from their mean, so it starts at the best of a grid. Scaling all features changes nothing. There is no
    intercept, as there is none in the papers.
    """
    columns = label_columns(labels)
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
