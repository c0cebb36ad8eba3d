"""Scores of single classes: precision, recall, F1 and the number of examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_ft.metrics.bootstrap import Floats
from hf_ft.metrics.by_rank import MOST_CLASSES, precision_over_recall


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class, or type of entity.

    Args:
        label: Its name.
        precision: Share of the predictions of the class that are right; 0 if it is never predicted.
        recall: Share of its examples that are predicted; 0 if it has none.
        f1: Their harmonic mean.
        support: Its examples in the references.
        average_precision: How well probabilities rank its examples; None without probabilities or examples.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    average_precision: float | None = None


def class_scores(actual: Any, predicted: Any, probabilities: Floats, labels: Sequence[str]) -> list[ClassScore]:
    """Return the scores of each class.

    Args:
        actual: Class ids `(examples,)`, or 0 and 1 `(examples, classes)`.
        predicted: Predictions in the same form.
        probabilities: `(examples, classes)`.
        labels: The names of the classes.
    """
    from sklearn.metrics import precision_recall_fscore_support

    classes, probabilities = len(labels), np.asarray(probabilities)
    actual, predicted = (np.asarray(one).astype(np.int64) for one in (actual, predicted))
    with warnings.catch_warnings():  # scikit-learn 1.7 warns of few examples per class; 1.8 does not
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        if actual.ndim == 2 and classes == 1:  # scikit-learn reads one column as two classes
            actual, predicted = actual[:, 0], predicted[:, 0]
            numbers = [1]
        else:
            numbers = list(range(classes))
        columns = precision_recall_fscore_support(actual, predicted, labels=numbers, zero_division=0)
    members = actual[:, None] == np.array(numbers) if actual.ndim == 1 else actual == 1
    return [
        ClassScore(label, float(precision), float(recall), float(f1), int(support), _ranked(probabilities, members, k))
        for k, (label, precision, recall, f1, support) in enumerate(zip(labels, *columns, strict=True))
    ]


def _ranked(probabilities: Floats, members: Any, k: int) -> float | None:
    """Return the average precision of a class, if it has examples and sorting every class is cheap."""
    if members.shape[1] > MOST_CLASSES or not members[:, k].any():
        return None
    return precision_over_recall(probabilities[:, k], members[:, k])[0]
