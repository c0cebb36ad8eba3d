"""How unequal the classes of a training split are, and weights that let rare classes count more.

This module imports nothing heavy; the losses that use the weights are in `losses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_ft.errors import choose
from hf_ft.metrics import Floats

UNEQUAL = 1 / 4
"""A split is unequal if its rarest class has less than this part of the average number of examples of a class.

Of two classes the rarer then has less than an eighth, and always answering the other one is right for seven of eight
examples: accuracy hardly measures the rare class any more. Samples of equal classes stay far above the bound.
"""

Rule = str | Mapping[str, float]
"""`none`, `balanced`, `sqrt`, `effective`, or class name -> weight."""


def is_unequal(counts: Sequence[int]) -> bool:
    """Return whether the rarest class is so rare that macro F1 tells more than accuracy; see `UNEQUAL`."""
    return len(counts) > 1 and min(counts) < UNEQUAL * sum(counts) / len(counts)


def effective_beta(examples: int, classes: int) -> float:
    """Return beta for `effective` weights: 1 - 1 / n for the average number n of examples of a class.

    The paper (https://arxiv.org/abs/1901.05555) leaves it open. With this value a class of far fewer than n examples
    weighs by inverse frequency, as in `balanced`, and classes of far more than n examples weigh alike.
    """
    return 1 - classes / max(examples, classes)


def relative_weights(rule: Rule, counts: Floats, beta: float, labels: Sequence[str]) -> Floats:
    """Return the weight of each class up to a common factor.

    Args:
        rule: Anything but `none`.
        counts: Examples of each class, `(classes,)`.
        beta: See `effective_beta`.
        labels: The names of the classes.

    Raises:
        UserError: A weight for a class that does not exist.
    """
    if isinstance(rule, Mapping):
        named = {str(name): weight for name, weight in rule.items()}
        for name in named:
            choose(name, labels, "class in class_weights:", option="class_weights")
        return np.array([float(named.get(label, 1.0)) for label in labels])
    counts = counts.clip(1)
    if rule == "effective":
        with np.errstate(divide="ignore"):  # beta is 0 for one example a class, and all weights are 1
            return (1 - beta) / -np.expm1(counts * np.log(beta))
    return 1 / (counts if rule == "balanced" else np.sqrt(counts))


def class_weights(rule: Rule, counts: Sequence[int] | None, labels: Sequence[str]) -> Floats | None:
    """Return the weights of exclusive classes `(classes,)`, with mean 1 over the training examples; None for none."""
    if rule == "none" or not rule or counts is None:
        return None
    each = np.array(counts, dtype=np.float64)
    weights = relative_weights(rule, each, effective_beta(int(each.sum()), len(each)), labels)
    normalised: Floats = weights * each.sum() / (weights * each).sum()
    return normalised


def positive_weights(rule: Rule, counts: Sequence[int] | None, examples: int, labels: Sequence[str]) -> Floats | None:
    """Return the weight of the positive examples of each label, relative to its negative ones; None for none.

    Each label is a problem of two classes, with its positive and its negative examples.
    """
    if rule == "none" or not rule or counts is None:
        return None
    positive = np.array(counts, dtype=np.float64)
    beta = effective_beta(examples, 2)
    weights = relative_weights(rule, positive, beta, labels)
    if isinstance(rule, Mapping):
        return weights
    return weights / relative_weights(rule, examples - positive, beta, labels)
