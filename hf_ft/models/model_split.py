"""Cutting: a frozen lower part that runs once per example, and an upper part that trains on what it gave.

Two ways of cutting, tried from the top down. *Before the head*: what enters the head is kept, and the head alone is
run on it. *After a block*: the model's own forward runs with stubs for everything frozen, and the last frozen block
answers with what was kept, so that the code between the blocks (masks, position biases) stays the model's own. What
has to be kept is read from the autograd graph: the frozen modules' outputs that the logits depend on. No cut is
believed: each is tried on real examples in another order, in other batches and with other padding than when kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from hf_ft.models.grouping import DepthGroup, DepthGroups
from hf_ft.models.layout import Layout
from hf_ft.models.tracing import all_require_grad, evaluating, full_precision, upstream

Batch = Mapping[str, torch.Tensor]
Collate = Callable[[list[dict[str, Any]]], Batch]
Sizes = tuple[dict[str, int], dict[str, int]]
"""How many examples (B) and tokens (T) two batches have."""

TOLERANCE = 1e-5
"""Largest difference between the logits of a cut model and of the whole one, relative to their scale."""
SLOPES = 1e-2
"""Largest distance between gradients, relative to their size: more than rounding, which turns a ReLU here and there."""
REBATCHING = 1e-4
"""Largest difference of the whole model's logits between batches that is rounding: more is a dependence on padding."""


class CannotSplit(Exception):
    """A model that cannot be divided at a depth; the text says why."""


def find_split(
    model: PreTrainedModel, groups: DepthGroups, depth: int, rows: list[dict[str, Any]], collate: Collate
) -> ModelSplit:
    """The highest cut with at most `depth` groups below it that gives the logits of the whole model.

    Args:
        depth: how many groups may lie below, as `AppliedStage.frozen_depth` counts them.
        rows: a few encoded examples without labels, of lengths as different as the data have.
        collate: makes a batch of rows.

    Raises:
        CannotSplit: there is none; gives the reason of the highest.
    """
    used = [group for group in groups if group.role != "unused"]
    reasons = []
    with _telling_head(model, used[-1], collate(rows)):
        for height in range(min(depth, len(used) - 1), 0, -1):
            if used[height - 1].role == "stem" and len(used) > 2:
                break  # nothing but embeddings below
            try:
                split = split_at(model, used, height, rows, collate)
            except CannotSplit as error:
                reasons.append(str(error))
            else:
                split.notes += [f"not split higher: {reasons[0]}"] if reasons else []
                return split
    raise CannotSplit(reasons[0] if reasons else "no block is frozen")


@contextmanager
def _telling_head(model: PreTrainedModel, head: DepthGroup, batch: Batch) -> Iterator[None]:
    """While it lasts, a head that gives all examples the same logits (weights of zero) has random weights instead.

    From such logits nothing could be told: any cut would seem right.
    """
    with torch.no_grad(), evaluating(model):
        logits = torch.stack(
            [row.flatten()[: model.config.num_labels] for row in _by_example(model(**batch).logits, batch)]
        )
    if float((logits - logits[:1]).abs().max()) > TOLERANCE * float(logits.abs().max()):
        yield
        return
    before = {name: model.get_parameter(name).detach().clone() for name in head.parameters}
    with torch.no_grad(), torch.random.fork_rng():
        for name in before:
            model.get_parameter(name).normal_(std=0.1)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                model.get_parameter(name).copy_(value)


def split_at(
    model: PreTrainedModel, used: Sequence[DepthGroup], height: int, rows: list[dict[str, Any]], collate: Collate
) -> ModelSplit:
    """The cut above the first `height` groups, verified.

    Raises:
        CannotSplit: with the reason.
    """
    ways: list[Callable[[], ModelSplit]] = []
    if used[height].role == "head":
        ways += [
            lambda: HeadSplit(model, used, height, rows, collate),
            lambda: ForwardSplit(model, used, height, rows, collate, at_head=True),
        ]
    if any(group.role == "block" for group in used[:height]):
        ways.append(lambda: ForwardSplit(model, used, height, rows, collate))
    reason = f"{used[height - 1].name} has no block below it"
    for way in ways:
        try:
            split = way()
            verify(split, rows, collate)
        except CannotSplit as error:
            reason = str(error)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            # The model's own code met something that it does not expect: as many kinds of error as there are authors.
            reason = f"{type(error).__name__} in the model's own code above {used[height - 1].name}"
        else:
            return split
    raise CannotSplit(reason)


@full_precision()
def verify(split: ModelSplit, rows: list[dict[str, Any]], collate: Collate) -> None:
    """Hold the cut model to the whole one: the same logits in other batches, and the same gradients above the split.

    Examples are in another order, batching and padding than when kept. What the whole model itself changes under
    re-batching, being rounding, is allowed to the cut one too. Logits alone would not show a cut that jumps over a
    part that trains: such a part would have no gradient.

    Raises:
        CannotSplit: they differ by more, or the whole model's own logits depend on the padding.
    """
    order = list(reversed(range(len(rows))))
    parts = [part for part in (order[: (len(rows) + 1) // 2], order[(len(rows) + 1) // 2 :]) if part]
    batches = [collate([rows[i] for i in part]) for part in parts]
    whole = collate(rows)
    kept: dict[int, list[torch.Tensor]] = {}
    alone: dict[int, torch.Tensor] = {}
    for part, batch in zip(parts, batches, strict=True):
        kept |= zip(part, split.unbatch(split.capture(batch), batch), strict=True)
        with torch.no_grad(), evaluating(split.model):
            alone |= zip(part, _by_example(split.model(**batch).logits, batch), strict=True)
    features = [torch.cat(values) for values in zip(*(kept[i] for i in range(len(rows))), strict=True)]
    parameters = [split.model.get_parameter(name) for group in split.upper for name in group.parameters]
    upper = UpperPart(split)
    with all_require_grad(split.model, parameters), torch.enable_grad():
        with split.installed():  # first, so that nothing is found that a whole pass left behind
            found, own = _answer(upper, {"features": features, **whole}, parameters)
        expected, slopes = _answer(split.model, whole, parameters)
    scale = max(float(expected.abs().max()), 1e-6)
    noise = float((torch.cat([alone[i] for i in range(len(rows))]) - expected).abs().max()) / scale
    if noise > REBATCHING:
        on = "how far a text is padded" if "attention_mask" in whole else "what else is in the batch"
        raise CannotSplit(f"the model's answer depends on {on}")
    if found.shape != expected.shape:
        raise CannotSplit(f"{split.name}: logits have another shape")
    split.difference = float((found - expected).abs().max()) / scale
    if not split.difference <= max(TOLERANCE, 2 * noise):
        raise CannotSplit(f"{split.name}: the logits differ by {split.difference:.1g} of their scale")
    silent = any(bool(two.any()) and not bool(one.any()) for one, two in zip(own, slopes, strict=True))
    apart, size = (
        math.sqrt(sum(float((value**2).sum()) for value in values))
        for values in ([one - two for one, two in zip(own, slopes, strict=True)], slopes)
    )
    if silent or apart > SLOPES * size:
        raise CannotSplit(f"{split.name}: what trains would get other gradients")


def _answer(
    model: nn.Module, inputs: Mapping[str, Any], parameters: list[nn.Parameter]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits without padding, and the gradients of one weighting of them."""
    with evaluating(model):
        logits = torch.cat(_by_example(model(**inputs).logits, inputs))
        total = (logits * torch.linspace(-1, 1, logits.shape[-1]).to(logits)).sum()
        slopes = torch.autograd.grad(total, [value for value in parameters if value.requires_grad], allow_unused=True)
    return logits.detach(), [torch.zeros(1) if slope is None else slope.cpu() for slope in slopes]


def _by_example(logits: torch.Tensor, batch: Mapping[str, Any]) -> list[torch.Tensor]:
    """The logits example by example; those of tokens without padding."""
    if logits.ndim < 3 or "attention_mask" not in batch:
        return list(logits.float().split(1))
    mask = batch["attention_mask"]
    return list(logits.float()[mask.bool()].split(mask.sum(1).tolist()))


@dataclass(frozen=True)
class Kept:
    """One tensor that is kept: the module that gives it (or, `entering`, takes it), its place there, its layout.

    `axes` are its dimensions in the order examples, tokens, rest: not all models have them so (XLNet, SqueezeBERT).
    """

    module: str
    place: int
    layout: Layout
    axes: tuple[int, ...]
    entering: bool = False

    def take(self, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The tensor as it is kept: examples first, tokens without padding."""
        value = value.permute(self.axes)
        return value[mask] if self.layout.ragged else value

    def give(self, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The tensor as the model has it."""
        value = _padded(value, mask) if self.layout.ragged and mask is not None else value
        return value.permute([self.axes.index(axis) for axis in range(len(self.axes))])


class ModelSplit:
    """A model divided at a depth; `HeadSplit` and `ForwardSplit` say how.

    `name` says where, `below` are the groups below, `layouts` what is kept for each example, `inputs` the names of
    what the upper part still reads of a batch.
    """

    name: str
    layouts: tuple[Layout, ...]
    inputs: tuple[str, ...] = ()
    difference: float = 0.0

    def __init__(self, model: PreTrainedModel, used: Sequence[DepthGroup], height: int) -> None:
        self.model, self.lower, self.upper = model, tuple(used[:height]), tuple(used[height:])
        self.notes: list[str] = []

    def describe(self) -> list[str]:
        """What is kept and where, for the key of the cache."""
        raise NotImplementedError

    def capture(self, batch: Batch) -> list[torch.Tensor]:
        """Run what is below on a batch; ragged tensors come without padding, one example after another."""
        raise NotImplementedError

    def replay(self, features: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """The logits from what `capture` gave, within `installed`."""
        raise NotImplementedError

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While it lasts, what is below does not run."""
        yield

    def unbatch(self, features: Sequence[torch.Tensor], batch: Batch) -> list[list[torch.Tensor]]:
        """What was captured, example by example, each with a first dimension."""
        lengths = batch["attention_mask"].sum(1).tolist() if any(layout.ragged for layout in self.layouts) else []
        columns = [
            list(value.split(lengths) if layout.ragged else value.split(1))
            for value, layout in zip(features, self.layouts, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]


class UpperPart(nn.Module):
    """The part of a model above a split, which reads features instead of inputs.

    Holds the very modules of the model, under their names in it, so that optimizer groups, checkpoints and audits
    read alike; what is below is no part of it. Runs within `split.installed()`.
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
        """Compute activations anew in the backward pass, in those blocks of the model that train."""
        self.split.model.activation_checkpointing_enable(*args, **kwargs)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """The same by its older name."""
        self.split.model.gradient_checkpointing_enable(*args, **kwargs)

    def train(self, mode: bool = True) -> UpperPart:
        """Training mode; the model's own flag, which functional dropout around the head reads, goes with it."""
        super().train(mode)
        self.split.model.training = mode
        return self

    def forward(self, features: Sequence[torch.Tensor], labels: Any = None, **inputs: torch.Tensor) -> ModelOutput:
        """The logits; `labels` are taken so that `Trainer` knows their name, and not read."""
        kinds = [layout.torch_dtype for layout in self.split.layouts]
        features = [value.to(kind) for value, kind in zip(features, kinds, strict=True)]
        return ModelOutput(logits=self.split.replay(features, inputs))


def _container(root: nn.Module, path: str) -> nn.Module:
    """The empty module at a dotted path, made where there is none."""
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


# --- Calls ------------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the last call of a module in one pass took and gave, flattened; when that ended and the first one did."""

    order: int
    taken: list[Any]
    given: list[Any]
    structure: Any
    first: int
    times: int = 1


@contextmanager
def patched_forward(model: nn.Module, forwards: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """While it lasts, modules have another `forward`; as attributes of theirs, since some are called by that name."""
    own = {}
    for name, forward in forwards.items():
        module = model.get_submodule(name)
        own[name] = vars(module).get("forward")
        module.forward = forward
    try:
        yield
    finally:
        for name, before in own.items():
            module = model.get_submodule(name)
            del module.forward
            if before is not None:
                module.forward = before


def _watch(model: PreTrainedModel, names: Iterable[str], batch: Batch) -> tuple[dict[str, Seen], torch.Tensor]:
    """Run a batch with gradients in evaluation mode: what each named module took and gave, and the logits."""
    seen: dict[str, Seen] = {}
    counter = iter(range(10**9))

    def wrap(name: str) -> Callable[..., Any]:
        forward = model.get_submodule(name).forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            given, structure = pytree.tree_flatten(output)
            order, before = next(counter), seen.get(name)
            first, times = (before.first, before.times + 1) if before else (order, 1)
            seen[name] = Seen(order, pytree.tree_flatten((args, kwargs))[0], given, structure, first, times)
            return output

        return watched

    with all_require_grad(model), torch.enable_grad(), patched_forward(model, {name: wrap(name) for name in names}):
        logits = model(**batch).logits
    return seen, logits


class _Enough(Exception):
    """Ends a pass when all that is to be kept has been seen."""


# --- Before the head --------------------------------------------------------------------------------------------------


class HeadSplit(ModelSplit):
    """A cut before the head: its modules run one after another on what entered the first of them.

    Where only one token's state is read (the first, or the last of a decoder), that state alone is kept.
    """

    name = "before the head"

    def __init__(
        self,
        model: PreTrainedModel,
        used: Sequence[DepthGroup],
        height: int,
        rows: list[dict[str, Any]],
        collate: Collate,
    ) -> None:
        super().__init__(model, used, height)
        self.batches = [collate(rows), collate(rows[:1])]
        seen, logits = _watch(model, _callable(model, used[height].modules), self.batches[0])
        chain = sorted(seen, key=lambda name: seen[name].order)
        first = next((i for i, name in enumerate(chain) if _matters(model.get_submodule(name))), None)
        if first is None:
            raise CannotSplit("no module of the head was called")
        self.chain = tuple(chain[first:])
        self.shape = tuple(logits.shape[1:])
        entering = [value for value in seen[self.chain[0]].taken if isinstance(value, torch.Tensor)]
        if len(entering) != 1 or entering[0].shape[0] != len(rows):
            raise CannotSplit("more than one tensor enters the head")
        self.one_token = self._one_position(entering[0].ndim)
        shape, lengths = tuple(entering[0].shape[1:]), self.batches[0].get("attention_mask")
        if self.one_token:
            self.layouts = (Layout("float32", shape[1:]),)
        elif lengths is not None and len(shape) == 2 and shape[0] == lengths.shape[1]:
            self.layouts = (Layout("float32", shape[1:], ragged=True),)
            self.inputs = ("attention_mask",)
        else:
            self.layouts = (Layout("float32", shape),)

    def describe(self) -> list[str]:
        """The module that reads, and whether it reads one token."""
        return [self.chain[0], "one token" if self.one_token else "all"]

    def _one_position(self, dimensions: int) -> bool:
        """Whether the logits of each example depend on one token's state; heads of token classifiers read all."""
        if dimensions != 3 or len(self.shape) != 1:
            return False
        reads = [self._read(batch)[1] for batch in self.batches]
        return all(bool((read.sum(1) == 1).all()) for read in reads)

    def _read(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters the head (examples, tokens, width), and which tokens the logits of each example depend on."""
        found: list[torch.Tensor] = []
        module = self.model.get_submodule(self.chain[0])
        forward = module.forward

        def leaf(value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(value.detach().requires_grad_())
            return forward(found[-1], *args, **kwargs)

        with (
            all_require_grad(self.model, ()),
            torch.enable_grad(),
            patched_forward(self.model, {self.chain[0]: leaf}),
        ):
            logits = self.model(**batch).logits
            (gradient,) = torch.autograd.grad(
                (logits * torch.linspace(1, 2, logits.shape[-1]).to(logits)).sum(), found[0]
            )
        return found[0].detach(), gradient.abs().amax(-1) > 0

    def capture(self, batch: Batch) -> list[torch.Tensor]:
        """What enters the head."""
        if self.one_token:
            states, read = self._read(batch)
            if not bool((read.sum(1) == 1).all()):
                raise CannotSplit("the head reads several tokens of an example")
            return [states[read]]
        found: list[torch.Tensor] = []

        def keep(value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found.append(value)
            raise _Enough

        with (
            torch.no_grad(),
            evaluating(self.model),
            patched_forward(self.model, {self.chain[0]: keep}),
            suppress(_Enough),
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
            value = _padded(value, batch["attention_mask"])
        for name in self.chain:
            value = self.model.get_submodule(name)(value)
        return value.reshape(len(value), *((-1, self.shape[-1]) if len(self.shape) == 2 else self.shape))


def _matters(module: nn.Module) -> bool:
    """Whether a module of the head learns or is random in training; pooling before it is a fixed function."""
    if any(True for _ in module.parameters()):
        return True
    return any(getattr(part, "p", 0) or getattr(part, "drop_prob", 0) for part in module.modules())


def _padded(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States of tokens, one example after another, at the places that the mask gives them; zeros elsewhere."""
    padded = states.new_zeros(*mask.shape, *states.shape[1:])
    padded[mask.bool()] = states
    return padded


# --- After a block ----------------------------------------------------------------------------------------------------


@dataclass
class Stub:
    """What a frozen module answers instead of running: for each tensor it gives, how to make it.

    A recipe is `("kept", n)`, the n-th kept tensor; `("taken", n)`, the n-th value that it is called with; `("zeros",
    sizes, dtype)`, where a size is a number or a factor and a letter (B examples, T tokens); `("same", value)`; or
    `("made",)`: the module runs for real and this part of its answer counts.
    """

    structure: Any
    recipes: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        """Whether the module has to run."""
        return ("made",) in self.recipes


class ForwardSplit(ModelSplit):
    """A cut at any depth: the model's own forward, with stubs below that give what was kept.

    Before the head, what enters the head's modules is kept, as long as nothing of the head lies below it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        used: Sequence[DepthGroup],
        height: int,
        rows: list[dict[str, Any]],
        collate: Collate,
        at_head: bool = False,
    ) -> None:
        super().__init__(model, used, height)
        self.name = HeadSplit.name if at_head else f"after {used[height - 1].name}"
        whole, few = collate(rows), _other_sizes(rows, collate)
        self.text = "input_ids" in whole
        self.inputs = tuple(name for name in whole if self.text)
        self.images = {name: value[:1] for name, value in whole.items() if not self.text}
        # Embeddings are cheap, and some models read them again higher up; the stem of an image model is not.
        below = [group for group in self.lower if not (self.text and group.role == "stem")]
        names = _weighted(model, [name for group in below for name in group.modules])
        higher = _weighted(model, [name for group in self.upper for name in group.modules])
        heads = _callable(model, self.upper[0].modules) if at_head else []
        watched = dict.fromkeys([*names, *higher, *heads])
        (seen, logits), (other, _) = _watch(model, watched, whole), _watch(model, watched, few)
        # A module that runs above as well, such as a block that is shared, stays alive.
        begins = min((seen[name].first for name in higher if name in seen), default=len(seen))
        names = [name for name in names if name in seen and name in other and seen[name].order < begins]
        sizes = (_size(whole), _size(few))
        self.kept: list[Kept] = []
        if at_head:
            self._enter(seen, other, heads, sizes)
        needed = set() if at_head else _needed({name: seen[name] for name in names}, logits)
        self.stubs = {name: self._stub(name, seen[name], other[name], needed, sizes) for name in names}
        if not self.kept:
            raise CannotSplit(f"{self.name}: nothing to keep was found")
        self.layouts = tuple(kept.layout for kept in self.kept)
        self.times = {kept.module: seen[kept.module].times for kept in self.kept}
        self._features: Sequence[torch.Tensor] = ()
        self._mask: torch.Tensor | None = None

    def describe(self) -> list[str]:
        """Each tensor that is kept."""
        return [f"{kept.module} {'takes' if kept.entering else 'gives'} {kept.place} {kept.axes}" for kept in self.kept]

    def _enter(self, seen: Mapping[str, Seen], other: Mapping[str, Seen], heads: Sequence[str], sizes: Sizes) -> None:
        """Keep what enters those modules of the head that have nothing of the head below them."""
        own = {id(value) for name in self.upper[0].parameters for value in [self.model.get_parameter(name)]}
        for name in sorted((name for name in heads if name in seen), key=lambda name: seen[name].order):
            if not _matters(self.model.get_submodule(name)):
                continue
            tensors = [i for i, value in enumerate(seen[name].taken) if getattr(value, "grad_fn", None) is not None]
            reached = [upstream(seen[name].taken[i].grad_fn, set()) for i in tensors]
            if any(id(getattr(step, "variable", None)) in own for steps in reached for step in steps):
                continue
            for place in tensors:
                kept = _kept(name, place, seen[name].taken[place], other[name].taken[place], sizes, entering=True)
                if kept is None:
                    raise CannotSplit(f"{self.name}: {name} takes a tensor whose size follows no rule")
                self.kept.append(kept)

    def _stub(self, name: str, one: Seen, two: Seen, needed: set[tuple[str, int]], sizes: Sizes) -> Stub:
        stub = Stub(one.structure)
        taken = {id(value): place for place, value in enumerate(one.taken) if isinstance(value, torch.Tensor)}
        for place, value in enumerate(one.given):
            if not isinstance(value, torch.Tensor):
                stub.recipes.append(("same", value))
                continue
            shape = _symbolic(value, two.given[place], sizes)
            if (name, place) in needed:
                kept = _kept(name, place, value, two.given[place], sizes)
                stub.recipes.append(("kept", len(self.kept)) if kept else ("made",))
                self.kept += [kept] if kept else []
            elif id(value) in taken:
                stub.recipes.append(("taken", taken[id(value)]))
            elif shape is None:
                raise CannotSplit(f"{self.name}: {name} gives a tensor whose size follows no rule")
            else:
                stub.recipes.append(("zeros", shape, value.dtype))
        return stub

    def capture(self, batch: Batch) -> list[torch.Tensor]:
        """Run what is below; the pass ends where the last kept tensor is seen."""
        found: dict[Kept, torch.Tensor] = {}
        left = dict(self.times)
        mask = batch["attention_mask"].bool() if self.text else None

        def wrap(name: str) -> Callable[..., Any]:
            forward = self.model.get_submodule(name).forward
            wanted = [kept for kept in self.kept if kept.module == name]

            def watched(*args: Any, **kwargs: Any) -> Any:
                left[name] -= 1
                output = None if wanted[0].entering and not any(left.values()) else forward(*args, **kwargs)
                values = pytree.tree_flatten((args, kwargs) if wanted[0].entering else output)[0]
                if not any(left.values()):
                    found.update((kept, values[kept.place]) for kept in wanted)
                    raise _Enough
                # The rest of the pass may write into what it was given.
                found.update((kept, values[kept.place].clone()) for kept in wanted)
                return output

            return watched

        watching = {name: wrap(name) for name in self.times}
        with torch.no_grad(), evaluating(self.model), patched_forward(self.model, watching), suppress(_Enough):
            self.model(**batch)
        tensors = [kept.take(found[kept], mask) for kept in self.kept]
        if any(tuple(tensor.shape[1:]) != layout.shape for tensor, layout in zip(tensors, self.layouts, strict=True)):
            raise CannotSplit(f"{self.name}: what is kept has another size for other inputs")
        return tensors

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stubs stand in for what is below."""
        forwards = {name: self._answer(name, stub) for name, stub in self.stubs.items()}
        forwards |= {kept.module: self._entered(kept.module) for kept in self.kept if kept.entering}
        with patched_forward(self.model, forwards):
            yield

    def _entered(self, name: str) -> Callable[..., Any]:
        """The forward of a module of the head, which takes what was kept in place of what it is called with."""
        forward = self.model.get_submodule(name).forward
        kept = [(number, kept) for number, kept in enumerate(self.kept) if kept.module == name]

        def entered(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = pytree.tree_flatten((args, kwargs))
            for number, each in kept:
                leaves[each.place] = each.give(self._features[number], self._mask)
            args, kwargs = pytree.tree_unflatten(leaves, structure)
            return forward(*args, **kwargs)

        return entered

    def _answer(self, name: str, stub: Stub) -> Callable[..., Any]:
        forward = self.model.get_submodule(name).forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            made = pytree.tree_flatten(forward(*args, **kwargs))[0] if stub.runs else []
            taken = pytree.tree_flatten((args, kwargs))[0]
            leaves = [self._make(recipe, place, made, taken) for place, recipe in enumerate(stub.recipes)]
            return pytree.tree_unflatten(leaves, stub.structure)

        return answer

    def _make(self, recipe: tuple[Any, ...], place: int, made: list[Any], taken: list[Any]) -> Any:
        kind = recipe[0]
        if kind == "made":
            return made[place]
        if kind == "taken":
            return taken[recipe[1]]
        if kind == "same":
            return recipe[1]
        if kind == "kept":
            return self.kept[recipe[1]].give(self._features[recipe[1]], self._mask)
        shape = [size if isinstance(size, int) else size[0] * self._sizes[size[1]] for size in recipe[1]]
        return torch.zeros(shape, dtype=recipe[2], device=self.model.device)

    def replay(self, features: Sequence[torch.Tensor], batch: Batch) -> torch.Tensor:
        """The model's own forward, within `installed`."""
        self._features = features
        if self.text:
            self._mask, inputs = batch["attention_mask"].bool(), {name: batch[name] for name in self.inputs}
        else:
            inputs = {name: value.expand(len(features[0]), *value.shape[1:]) for name, value in self.images.items()}
        self._sizes = _size(inputs)
        logits: torch.Tensor = self.model(**inputs).logits
        return logits


def _callable(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Modules that are called: of a list of modules its elements."""
    found = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            found += _callable(model, [f"{name}.{child}" for child, _ in module.named_children()])
        else:
            found.append(name)
    return found


def _weighted(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Modules that are called and hold weights: what has none, such as one dropout for all depths, may run anywhere."""
    return [name for name in _callable(model, names) if any(True for _ in model.get_submodule(name).parameters())]


def _other_sizes(rows: list[dict[str, Any]], collate: Collate) -> Batch:
    """A smaller batch, whose numbers of examples and of tokens are in another proportion where that can be."""
    whole = _size(collate(rows))
    for count in range(1, len(rows)):
        few = collate(rows[-count:])
        size = _size(few)
        if "T" not in size or size["T"] * whole["B"] != size["B"] * whole["T"]:
            return few
    return collate(rows[-1:])


def _size(batch: Batch) -> dict[str, int]:
    """How many examples (B) and tokens (T) a batch has."""
    main = batch["input_ids"] if "input_ids" in batch else next(iter(batch.values()))
    return {"B": main.shape[0]} | ({"T": main.shape[1]} if "input_ids" in batch else {})


def _needed(seen: Mapping[str, Seen], logits: torch.Tensor) -> set[tuple[str, int]]:
    """The outputs of frozen modules (module, place) that the logits depend on other than through later ones."""
    found: set[tuple[str, int]] = set()
    stop: frozenset[Any] = frozenset()
    for name in sorted(seen, key=lambda name: -seen[name].order):
        reached = upstream(logits.grad_fn, set(), stop)
        taken = {id(value) for value in seen[name].taken}
        for place, value in enumerate(seen[name].given):
            node = getattr(value, "grad_fn", None)
            # What is handed through (position biases) belongs to the module that made it.
            if node is not None and node in reached and node not in stop and id(value) not in taken:
                found.add((name, place))
                stop |= {node}
    return found


def _symbolic(one: torch.Tensor, two: Any, sizes: Sizes) -> tuple[Any, ...] | None:
    """The size of a tensor in terms of examples and tokens, from two batches; None where it follows no rule.

    Each dimension is a number, or a factor and a letter: `(1, "B")` examples, `(2, "T")` two for each token.
    """
    if not isinstance(two, torch.Tensor) or two.ndim != one.ndim:
        return None
    found: list[Any] = []
    for a, b in zip(one.shape, two.shape, strict=True):
        first, second = sizes
        rules = [
            (a // first[letter], letter)
            for letter in first
            if first[letter] != second[letter] and a * second[letter] == b * first[letter] and a % first[letter] == 0
        ]
        if a != b and not rules:
            return None
        found.append(a if a == b else rules[0])
    return tuple(found)


def _kept(name: str, place: int, one: torch.Tensor, two: Any, sizes: Sizes, entering: bool = False) -> Kept | None:
    """How a tensor is kept: by token, by example, or (None) not at all."""
    shape = _symbolic(one, two, sizes)
    if shape is None or shape.count((1, "B")) != 1 or shape.count((1, "T")) > 1 or not one.is_floating_point():
        return None
    by = [shape.index(letter) for letter in ((1, "B"), (1, "T")) if letter in shape]
    rest = [axis for axis in range(len(shape)) if axis not in by]
    if not all(isinstance(shape[axis], int) for axis in rest):
        return None
    layout = Layout(str(one.dtype).removeprefix("torch."), tuple(shape[axis] for axis in rest), ragged=len(by) > 1)
    return Kept(name, place, layout, (*by, *rest), entering)
