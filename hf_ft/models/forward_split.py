"""The split at any depth: the model's own forward runs, and stubs answer in place of the frozen modules.

What has to be cached is read from the autograd graph: the outputs of frozen modules that the logits depend on other
than through later frozen modules. For most models that is one tensor, for an encoder with a decoder two. Everything
else that a frozen module returns is made up from its arguments, from zeros, or from what it returned before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from hf_ft.modalities import batch_tokens
from hf_ft.models.forward_patching import StopForward, patched_forward
from hf_ft.models.grouping import DepthGroup
from hf_ft.models.head_split import HeadSplit
from hf_ft.models.layout import Layout
from hf_ft.models.model_split import Collate, ModelSplit, Rows, learns_or_is_random, padded
from hf_ft.models.module_calls import (
    Batch,
    CannotSplit,
    ModuleCall,
    callable_modules,
    modules_with_weights,
    record_calls,
    running_model_code,
)
from hf_ft.models.tracing import evaluating, upstream


class Size(NamedTuple):
    """A dimension that grows with the batch: `factor` for each example (B) or token (T)."""

    factor: int
    letter: str


Shape = tuple[int | Size, ...]
BatchSize = dict[str, int]
"""How many examples (B) and, of texts, tokens with padding (T) a batch has."""


@dataclass(frozen=True)
class CapturedTensor:
    """One tensor that is cached: the `place`-th result of a module or, with `entering`, its `place`-th argument.

    `axes` are its dimensions in the order examples, tokens, rest, since not all models have them so (XLNet,
    SqueezeBERT).
    """

    module: str
    place: int
    layout: Layout
    axes: tuple[int, ...]
    entering: bool = False

    def take(self, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The tensor as it is cached: examples first, tokens without padding."""
        value = value.permute(self.axes)
        return value[mask] if self.layout.ragged else value

    def give(self, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The tensor as the model has it."""
        value = padded(value, mask) if self.layout.ragged and mask is not None else value
        return value.permute([self.axes.index(axis) for axis in range(len(self.axes))])


@dataclass(frozen=True)
class FromCache:
    """Answer with the `number`-th captured tensor."""

    number: int


@dataclass(frozen=True)
class FromArgument:
    """Answer with the `place`-th argument of the call, which the module hands through."""

    place: int


@dataclass(frozen=True)
class Zeros:
    """Answer with zeros: the value does not reach the logits, but something may ask for its shape."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Constant:
    """Answer with the same value as in the recorded call; it is no tensor."""

    value: Any


@dataclass(frozen=True)
class Computed:
    """Answer with what the module computes: it runs for real."""


Answer = FromCache | FromArgument | Zeros | Constant | Computed


@dataclass
class Stub:
    """What a frozen module answers instead of running: one answer for each leaf of its result's structure."""

    structure: Any
    answers: list[Answer] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        """Whether the module has to run all the same."""
        return Computed() in self.answers


class ForwardSplit(ModelSplit):
    """A split after any depth group, or `at_head`, where the arguments of the head's modules are cached.

    `at_head` serves heads that are no chain of modules: two heads side by side, or code between their layers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        groups: Sequence[DepthGroup],
        depth: int,
        rows: Rows,
        collate: Collate,
        at_head: bool = False,
    ) -> None:
        super().__init__(model, groups, depth)
        self.name = HeadSplit.name if at_head else self.place
        # Two batches of different size show how each shape depends on the numbers of examples and tokens.
        whole, few = collate(rows), _differently_sized(rows, collate)
        self.text = batch_tokens(whole) is not None
        self.inputs = tuple(name for name in whole if self.text)
        self.images = {name: value[:1] for name, value in whole.items() if not self.text}
        # The embeddings of a text run uncached: they are cheap, and some models read them again further up. Neither is
        # true of the stem of an image model.
        lower = [group for group in self.lower if not (self.text and group.role == "stem")]
        names = modules_with_weights(model, [name for group in lower for name in group.modules])
        upper = modules_with_weights(model, [name for group in self.upper for name in group.modules])
        heads = callable_modules(model, self.upper[0].modules) if at_head else []
        watched = dict.fromkeys([*names, *upper, *heads])
        with running_model_code(self.place):
            (calls, logits), (others, _) = record_calls(model, watched, whole), record_calls(model, watched, few)
        # A module that runs in the upper part as well, such as a block with shared weights, gets no stub.
        begins = min((calls[name].first for name in upper if name in calls), default=len(calls))
        names = [name for name in names if name in calls and name in others and calls[name].order < begins]
        sizes = (_size(whole), _size(few))
        self.captured: list[CapturedTensor] = []
        if at_head:
            self._capture_arguments(calls, others, heads, sizes)
        needed = set() if at_head else _needed({name: calls[name] for name in names}, logits)
        self.stubs = {name: self._stub(name, calls[name], others[name], needed, sizes) for name in names}
        if not self.captured:
            raise CannotSplit(f"{self.name}: nothing to cache was found")
        self.layouts = tuple(captured.layout for captured in self.captured)
        self.times = {captured.module: calls[captured.module].times for captured in self.captured}
        self._features: Sequence[torch.Tensor] = ()
        self._mask: torch.Tensor | None = None

    def describe(self) -> list[str]:
        """Each tensor that is cached."""
        return [f"{one.module} {'takes' if one.entering else 'gives'} {one.place} {one.axes}" for one in self.captured]

    # --- Finding what to cache, and stubs for the rest ---

    def _capture_arguments(
        self,
        calls: Mapping[str, ModuleCall],
        others: Mapping[str, ModuleCall],
        heads: Sequence[str],
        sizes: tuple[BatchSize, BatchSize],
    ) -> None:
        """Cache the arguments of those modules of the head that depend on no parameter of the head."""
        own = {id(self.model.get_parameter(name)) for name in self.upper[0].parameters}
        for name in sorted((name for name in heads if name in calls), key=lambda name: calls[name].order):
            if not learns_or_is_random(self.model.get_submodule(name)):
                continue
            arguments = calls[name].arguments
            places = [i for i, value in enumerate(arguments) if getattr(value, "grad_fn", None) is not None]
            reached = [upstream(arguments[i].grad_fn, set()) for i in places]
            if any(id(getattr(step, "variable", None)) in own for steps in reached for step in steps):
                continue
            for place in places:
                other = _at(others.get(name), "arguments", place)
                found = _captured(name, place, arguments[place], other, sizes, entering=True)
                if found is None:
                    raise CannotSplit(f"{self.name}: {name} takes a tensor whose size follows no rule")
                self.captured.append(found)

    def _stub(
        self,
        name: str,
        call: ModuleCall,
        other: ModuleCall,
        needed: set[tuple[str, int]],
        sizes: tuple[BatchSize, BatchSize],
    ) -> Stub:
        """How to answer for a module; adds to what is cached."""
        stub = Stub(call.structure)
        arguments = {id(value): place for place, value in enumerate(call.arguments) if isinstance(value, torch.Tensor)}
        for place, value in enumerate(call.results):
            if not isinstance(value, torch.Tensor):
                stub.answers.append(Constant(value))
                continue
            twin = _at(other, "results", place)
            shape = _symbolic_shape(value, twin, sizes)
            if (name, place) in needed:
                found = _captured(name, place, value, twin, sizes)
                stub.answers.append(FromCache(len(self.captured)) if found else Computed())
                self.captured += [found] if found else []
            elif id(value) in arguments:
                stub.answers.append(FromArgument(arguments[id(value)]))
            elif shape is None:
                raise CannotSplit(f"{self.name}: {name} gives a tensor whose size follows no rule")
            else:
                stub.answers.append(Zeros(shape, value.dtype))
        return stub

    # --- The lower part ---

    def capture(self, batch: Batch) -> list[torch.Tensor]:
        """Run the lower part; the pass ends where the last captured tensor is seen."""
        found: dict[CapturedTensor, torch.Tensor] = {}
        left = dict(self.times)
        mask = batch["attention_mask"].bool() if self.text else None

        def wrap(name: str) -> Callable[..., Any]:
            forward = self.model.get_submodule(name).forward
            wanted = [captured for captured in self.captured if captured.module == name]

            def watched(*args: Any, **kwargs: Any) -> Any:
                left[name] -= 1
                last = not any(left.values())
                output = None if wanted[0].entering and last else forward(*args, **kwargs)
                values = pytree.tree_flatten((args, kwargs) if wanted[0].entering else output)[0]
                if last:
                    found.update((captured, values[captured.place]) for captured in wanted)
                    raise StopForward
                # Clones, because the rest of the pass may write into its tensors in place.
                found.update((captured, values[captured.place].clone()) for captured in wanted)
                return output

            return watched

        watching = {name: wrap(name) for name in self.times}
        with torch.no_grad(), evaluating(self.model), patched_forward(self.model, watching), suppress(StopForward):
            self.model(**batch)
        tensors = [captured.take(found[captured], mask) for captured in self.captured]
        if any(tuple(tensor.shape[1:]) != layout.shape for tensor, layout in zip(tensors, self.layouts, strict=True)):
            raise CannotSplit(f"{self.name}: a cached tensor has another size for other inputs")
        return tensors

    # --- The upper part ---

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within the block, stubs answer for the lower part."""
        forwards = {name: self._answering(name, stub) for name, stub in self.stubs.items()}
        forwards |= {captured.module: self._entered(captured.module) for captured in self.captured if captured.entering}
        with patched_forward(self.model, forwards):
            yield

    def _entered(self, name: str) -> Callable[..., Any]:
        """The forward of a module of the head with cached tensors in place of its arguments."""
        forward = self.model.get_submodule(name).forward
        captured = [(number, one) for number, one in enumerate(self.captured) if one.module == name]

        def entered(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = pytree.tree_flatten((args, kwargs))
            for number, each in captured:
                leaves[each.place] = each.give(self._features[number], self._mask)
            args, kwargs = pytree.tree_unflatten(leaves, structure)
            return forward(*args, **kwargs)

        return entered

    def _answering(self, name: str, stub: Stub) -> Callable[..., Any]:
        forward = self.model.get_submodule(name).forward

        def answering(*args: Any, **kwargs: Any) -> Any:
            computed = pytree.tree_flatten(forward(*args, **kwargs))[0] if stub.runs else []
            arguments = pytree.tree_flatten((args, kwargs))[0]
            leaves = [self._leaf(answer, place, computed, arguments) for place, answer in enumerate(stub.answers)]
            return pytree.tree_unflatten(leaves, stub.structure)

        return answering

    def _leaf(self, answer: Answer, place: int, computed: list[Any], arguments: list[Any]) -> Any:
        match answer:
            case FromCache(number):
                return self.captured[number].give(self._features[number], self._mask)
            case FromArgument(number):
                return arguments[number]
            case Constant(value):
                return value
            case Zeros(shape, dtype):
                size = [one if isinstance(one, int) else one.factor * self._sizes[one.letter] for one in shape]
                return torch.zeros(size, dtype=dtype, device=self.model.device)
        return computed[place]

    def replay(self, features: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """The model's own forward, within `installed`."""
        self._features = features
        if self.text:
            self._mask, inputs = batch["attention_mask"].bool(), {name: batch[name] for name in self.inputs}
        else:
            # The stubs do not look at the image, so any will do.
            inputs = {name: value.expand(len(features[0]), *value.shape[1:]) for name, value in self.images.items()}
        self._sizes = _size(inputs)
        logits: torch.Tensor = self.model(**inputs).logits
        return logits


def _at(call: ModuleCall | None, what: str, place: int) -> Any:
    """An argument or result of a call in another batch; None where the model has none there."""
    values: Sequence[Any] = getattr(call, what) if call else ()
    return values[place] if place < len(values) else None


def _differently_sized(rows: Rows, collate: Collate) -> Batch:
    """A smaller batch of the same rows, with another ratio of tokens to examples if there is one.

    With the same ratio a dimension of, say, 12 could not be told from three per example or one per token.
    """
    whole = _size(collate(rows))
    for count in range(1, len(rows)):
        few = collate(rows[-count:])
        size = _size(few)
        if "T" not in size or size["T"] * whole["B"] != size["B"] * whole["T"]:
            return few
    return collate(rows[-1:])


def _size(batch: Batch) -> BatchSize:
    tokens = batch_tokens(batch)
    if tokens is None:
        return {"B": next(iter(batch.values())).shape[0]}
    return {"B": tokens.shape[0], "T": tokens.shape[1]}


def _needed(calls: Mapping[str, ModuleCall], logits: torch.Tensor) -> set[tuple[str, int]]:
    """The results of frozen modules (module, place) that the logits depend on other than through later ones.

    The search starts at the module that ran last and walks the graph from the logits down, stopping at every result
    found so far: an earlier result that is reached then has a way around all later ones (a skip connection, a state
    that a decoder reads in every layer) and has to be cached as well.
    """
    found: set[tuple[str, int]] = set()
    stop: frozenset[Any] = frozenset()
    for name in sorted(calls, key=lambda name: -calls[name].order):
        reached = upstream(logits.grad_fn, set(), stop)
        arguments = {id(value) for value in calls[name].arguments}
        for place, value in enumerate(calls[name].results):
            node = getattr(value, "grad_fn", None)
            # A tensor that is handed through (position biases) belongs to the module that made it.
            if node is not None and node in reached and node not in stop and id(value) not in arguments:
                found.add((name, place))
                stop |= {node}
    return found


def _symbolic_shape(one: torch.Tensor, two: Any, sizes: tuple[BatchSize, BatchSize]) -> Shape | None:
    """The shape of a tensor in terms of examples and tokens, from two batches; None where it follows no rule."""
    if not isinstance(two, torch.Tensor) or two.ndim != one.ndim:
        return None
    found: list[int | Size] = []
    first, second = sizes
    for a, b in zip(one.shape, two.shape, strict=True):
        rules = [
            Size(a // first[letter], letter)
            for letter in first
            if first[letter] != second[letter] and a * second[letter] == b * first[letter] and a % first[letter] == 0
        ]
        if a != b and not rules:
            return None
        found.append(a if a == b else rules[0])
    return tuple(found)


def _captured(
    name: str, place: int, one: torch.Tensor, two: Any, sizes: tuple[BatchSize, BatchSize], entering: bool = False
) -> CapturedTensor | None:
    """How a tensor is cached: by token, by example, or (None) not at all."""
    shape = _symbolic_shape(one, two, sizes)
    if shape is None or shape.count(Size(1, "B")) != 1 or shape.count(Size(1, "T")) > 1 or not one.is_floating_point():
        return None
    by = [shape.index(size) for size in (Size(1, "B"), Size(1, "T")) if size in shape]
    rest = [axis for axis in range(len(shape)) if axis not in by]
    fixed = tuple(size for axis, size in enumerate(shape) if axis in rest and isinstance(size, int))
    if len(fixed) < len(rest):
        return None
    layout = Layout(str(one.dtype).removeprefix("torch."), fixed, ragged=len(by) > 1)
    return CapturedTensor(name, place, layout, (*by, *rest), entering)
