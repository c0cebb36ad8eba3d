"""A model split in two: a frozen lower part that runs once per example, an upper part that trains on its outputs.

There are two ways to split. A `HeadSplit` caches what enters the head and runs the head's modules alone. A
`ForwardSplit` works at any depth: the model's own forward runs with stubs for the frozen modules, and the last one
answers from the cache, so that the code between the blocks (masks, position biases) stays the model's own. The obvious
third way, calling the upper blocks one after another, fails for every model that does more between its blocks.

`split_search` finds the deepest split that `split_verification` accepts; no split is used without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from hf_ft.models.grouping import DepthGroup
from hf_ft.models.layout import Layout
from hf_ft.models.module_calls import Batch

Rows = list[dict[str, Any]]
Collate = Callable[[Rows], Batch]


class ModelSplit:
    """A model split at a depth; base class of `HeadSplit` and `ForwardSplit`.

    Attributes:
        name: where, such as `after block 3` or `before the head`.
        place: the same, but always by the last group of the lower part.
        lower, upper: the depth groups of the two parts.
        layouts: the tensors that are cached for each example.
        inputs: the names of what the upper part still reads of a batch.
        difference: the largest difference of logits found by `verify`, relative to their scale.
        notes: sentences for the user.
    """

    name: str
    layouts: tuple[Layout, ...]
    inputs: tuple[str, ...] = ()
    difference: float = 0.0

    def __init__(self, model: PreTrainedModel, groups: Sequence[DepthGroup], depth: int) -> None:
        self.model, self.lower, self.upper = model, tuple(groups[:depth]), tuple(groups[depth:])
        self.place = f"after {groups[depth - 1].name}"
        self.notes: list[str] = []

    def describe(self) -> list[str]:
        """What is cached and where it comes from; a part of the cache key."""
        raise NotImplementedError

    def capture(self, batch: Batch) -> list[torch.Tensor]:
        """Run the lower part on a batch; ragged tensors come without padding, one example after another."""
        raise NotImplementedError

    def replay(self, features: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """The logits from what `capture` returned; call it within `installed`."""
        raise NotImplementedError

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block, the lower part of the model does not run."""
        yield

    def unbatch(self, features: Sequence[torch.Tensor], batch: Batch) -> list[list[torch.Tensor]]:
        """Captured tensors example by example; each keeps a first dimension."""
        lengths = batch["attention_mask"].sum(1).tolist() if any(layout.ragged for layout in self.layouts) else []
        columns = [
            list(value.split(lengths) if layout.ragged else value.split(1))
            for value, layout in zip(features, self.layouts, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]


class UpperPart(nn.Module):
    """The upper part of a split model as a module of its own, which reads features instead of inputs.

    It holds the very modules of the model under their names in it, so optimizer groups, checkpoints and audits need to
    know nothing of the split, and after training the whole model has the new weights. Run it within
    `split.installed()`.
    """

    def __init__(self, split: ModelSplit) -> None:
        super().__init__()
        self.split = split
        self.config = copy.deepcopy(split.model.config)  # `Trainer` reads it and writes into it
        parameters, buffers = dict(split.model.named_parameters()), dict(split.model.named_buffers())
        persistent = set(split.model.state_dict())
        for group in split.upper:
            inside = tuple(f"{module}." for module in group.modules)
            for name in group.modules:
                parent, _, last = name.rpartition(".")
                _container(self, parent).add_module(last, split.model.get_submodule(name))
            for name in (*group.parameters, *group.buffers):
                if name.startswith(inside):
                    continue
                parent, _, last = name.rpartition(".")
                home = _container(self, parent)
                if name in parameters:
                    home.register_parameter(last, parameters[name])
                else:
                    home.register_buffer(last, buffers[name], persistent=name in persistent)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Recompute activations in the backward pass, in the blocks of the model that train."""
        self.split.model.activation_checkpointing_enable(*args, **kwargs)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """The same under its older name."""
        self.split.model.gradient_checkpointing_enable(*args, **kwargs)

    def train(self, mode: bool = True) -> UpperPart:
        """Training mode, also of the model's own flag, which functional dropout around the head reads."""
        super().train(mode)
        self.split.model.training = mode
        return self

    def forward(self, features: Sequence[torch.Tensor], labels: Any = None, **inputs: torch.Tensor) -> ModelOutput:
        """The logits. `labels` are in the signature so that `Trainer` finds their name; they are not read."""
        kinds = [layout.torch_dtype for layout in self.split.layouts]
        features = [value.to(kind) for value, kind in zip(features, kinds, strict=True)]
        # A compiled model rebuilds its outputs from their fields, of which a plain `ModelOutput` has none.
        return SequenceClassifierOutput(logits=self.split.replay(features, inputs))


def _container(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, made empty where there is none."""
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def learns_or_is_random(module: nn.Module) -> bool:
    """Whether a module of the head has parameters or dropout; pooling, a fixed function, has neither."""
    if any(True for _ in module.parameters()):
        return True
    return any(getattr(part, "p", 0) or getattr(part, "drop_prob", 0) for part in module.modules())


def padded(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States of tokens, one example after another, put where the mask `(examples, tokens)` is 1; zeros elsewhere."""
    result = states.new_zeros(*mask.shape, *states.shape[1:])
    result[mask.bool()] = states
    return result


def by_example(logits: torch.Tensor, batch: Mapping[str, Any]) -> list[torch.Tensor]:
    """The logits example by example in float32; those of tokens without padding."""
    if logits.ndim < 3 or "attention_mask" not in batch:
        return list(logits.float().split(1))
    mask = batch["attention_mask"]
    return list(logits.float()[mask.bool()].split(mask.sum(1).tolist()))
