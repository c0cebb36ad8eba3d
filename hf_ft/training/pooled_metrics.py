"""Metrics over whole examples where the rows that `Trainer` evaluates are parts of them, such as windows of a text."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction

from hf_ft.tasks import Task

Metrics = Callable[[EvalPrediction], dict[str, float]]


LOSS = "loss_of_examples"
"""The key of the loss over examples, which replaces that over rows in the logs."""


def over_examples(
    metrics: Metrics, loss: Callable[..., Any] | None, task: Task, encoded: Dataset, order: list[int] | None
) -> Metrics:
    """Return metrics of the outputs that the task's `gather` makes of those of rows, with their loss under `LOSS`.

    Args:
        metrics: Of one output per example.
        loss: Of an object with `logits` and the labels; None where that over rows is to stay.
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
        joined = EvalPrediction(gather(encoded, outputs), labels[first])
        values = metrics(joined)
        if loss is not None:
            answers = SimpleNamespace(logits=torch.from_numpy(joined.predictions))
            values[LOSS] = float(loss(answers, torch.from_numpy(joined.label_ids)))
        return values

    return pooled
