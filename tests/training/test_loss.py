"""The weighted losses equal their definition, whatever the batches are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from hf_ft import finetune
from hf_ft.settings import TrainingSettings
from hf_ft.tasks.classes import MULTI, SINGLE, Classes


def loss_of(
    target: Classes, labels: list[Any], names: tuple[str, ...], weights: Any = "balanced", smoothing: float = 0.0
) -> Any:
    """The loss that a target asks for; it reads just this of settings and data."""
    config, args = TrainingSettings(class_weights=weights), SimpleNamespace(label_smoothing_factor=smoothing)
    return target.learning(None, Dataset.from_dict({"labels": labels}), names, config, args).loss


def test_without_weights_it_is_the_plain_mean() -> None:
    """The default is cross entropy, over classes or for each label."""
    torch.manual_seed(0)
    logits = torch.randn(4, 2)
    outputs, single, several = SimpleNamespace(logits=logits), torch.tensor([0, 1, 1, 1]), torch.eye(2).repeat(2, 1)
    one = loss_of(SINGLE, [0, 1, 1, 1], ("a", "b"), "none")(outputs, single, torch.tensor(4))
    assert torch.allclose(one, torch.nn.functional.cross_entropy(logits, single))
    many = loss_of(MULTI, several.tolist(), ("a", "b"), "none")(outputs, several, torch.tensor(8))
    assert torch.allclose(many, torch.nn.functional.binary_cross_entropy_with_logits(logits, several))


def test_accumulated_gradients_are_those_of_the_whole_batch(text_model: str, text_data: str, tmp_path: Path) -> None:
    """One step of 8 examples, at once or in four parts, gives the same head: BERT's own loss would give four times."""
    heads = []
    for parts in (1, 4):
        out = tmp_path / str(parts)
        finetune(
            task="text_classification",
            model=text_model,
            dataset=text_data,
            method="head",
            output_dir=str(out),
            max_steps=1,
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            optim="sgd",
            learning_rate=1.0,
            warmup_steps=0,
            max_grad_norm=0.0,
            train_sampling_strategy="random",
            eval_strategy="no",
            save_strategy="no",
            load_back_proof=False,
        )
        heads.append(load_file(out / "model.safetensors")["classifier.weight"])
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-3, atol=1e-4)


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
