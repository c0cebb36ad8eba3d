"""What modules take and return in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from hf_ft.models.forward_patching import patched_forward
from hf_ft.models.tracing import all_require_grad

Batch = Mapping[str, torch.Tensor]


class CannotSplit(Exception):
    """A model that cannot be split at a depth, or whose layers cannot be read one by one; the text says why."""


@contextmanager
def running_model_code(where: str) -> Iterator[None]:
    """Report what the model's own code raises as `CannotSplit`; wrap the calls of the model in it, and nothing else.

    A model that is run in an unusual way meets states that its author did not think of, and answers with as many kinds
    of errors as there are authors. Errors of this package outside of such a call stay errors.
    """
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise CannotSplit(f"{type(error).__name__} in the model's own code {where}") from error


@dataclass
class ModuleCall:
    """The last call of a module in one pass, its arguments and result flattened by `pytree`.

    `order` is the place among all calls where this one ended, `first` where the module's first call ended, and
    `times` how often it was called.
    """

    order: int
    arguments: list[Any]
    results: list[Any]
    structure: Any
    first: int
    times: int = 1


def record_calls(
    model: PreTrainedModel, names: Iterable[str], batch: Batch
) -> tuple[dict[str, ModuleCall], torch.Tensor]:
    """Run a batch in evaluation mode with gradients, and record the calls of the named modules.

    Returns:
        The calls by module name, of those that were called, and the logits. Both are attached to the autograd graph.
    """
    calls: dict[str, ModuleCall] = {}
    counter = iter(range(10**9))

    def wrap(name: str) -> Callable[..., Any]:
        forward = model.get_submodule(name).forward

        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            results, structure = pytree.tree_flatten(output)
            order, before = next(counter), calls.get(name)
            first, times = (before.first, before.times + 1) if before else (order, 1)
            calls[name] = ModuleCall(order, pytree.tree_flatten((args, kwargs))[0], results, structure, first, times)
            return output

        return recorded

    with all_require_grad(model), torch.enable_grad(), patched_forward(model, {name: wrap(name) for name in names}):
        logits = model(**batch).logits
    return calls, logits


def callable_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The modules with lists of modules replaced by their elements: a list itself is never called."""
    found = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            found += callable_modules(model, [f"{name}.{child}" for child, _ in module.named_children()])
        else:
            found.append(name)
    return found


def modules_with_weights(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the callable modules that hold parameters.

    A module without any, such as one dropout that serves all depths, may run anywhere and says nothing about depth.
    """
    return [
        name for name in callable_modules(model, names) if any(True for _ in model.get_submodule(name).parameters())
    ]
