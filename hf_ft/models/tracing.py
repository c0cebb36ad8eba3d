"""One traced forward pass: when each module was called, and where it stands in the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_ft.environment import tf32
from hf_ft.errors import UserError
from hf_ft.modalities import Modality
from hf_ft.models.forward_patching import patched_forward
from hf_ft.tasks import modalities


def example_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return one small batch that the model accepts, made by the first modality that supports the model.

    Raises:
        UserError: No modality supports the model's inputs.
    """
    return _example(model)[1]


def _example(model: PreTrainedModel) -> tuple[Modality, dict[str, torch.Tensor]]:
    for modality in modalities():
        if (batch := modality.example_inputs(model)) is not None:
            return modality, batch
    kinds = ", ".join(modality.plural for modality in modalities())
    raise UserError(f"{type(model).__name__} does not read inputs of a supported kind ({kinds}). Choose another model.")


def padding_matters(model: PreTrainedModel) -> bool:
    """Return whether padding an input to the length of a longer one changes its logits, by running both.

    It does for models that take no attention mask (FNet) or divide texts into segments (YOSO, Nystromformer, Funnel).
    """
    modality, inputs = _example(model)
    trial = modality.padding_trial(model)
    if trial is None or set(trial[0]) != set(inputs):
        return False
    with torch.no_grad(), evaluating(model):
        alone, padded = (model(**inputs).logits for inputs in trial)
    if alone.ndim == 3:
        padded = padded[:, : alone.shape[1]]
    scale = max(float(alone.abs().max()), 1e-6)
    return not float((alone - padded).abs().max()) <= PADDING_TOLERANCE * scale


PADDING_TOLERANCE = 1e-3
"""Largest difference of logits, relative to their scale, that counts as rounding."""


@dataclass
class Call:
    """The first call of a module in a traced forward pass.

    Args:
        order: The position of the call among the first calls of all modules.
        source: The autograd node of the main input; None without a gradient.
        result: The autograd node of the main output; None without a gradient.
        shape: The shape of the main input without its batch dimension.
        times: How often the module ran in the pass.
    """

    order: int
    source: Any
    result: Any
    shape: tuple[int, ...]
    times: int = 1


@dataclass
class Trace:
    """The calls of a forward pass by module name, and the graph node of the logits."""

    calls: dict[str, Call]
    logits: Any

    def follows(self, after: str, before: str) -> bool:
        """Return whether the input of module `after` depends on the output of module `before`.

        Where a custom autograd function hides the graph (reversible layers), the order of the calls decides.
        """
        first, second = self.calls[before], self.calls[after]
        if first.result is None and second.source is None:
            return first.order < second.order
        return first.result is not None and first.result in upstream(second.source, set())


def trace_forward(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Trace:
    """Run one forward pass and record the first call of each module and its place in the autograd graph.

    Raises:
        UserError: The model's output has no logits.
    """
    calls: dict[str, Call] = {}

    def wrap(name: str, forward: Any) -> Any:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            order = len(calls)
            if name in calls:
                calls[name].times += 1
                return forward(*args, **kwargs)
            main = _main_tensor([*args, *kwargs.values()])
            calls[name] = Call(order, _node(main), None, tuple(main.shape[1:]) if main is not None else ())
            output = forward(*args, **kwargs)
            calls[name].result = _node(_main_tensor([output]))
            return output

        return recorded

    with all_require_grad(model), torch.enable_grad():
        forwards = {name: wrap(name, module.forward) for name, module in model.named_modules() if name}
        with patched_forward(model, forwards):
            output = model(**inputs)
    if getattr(output, "logits", None) is None:
        raise UserError(
            f"{type(model).__name__} gives no `logits` ({type(output).__name__} instead), so no loss can be computed "
            "from it and `Trainer` cannot train it. Choose another model."
        )
    return Trace(calls, _node(output.logits))


@contextmanager
def all_require_grad(model: nn.Module, only: Sequence[nn.Parameter] | None = None) -> Iterator[None]:
    """Require a gradient for every floating-point parameter, or for `only`, in evaluation mode; restore all flags."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    chosen = {id(parameter) for parameter in (model.parameters() if only is None else only)}
    for parameter, _ in flags:
        parameter.requires_grad_(id(parameter) in chosen and parameter.is_floating_point())
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32 within the block.

    Outputs that are compared then differ by float32 rounding alone, not by the kernel chosen for a batch size.
    """
    with tf32(False):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode within the block, and restore each module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train()  # clears tensors that some models (LeViT) cache during a pass in evaluation mode
        for module, mode in modes:
            module.training = mode


def _main_tensor(values: Iterable[Any]) -> torch.Tensor | None:
    """Return the first tensor with a gradient in a call's arguments or result, else the first floating-point one."""
    tensors = [tensor for value in values for tensor in _tensors(value) if tensor.is_floating_point()]
    return next((tensor for tensor in tensors if tensor.grad_fn is not None), tensors[0] if tensors else None)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _node(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.grad_fn


def upstream(node: Any, seen: set[Any], stop: frozenset[Any] = frozenset()) -> set[Any]:
    """Return the autograd nodes that `node` depends on, without those in `seen` and those only reached past `stop`."""
    found: set[Any] = set()
    waiting = [node] if node is not None and node not in seen else []
    while waiting:
        current = waiting.pop()
        if current in found or current in seen:
            continue
        found.add(current)
        if current not in stop:
            waiting += [parent for parent, _ in current.next_functions if parent is not None]
    return found
