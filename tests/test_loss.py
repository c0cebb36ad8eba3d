"""The weighted losses equal their definition, whatever the batches are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_ft.classes import MULTI, SINGLE, Classes


def loss_of(
    target: Classes, labels: list[Any], names: tuple[str, ...], weights: str = "balanced", smoothing: float = 0.0
) -> Any:
    """The loss that a target asks for; it reads just this of settings and data."""
    config, args = SimpleNamespace(class_weights=weights), SimpleNamespace(label_smoothing_factor=smoothing)
    return target.learning(None, Dataset.from_dict({"labels": labels}), names, config, args).loss


def test_no_weights_leave_the_loss_to_the_model() -> None:
    """The default is the model's own loss."""
    assert loss_of(SINGLE, [0, 1], ("a", "b"), "none") is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_classes_count_alike(smoothing: float) -> None:
    """With 1, 2 and 5 examples the weights are 8/3, 8/6 and 8/15, and their mean over the examples is one."""
    labels = [0, 1, 1, 2, 2, 2, 2, 2]
    loss = loss_of(SINGLE, labels, ("a", "b", "c"), smoothing=smoothing)
    assert loss is not None
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 3), torch.tensor(labels)
    weights = torch.tensor([8 / 3, 8 / 6, 8 / 15])
    expected = (
        torch.nn.functional.cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="sum") / 8
    )
    outputs = SimpleNamespace(logits=logits)
    assert torch.allclose(loss(outputs, targets, torch.tensor(8)), expected)
    # Accumulated halves, each divided by the count of both, add up to the whole.
    halves = [loss(SimpleNamespace(logits=logits[i : i + 4]), targets[i : i + 4], 8) for i in (0, 4)]
    assert torch.allclose(sum(halves), expected)
    assert weights[labels].mean() == pytest.approx(1.0)


def test_balanced_labels_of_several() -> None:
    """A label on a quarter of the examples has its positives weighted by three."""
    rows = [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    loss = loss_of(MULTI, rows, ("a", "b"))
    assert loss is not None
    logits, targets = torch.zeros(4, 2), torch.tensor(rows)
    ln2 = torch.log(torch.tensor(2.0))
    assert torch.allclose(loss(SimpleNamespace(logits=logits), targets, None), ln2 * (3 + 3 + 4) / 8)
