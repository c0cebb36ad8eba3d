"""Hidden states of examples at each boundary between blocks, and at the head: one vector each, from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from hf_ft.models import CannotSplit, DepthGroups, evaluating, patched_forward


class BlockWatch:
    """Records the input of the first block and the output of each block in the passes of a model, pooled at once.

    Args:
        blocks: The names of the modules of each block.
    """

    def __init__(self, blocks: Sequence[Sequence[str]]) -> None:
        self.blocks = blocks
        self._batch: Mapping[str, torch.Tensor] | None = None
        self._found: dict[int, torch.Tensor] = {}
        self._problem: CannotSplit | None = None

    def begin(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Record the next pass, which is that of a batch."""
        self._batch, self._found, self._problem = batch, {}, None

    def states(self) -> list[torch.Tensor]:
        """The states of the last pass averaged over positions without padding, one tensor `(examples, width)` each.

        Raises:
            CannotSplit: the output of a block cannot be pooled.
        """
        self._batch = None
        if self._problem is not None:
            raise self._problem
        if absent := set(range(len(self.blocks))) - set(self._found):
            raise CannotSplit(f"block {min(absent)} was not called as one module")
        return [self._found[place] for place in range(-1, len(self.blocks))]

    @property
    def started(self) -> bool:
        """Whether the pass has reached the first block that is called."""
        return -1 in self._found

    def record(self, place: int, values: Any) -> None:
        """Pool the main tensor of the arguments (-1) or of the result of a block; of several calls the last counts."""
        if self._batch is None or self._problem is not None:
            return
        examples, mask = len(next(iter(self._batch.values()))), self._batch.get("attention_mask")
        try:
            self._found[place] = pool(_main_tensor(values).detach(), examples, mask).float().cpu()
        except CannotSplit as problem:  # the pass itself goes on
            self._problem = problem


@contextmanager
def watched_blocks(model: PreTrainedModel, groups: DepthGroups) -> Iterator[BlockWatch]:
    """Watch the blocks of a model in the passes within the block of code."""
    watch = BlockWatch([group.modules for group in groups.of_role("block")])

    def wrap(forward: Callable[..., Any], block: int) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not watch.started:
                watch.record(-1, (args, kwargs))
            output = forward(*args, **kwargs)
            watch.record(block, output)
            return output

        return watched

    watching = {
        name: wrap(module.forward, block)
        for block, names in enumerate(watch.blocks)
        for name in names
        if hasattr(module := model.get_submodule(name), "forward")
    }
    with patched_forward(model, watching):
        yield watch


def pooled_states(
    model: PreTrainedModel, groups: DepthGroups, batch: Mapping[str, torch.Tensor], head: bool = False
) -> list[torch.Tensor]:
    """The states at each boundary in one pass, as `BlockWatch.states` returns them.

    Args:
        head: adds what the head reads as the last entry: its input, averaged over the positions that the logits depend
            on.

    Raises:
        CannotSplit: the output of a block cannot be pooled, or the input of the head cannot be found.
    """
    read: list[torch.Tensor] = []
    names = groups.of_role("head")[0].modules if head else ()
    reading = {name: _reading(model.get_submodule(name).forward, read) for name in names}
    with (
        torch.set_grad_enabled(head),
        evaluating(model),
        watched_blocks(model, groups) as watch,
        patched_forward(model, reading),
    ):
        watch.begin(batch)
        logits = model(**batch).logits
    examples = len(next(iter(batch.values())))
    return watch.states() + ([_read(read, logits, examples).detach().float().cpu()] if head else [])


def _reading(forward: Callable[..., Any], read: list[torch.Tensor]) -> Callable[..., Any]:
    """A module's forward that records its input, where that is the first in the head, and starts gradients there."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        if read:
            return forward(*args, **kwargs)
        values, structure = pytree.tree_flatten((args, kwargs))
        state = _main_tensor(values)
        read.append(state.detach().requires_grad_())
        args, kwargs = pytree.tree_unflatten([read[0] if value is state else value for value in values], structure)
        return forward(*args, **kwargs)

    return watched


def _read(read: Sequence[torch.Tensor], logits: torch.Tensor, examples: int) -> torch.Tensor:
    """What the head reads of its input, `(examples, width)`: many heads pick one token out of all.

    A position is read if the gradient of the logits there is not zero. Any weighting of the logits shows it, as long
    as the weights differ: in a plain sum the logits of a centred head would cancel.
    """
    if not read:
        raise CannotSplit("the head is no module of its own")
    state = read[0]
    if state.ndim != 3 or len(state) != examples:
        return pool(state, examples)
    weighted = (logits * torch.linspace(-1, 1, logits.shape[-1]).to(logits)).sum()
    (slope,) = torch.autograd.grad(weighted, state)
    touched = slope.abs().sum(-1, keepdim=True) > 0
    return (state * touched).sum(1) / touched.sum(1).clamp(min=1)


def _main_tensor(values: Any) -> torch.Tensor:
    """The first floating-point tensor of the arguments or the result of a module."""
    for value in pytree.tree_flatten(values)[0]:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise CannotSplit("a block gives no tensor")


def pool(state: torch.Tensor, examples: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over all positions of each example, `(examples, width)`; `mask` `(examples, tokens)` is 0 at padding.

    Takes vectors, tokens (examples or tokens first) and feature maps (channels first or last).

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
