"""The losses of classification: cross entropy, focal loss and logit adjustment, with or without class weights.

Each is a sum over labels, which `summed_loss` divides by the number of labels in all accumulated batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.tasks.class_balance import Rule, class_weights, positive_weights

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from hf_ft.metrics import Floats
    from hf_ft.settings import Config

Total = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Sum of the losses of logits `(labels, classes)` and labels."""


@dataclass(frozen=True)
class LossSpec:
    """What a loss is made of.

    Args:
        name: `cross_entropy`, `focal` or `logit_adjusted`.
        weights: Class weights, see `class_balance.Rule`.
        smoothing: The label smoothing factor.
        gamma: How much focal loss discounts examples that are predicted well.
        tau: The factor on the log frequencies that `logit_adjusted` adds.
    """

    name: str = "cross_entropy"
    weights: Rule = "none"
    smoothing: float = 0.0
    gamma: float = 2.0
    tau: float = 1.0

    @classmethod
    def of(cls, config: Config, args: TrainingArguments) -> LossSpec:
        """Return what the settings ask for."""
        weights, smoothing = config.class_weights, args.label_smoothing_factor
        return cls(config.loss, weights, smoothing, config.focal_gamma, config.logit_adjustment_tau)

    @property
    def counted(self) -> bool:
        """Whether the loss depends on how frequent the classes are."""
        return self.name == "logit_adjusted" or not (self.weights == "none" or not self.weights)


def summed_loss(total: Total) -> Callable[..., torch.Tensor]:
    """Return a loss for `Trainer`: the sum of losses divided by the number of labels in *all* accumulated batches."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        items = num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum()
        return total(outputs.logits, labels) / items

    return loss


def _at(values: Floats | None) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """Return a function that gives the values in precision and place of some logits."""
    import torch

    found = None if values is None else torch.from_numpy(values)
    return lambda logits: None if found is None else found.to(logits)


# --- One of several classes -----------------------------------------------------------------------------------------


def exclusive_loss(spec: LossSpec, counts: Sequence[int] | None, labels: Sequence[str]) -> Total:
    """Return the loss of examples, or words, with one class each.

    It takes class ids `(n,)`, of which -100 is ignored, or shares of the classes `(n, classes)`.

    Args:
        spec: What it is made of.
        counts: Examples of each class; may be None unless `spec.counted`.
        labels: The names of the classes.

    Raises:
        UserError: A weight for a class that does not exist.
    """
    from torch.nn.functional import cross_entropy

    weights = _at(class_weights(spec.weights, counts, labels))
    if spec.name == "focal":
        return lambda logits, wanted: focal_loss(logits, wanted, spec.gamma, weights(logits))
    offsets = None
    if spec.name == "logit_adjusted":
        each = np.maximum(np.array(counts, dtype=np.float64), 1)
        offsets = spec.tau * np.log(each / each.sum())
    adjustment = _at(offsets)

    def total(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        offset = adjustment(logits)
        adjusted = logits if offset is None else logits + offset
        options: dict[str, Any] = {"reduction": "sum", "label_smoothing": spec.smoothing}
        return cross_entropy(adjusted, wanted, weights(logits), **options)

    return total


def focal_loss(logits: torch.Tensor, wanted: torch.Tensor, gamma: float, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the sum of multi-class focal losses, -(1 - p)^gamma log p of the right class.

    The softmax form of https://arxiv.org/abs/1708.02002; `torchvision.ops.sigmoid_focal_loss` is for several labels.
    """
    import torch

    chances = logits.log_softmax(-1)
    if not wanted.is_floating_point():
        labelled = wanted != -100
        wanted = wanted[labelled]
        chances = chances[labelled].gather(-1, wanted[:, None])
        shares = torch.ones_like(chances) if weights is None else weights[wanted][:, None]
    else:
        shares = wanted if weights is None else wanted * weights
    # A probability that rounds to 1 would have no finite gradient for a gamma below 1.
    rest = (-chances.expm1()).clamp(min=torch.finfo(chances.dtype).eps)
    return -(shares * rest**gamma * chances).sum()


# --- Several labels -------------------------------------------------------------------------------------------------


def independent_loss(spec: LossSpec, counts: Sequence[int] | None, examples: int, labels: Sequence[str]) -> Total:
    """Return the loss of examples with any number of labels; it takes 0 and 1, or shares, `(n, labels)`.

    Class weights apply to the positive examples of a label. Logit adjustment adds the log odds of each label.

    Args:
        spec: What it is made of.
        counts: Examples with each label; may be None unless `spec.counted`.
        examples: The number of training examples.
        labels: The names of the labels.

    Raises:
        UserError: A weight for a label that does not exist.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    weights = _at(positive_weights(spec.weights, counts, examples, labels))
    if spec.name == "focal":
        from torchvision.ops import sigmoid_focal_loss

        def focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            each = sigmoid_focal_loss(logits, wanted.to(logits), alpha=-1, gamma=spec.gamma)
            positive = weights(logits)
            return (each if positive is None else each * (1 + (positive - 1) * wanted)).sum()

        return focal
    offsets = None
    if spec.name == "logit_adjusted":
        having = np.array(counts, dtype=np.float64)
        offsets = spec.tau * np.log(having.clip(1) / (examples - having).clip(1))
    adjustment = _at(offsets)

    def total(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        offset = adjustment(logits)
        adjusted = logits if offset is None else logits + offset
        return binary_cross_entropy_with_logits(adjusted, wanted, pos_weight=weights(logits), reduction="sum")

    return total
