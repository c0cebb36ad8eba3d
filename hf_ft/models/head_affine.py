"""Scale and shift of logits, folded into the last layer of the head, so that the plain model answers with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from hf_ft.models.freezing import plain_name
from hf_ft.models.grouping import label_sized_parameters
from hf_ft.models.tracing import evaluating, example_inputs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeadAffine:
    """A scale of all logits and a shift of each, `(classes,)`, as a change of tensors.

    Args:
        scale: Multiplies the logits.
        shift: Is added to them; None for nothing.
        tensors: The names of the tensors of the last layer.
    """

    scale: float
    shift: Floats | None
    tensors: frozenset[str]

    def fold(self, model: PreTrainedModel) -> None:
        """Change the last layer of a model."""
        self._change(dict(model.named_parameters()))

    def fold_adapter(self, folder: Path) -> None:
        """Change the head that is saved with an adapter.

        Raises:
            RuntimeError: It lacks tensors of the last layer.
        """
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        changed = self._change(tensors)
        if missing := self.tensors - changed:
            raise RuntimeError(f"The adapter in {folder} lacks {sorted(missing)} of the head.")
        save_file(tensors, path, metadata={"format": "pt"})

    def _change(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """Change the tensors of the last layer among `tensors`; returns their names in the plain model."""
        changed = set()
        with torch.no_grad():
            for name, tensor in tensors.items():
                if plain_name(name) not in self.tensors:
                    continue
                changed.add(plain_name(name))
                tensor.mul_(self.scale)
                if self.shift is not None and tensor.dim() == 1:
                    tensor.add_(torch.as_tensor(self.shift).to(tensor))
        return changed


def affine_of_head(model: PreTrainedModel, scale: float, shift: Floats | None) -> HeadAffine:
    """Return a scale and a shift for the last layer of a model."""
    return HeadAffine(scale, shift, frozenset(label_sized_parameters(model)))


def why_no_affine(model: PreTrainedModel, shifted: bool) -> str:
    """Return why the last layer cannot hold a scale of the logits, and a shift of each if `shifted`; "" if it can.

    That is tried on the model: heads may normalise their weights, or scale the logits after their last layer.
    """
    last = label_sized_parameters(model)
    head = {name: tensor for name, tensor in model.named_parameters() if name in last}
    if shifted and not any(tensor.dim() == 1 for tensor in head.values()):
        return "its last layer has no bias"
    shift = np.arange(model.config.num_labels or 1) / 2 + 1 if shifted else None
    saved = {name: tensor.detach().clone() for name, tensor in head.items()}
    with torch.no_grad(), evaluating(model):
        inputs = example_inputs(model)
        before = model(**inputs).logits
        HeadAffine(2.0, shift, frozenset(last)).fold(model)
        after = model(**inputs).logits
        for name, tensor in head.items():
            tensor.copy_(saved[name])
    expected = before * 2 + (0 if shift is None else torch.as_tensor(shift).to(before))
    holds = before.ndim == 2 and torch.allclose(after, expected, rtol=1e-4, atol=1e-4)
    return "" if holds else "its logits are not those of a linear last layer alone"
