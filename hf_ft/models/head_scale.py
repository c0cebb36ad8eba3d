"""The scale of a regression head: it trains on standardised numbers, and the scale is folded into its last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from hf_ft.models.freezing import plain_name
from hf_ft.models.grouping import label_sized_parameters
from hf_ft.models.tracing import evaluating, example_inputs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """The mean (`shift`) and standard deviation (`unit`) that labels are standardised by in training.

    `last` names the tensors of the head's last layer, into which `fold` puts both.
    """

    shift: float
    unit: float
    last: frozenset[str]

    def prepare(self, split: Dataset) -> Dataset:
        """A split with standardised labels."""
        labels = (np.asarray(split["labels"][:], dtype=np.float64) - self.shift) / self.unit
        standard: Dataset = split.remove_columns("labels").add_column("labels", labels)
        return standard

    def fold(self, model: nn.Module, back: bool = False) -> None:
        """Make the head's last layer answer in the units of the data; `back` undoes it."""
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if plain_name(name) not in self.last:
                    continue
                shift = self.shift if tensor.dim() == 1 else 0.0
                tensor.copy_((tensor - shift) / self.unit if back else tensor * self.unit + shift)


def find_scale(model: PreTrainedModel, numbers: Floats) -> Scale:
    """Mean and standard deviation of the numbers, as far as the head's last layer can hold them.

    Whether it can is tried on the model: with the label-sized tensors doubled and 1 added to the bias, the output must
    be twice as large plus 1. A layer without a bias cannot hold a mean, so numbers are divided by their root mean
    square only; where the trial fails, they are not scaled.
    """
    last = label_sized_parameters(model)
    sizes = sorted(tensor.dim() for name, tensor in model.named_parameters() if name in last)
    if sizes not in ([2], [1, 2]):
        return Scale(0.0, 1.0, frozenset())
    shift = float(numbers.mean()) if 1 in sizes else 0.0
    unit = float(np.sqrt(((numbers - shift) ** 2).mean())) or 1.0
    tried = Scale(1.0 if 1 in sizes else 0.0, 2.0, frozenset(last))
    head = {name: parameter for name, parameter in model.named_parameters() if name in last}
    saved = {name: tensor.detach().clone() for name, tensor in head.items()}
    with torch.no_grad(), evaluating(model):
        inputs = example_inputs(model)
        before = model(**inputs).logits
        tried.fold(model)
        after = model(**inputs).logits
        for name, tensor in head.items():
            tensor.copy_(saved[name])
    holds = torch.allclose(after, before * 2 + tried.shift, atol=1e-4)
    return Scale(shift, unit, frozenset(last)) if holds else Scale(0.0, 1.0, frozenset())


def scale_of(model: PreTrainedModel) -> Callable[[Floats], Scale]:
    """A function that finds the scale of numbers for one model; see `find_scale`."""
    return partial(find_scale, model)
