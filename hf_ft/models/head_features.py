"""What the last layer of the head reads: one vector for each example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_ft.models.forward_patching import patched_forward
from hf_ft.models.grouping import DepthGroups
from hf_ft.models.tracing import evaluating, example_inputs


class NoFeatures(Exception):
    """The head has no last layer that reads one vector for each example; the text says what it has."""


@contextmanager
def features_as_logits(model: PreTrainedModel, groups: DepthGroups) -> Iterator[None]:
    """Within the block the last layer of the head passes on what it reads, so the model's logits are these features.

    Where the model picks the logits of one token, as decoders do, the features are those of this token.

    Raises:
        NoFeatures: The head has several last layers, or the last one reads several vectors of an example.
    """
    layers = {name.rpartition(".")[0] for group in groups for name in group.label_sized}
    kind = type(model).__name__
    if len(layers) != 1:
        raise NoFeatures(f"the head of {kind} has {len(layers)} last layers")
    with patched_forward(model, {layers.pop(): _passing}):
        shape = head_features(model, example_inputs(model)).shape[1:]
        if len(shape) != 1:
            raise NoFeatures(f"the head of {kind} reads features of shape {tuple(shape)} for each example")
        yield


def head_features(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the features of a batch `(examples, width)` in evaluation mode; call it within `features_as_logits`."""
    forward: Any = model
    with torch.no_grad(), evaluating(model):
        found: Tensor = forward(**batch).logits
    return found


def _passing(features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return features
