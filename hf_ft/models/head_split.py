"""The split before the head: cached states enter the head, whose modules run one after another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_ft.models.forward_patching import StopForward, patched_forward
from hf_ft.models.grouping import DepthGroup
from hf_ft.models.layout import Layout
from hf_ft.models.model_split import Collate, ModelSplit, Rows, learns_or_is_random, padded
from hf_ft.models.module_calls import Batch, CannotSplit, callable_modules, record_calls, running_model_code
from hf_ft.models.tracing import all_require_grad, evaluating


class HeadSplit(ModelSplit):
    """A split before the head, for heads that are a chain of modules fed by one tensor.

    Where the head reads the state of one token only (the first, or a decoder's last), that state alone is cached:
    for texts a small fraction of what all tokens take.
    """

    name = "before the head"

    def __init__(
        self, model: PreTrainedModel, groups: Sequence[DepthGroup], depth: int, rows: Rows, collate: Collate
    ) -> None:
        super().__init__(model, groups, depth)
        # Two batches of different size: a head that picks a token by its place in the batch, or by the padded length,
        # shows in one of them.
        self.batches = [collate(rows), collate(rows[:1])]
        head = callable_modules(model, groups[depth].modules)
        with running_model_code(self.place):
            calls, logits = record_calls(model, head, self.batches[0])
        chain = sorted(calls, key=lambda name: calls[name].order)
        first = next((i for i, name in enumerate(chain) if learns_or_is_random(model.get_submodule(name))), None)
        if first is None:
            raise CannotSplit("no module of the head was called")
        # Pooling before the first module that learns is a fixed function: its result is cached, not its input.
        self.chain = tuple(chain[first:])
        self.shape = tuple(logits.shape[1:])
        entering = [value for value in calls[self.chain[0]].arguments if isinstance(value, torch.Tensor)]
        if len(entering) != 1 or entering[0].shape[0] != len(rows):
            raise CannotSplit("more than one tensor enters the head")
        self.one_token = self._reads_one_token(entering[0].ndim)
        shape, mask = tuple(entering[0].shape[1:]), self.batches[0].get("attention_mask")
        if self.one_token:
            self.layouts = (Layout("float32", shape[1:]),)
        elif mask is not None and len(shape) == 2 and shape[0] == mask.shape[1]:
            self.layouts = (Layout("float32", shape[1:], ragged=True),)
            self.inputs = ("attention_mask",)
        else:
            self.layouts = (Layout("float32", shape),)

    def describe(self) -> list[str]:
        """The module that reads the features, and whether it reads one token."""
        return [self.chain[0], "one token" if self.one_token else "all"]

    def _reads_one_token(self, dimensions: int) -> bool:
        """Whether the logits of each example depend on the state of one token; heads of token classifiers read all."""
        if dimensions != 3 or len(self.shape) != 1:
            return False
        with running_model_code(self.place):
            reads = [self._states_and_reads(batch)[1] for batch in self.batches]
        return all(bool((read.sum(1) == 1).all()) for read in reads)

    def _states_and_reads(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters the head `(examples, tokens, width)`, and which tokens the logits depend on, by the gradient."""
        found: list[torch.Tensor] = []
        forward = self.model.get_submodule(self.chain[0]).forward

        def leaf(value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(value.detach().requires_grad_())
            return forward(found[-1], *args, **kwargs)

        with (
            all_require_grad(self.model, ()),
            torch.enable_grad(),
            patched_forward(self.model, {self.chain[0]: leaf}),
        ):
            logits = self.model(**batch).logits
            # Weights from 1 to 2: all positive and all different, so that equal and opposite rows of the head's weight
            # cannot cancel and make a token that is read look as if it were not.
            weights = torch.linspace(1, 2, logits.shape[-1]).to(logits)
            (gradient,) = torch.autograd.grad((logits * weights).sum(), found[0])
        return found[0].detach(), gradient.abs().amax(-1) > 0

    def capture(self, batch: Batch) -> list[torch.Tensor]:
        """What enters the head; the pass ends there."""
        if self.one_token:
            states, read = self._states_and_reads(batch)
            if not bool((read.sum(1) == 1).all()):
                raise CannotSplit("the head reads several tokens of an example")
            return [states[read]]
        found: list[torch.Tensor] = []

        def stop(value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(value)
            raise StopForward

        with (
            torch.no_grad(),
            evaluating(self.model),
            patched_forward(self.model, {self.chain[0]: stop}),
            suppress(StopForward),
        ):
            self.model(**batch)
        if not self.layouts[0].ragged:
            return found
        return [found[0][batch["attention_mask"].bool()]]

    def replay(self, features: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """The head's modules one after another."""
        value = features[0]
        if self.one_token:
            value = value[:, None]
        elif self.layouts[0].ragged:
            value = padded(value, batch["attention_mask"])
        for name in self.chain:
            value = self.model.get_submodule(name)(value)
        return value.reshape(len(value), *((-1, self.shape[-1]) if len(self.shape) == 2 else self.shape))
