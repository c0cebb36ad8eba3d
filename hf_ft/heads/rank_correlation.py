"""How far several scores agree on the order of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
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
