"""What an example looks like at each boundary between blocks and to the head: one vector each, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from hf_ft.models import CannotSplit, DepthGroups, evaluating, patched_forward


def pooled_states(
    model: PreTrainedModel, groups: DepthGroups, batch: Mapping[str, torch.Tensor], head: bool = False
) -> list[torch.Tensor]:
    """What enters the first block, then what leaves each block: the mean over positions, `(examples, width)` each.

    Padding does not count. With `head`, what the head reads comes last: the state that enters it, the mean over those
    positions that the logits depend on. Float32 on the CPU; widths differ where the model's do.

    Raises:
        CannotSplit: a block gives nothing that can be pooled, or the head reads nothing that can be seen.
    """
    blocks = [group.modules for group in groups.of_role("block")]
    entered: list[torch.Tensor] = []
    left: dict[int, torch.Tensor] = {}
    read: list[torch.Tensor] = []

    def wrap(forward: Callable[..., Any], block: int) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not entered:
                entered.append(_main((args, kwargs)))
            output = forward(*args, **kwargs)
            left[block] = _main(output)
            return output

        return watched

    watching = {
        name: wrap(module.forward, block)
        for block, names in enumerate(blocks)
        for name in names
        if hasattr(module := model.get_submodule(name), "forward")
    }
    if head:
        names = groups.of_role("head")[0].modules
        watching |= {name: _reading(model.get_submodule(name).forward, read) for name in names}
    with torch.set_grad_enabled(head), evaluating(model), patched_forward(model, watching):
        logits = model(**batch).logits
    if len(left) < len(blocks):
        raise CannotSplit(f"block {min(set(range(len(blocks))) - set(left))} was not called as one module")
    states = [entered[0], *(left[block] for block in range(len(blocks)))]
    examples, mask = len(next(iter(batch.values()))), batch.get("attention_mask")
    found = [pool(state, examples, mask) for state in states]
    found += [_read(read, logits, examples)] if head else []
    return [state.detach().float().cpu() for state in found]


def _reading(forward: Callable[..., Any], read: list[torch.Tensor]) -> Callable[..., Any]:
    """A module's forward that notes the state that enters it, from which gradients begin, where it is called first."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        if read:
            return forward(*args, **kwargs)
        values, structure = pytree.tree_flatten((args, kwargs))
        state = _main(values)
        read.append(state.detach().requires_grad_())
        args, kwargs = pytree.tree_unflatten([read[0] if value is state else value for value in values], structure)
        return forward(*args, **kwargs)

    return watched


def _read(read: Sequence[torch.Tensor], logits: torch.Tensor, examples: int) -> torch.Tensor:
    """What the head reads of the state that enters it, `(examples, width)`: many heads pick one token out of all."""
    if not read:
        raise CannotSplit("the head is no module of its own")
    state = read[0]
    if state.ndim != 3 or len(state) != examples:
        return pool(state, examples)
    weighted = (logits * torch.linspace(-1, 1, logits.shape[-1]).to(logits)).sum()
    (slope,) = torch.autograd.grad(weighted, state)
    touched = slope.abs().sum(-1, keepdim=True) > 0
    return (state * touched).sum(1) / touched.sum(1).clamp(min=1)


def _main(values: Any) -> torch.Tensor:
    """The first floating tensor of what a module takes or gives."""
    for value in pytree.tree_flatten(values)[0]:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise CannotSplit("a block gives no tensor")


def pool(state: torch.Tensor, examples: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over all positions of each example, `(examples, width)`; `mask` `(examples, tokens)` is 0 at padding.

    Takes vectors, tokens (examples or tokens first) and pictures (channels first or last).

    Raises:
        CannotSplit: another shape.
    """
    if state.ndim == 3 and len(state) != examples:
        state = state.transpose(0, 1)
    if len(state) != examples or state.ndim not in (2, 3, 4):
        raise CannotSplit(f"a block gives a tensor of shape {tuple(state.shape)} for {examples} examples")
    if state.ndim == 2:
        return state
    if state.ndim == 3 and mask is not None and mask.shape == state.shape[:2]:
        weights = mask[..., None].to(state)
        return (state * weights).sum(1) / weights.sum(1).clamp(min=1)
    if state.ndim == 3:
        return state.mean(1)
    last = state.shape[1] == state.shape[2] != state.shape[3]
    return state.mean((1, 2) if last else (2, 3))
