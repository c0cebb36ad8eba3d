"""Metrics over whole examples where the rows that `Trainer` evaluates are parts of them, such as windows of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from hf_ft.tasks import Task

Metrics = Callable[[EvalPrediction], dict[str, float]]


def over_examples(metrics: Metrics, task: Task, encoded: Dataset, order: list[int] | None) -> Metrics:
    """Return metrics of the outputs that the task's `gather` makes of those of rows.

    Args:
        metrics: Of one output per example.
        encoded: The rows that are evaluated, with the column `example`.
        order: The rows in the order in which they are evaluated; None where that is their own.
    """
    assert task.gather is not None
    gather = task.gather
    _, first = np.unique(encoded["example"][:], return_index=True)

    def pooled(prediction: EvalPrediction) -> dict[str, float]:
        found: Any = prediction.predictions
        outputs, labels = np.asarray(found[0] if isinstance(found, tuple) else found), np.asarray(prediction.label_ids)
        if order is not None:
            back = np.argsort(order)
            outputs, labels = outputs[back], labels[back]
        return metrics(EvalPrediction(gather(encoded, outputs), labels[first]))

    return pooled
