"""The table of depth groups: stem, blocks, neck and head of any classifier, found from the model itself.

Nothing here knows an architecture's name. The head is what changes when the model is built for another number of
labels. The blocks are the elements of module lists that run one after another, as one traced forward pass shows.
Every other parameter belongs to the first block whose output depends on it. Freezing, learning rates, adapter
targets and proofs all read this one table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_ft.lookup import UserError


@dataclass(frozen=True)
class DepthGroup:
    """One row of the table: role `stem`, `block`, `neck`, `head` or `unused`, and what belongs to it.

    `modules` are the topmost modules that lie wholly in the group; `parameters` and `buffers` are full names, `norms`
    those of the parameters that belong to normalisation layers; `size` counts parameter elements.
    """

    name: str
    role: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    size: int
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Anatomy(Sequence[DepthGroup]):
    """The depth groups of a model from input to output; every parameter and buffer is in exactly one.

    `head_reads` is the shape, without the batch, of what enters the head.
    """

    groups: tuple[DepthGroup, ...]
    head_reads: tuple[int, ...]

    @overload
    def __getitem__(self, index: int) -> DepthGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DepthGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> DepthGroup | tuple[DepthGroup, ...]:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def of_role(self, role: str) -> tuple[DepthGroup, ...]:
        """The groups with that role, in order."""
        return tuple(group for group in self.groups if group.role == role)

    def owner(self, tensor: str) -> DepthGroup:
        """The group that a parameter or buffer belongs to, by its full name."""
        return next(group for group in self.groups if tensor in group.parameters or tensor in group.buffers)


def anatomy(model: PreTrainedModel, new: Iterable[str] = (), inputs: dict[str, torch.Tensor] | None = None) -> Anatomy:
    """Find the depth groups of an image or text classifier by tracing one forward pass.

    Args:
        new: parameters that were initialised at random when the model was loaded (`load_model` reports them);
            they join the head, since whatever is new must train.
        inputs: one batch for the forward pass; made from the configuration when missing.

    Raises:
        UserError: the model is no `transformers` classifier, so that no head can be told from the rest.
    """
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"anatomy() reads models of transformers (timm models come as TimmWrapper), not {type(model).__name__}."
        )
    label_sized = label_sized_parameters(model)
    if not label_sized:
        raise UserError(
            f"{type(model).__name__} has no parameters whose size is the number of labels, so it has no head to "
            "train. Load the model with AutoModelForImageClassification or AutoModelForSequenceClassification."
        )
    trace = _trace(model, inputs if inputs is not None else example_inputs(model))
    blocks = _find_blocks(model, trace, label_sized)
    heads = _head_modules(model, label_sized, blocks)
    owners = _assign_parameters(model, trace, blocks, heads, set(new))
    return _table(model, trace, owners, heads, len(blocks))


def label_sized_parameters(model: PreTrainedModel) -> set[str]:
    """The parameters whose shape depends on the number of labels, found by building the model with one more.

    The second model is built on the `meta` device: it has shapes but takes no memory.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = (model.config.num_labels or 0) + 1
    with torch.device("meta"):
        other = {name: parameter.shape for name, parameter in type(model)(config).named_parameters()}
    return {name for name, parameter in model.named_parameters() if other.get(name, parameter.shape) != parameter.shape}


def example_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """One small batch that the model accepts: an image of the size its configuration names, or eight tokens."""
    config = model.config
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.rand(1, *image_shape(model), device=model.device, dtype=model.dtype)}
    text = config.get_text_config()
    tokens = torch.arange(3, 11, device=model.device).unsqueeze(0) % text.vocab_size
    pad, end = getattr(text, "pad_token_id", None), getattr(text, "eos_token_id", None)
    if pad is not None:
        tokens = torch.where(tokens == pad, (pad + 1) % text.vocab_size, tokens)
    if isinstance(end, int):
        # Classifiers of BART's kind read the state at the sentence end, so there must be exactly one.
        tokens = torch.where(tokens == end, (end + 1) % text.vocab_size, tokens)
        tokens[:, -1] = end
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def image_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Channels, height and width that an image model expects; 224 pixels where the configuration names none."""
    config: Any = model.config
    wrapped: Any = getattr(model, "timm_model", None)
    if wrapped is not None:
        channels, height, width = wrapped.default_cfg["input_size"]
        size = getattr(getattr(wrapped, "patch_embed", None), "img_size", None) or (height, width)
        return (getattr(wrapped, "in_chans", channels), *size)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", 3), height, width


@dataclass
class _Call:
    """The first call of a module: when it began, the graph nodes of its main input and output, its input's shape."""

    order: int
    source: Any
    result: Any
    shape: tuple[int, ...]


@dataclass
class _Trace:
    calls: dict[str, _Call]
    logits: Any


def _trace(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> _Trace:
    """Run one forward pass and note, for each module, its first call and its place in the autograd graph.

    `forward` is wrapped on each module rather than hooked, because some models call `layer.forward()` directly.
    """
    calls: dict[str, _Call] = {}

    def wrap(name: str, forward: Any) -> Any:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            order = len(calls)
            if name in calls:
                return forward(*args, **kwargs)
            main = _main_tensor([*args, *kwargs.values()])
            calls[name] = _Call(order, _node(main), None, tuple(main.shape[1:]) if main is not None else ())
            output = forward(*args, **kwargs)
            calls[name].result = _node(_main_tensor([output]))
            return output

        return recorded

    with _all_require_grad(model), torch.enable_grad():
        named = {name: module for name, module in model.named_modules() if name}
        for name, module in named.items():
            module.forward = wrap(name, module.forward)
        try:
            output = model(**inputs)
        finally:
            for module in named.values():
                del module.forward
    return _Trace(calls, _node(output.logits))


@contextmanager
def _all_require_grad(model: nn.Module) -> Iterator[None]:
    """Let every floating parameter require a gradient, in evaluation mode, and put everything back after."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def _main_tensor(values: Iterable[Any]) -> torch.Tensor | None:
    """The first tensor that carries a gradient in a call's arguments or result; else the first floating one."""
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


def _upstream(node: Any, seen: set[Any], stop: frozenset[Any] = frozenset()) -> set[Any]:
    """All graph nodes that `node` depends on and that are not yet in `seen`; does not go past `stop`."""
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


def _find_blocks(model: nn.Module, trace: _Trace, label_sized: set[str]) -> list[str]:
    """The names of the blocks in the order they run; empty when the model has no stack of any kind."""
    modules = dict(model.named_modules())
    for leaves in (2, 1):
        names = _blocks_below("", modules, trace, label_sized, leaves)
        if len(names) > 1:
            return sorted(names, key=lambda name: trace.calls[name].order)
    return []


def _blocks_below(
    name: str, modules: dict[str, nn.Module], trace: _Trace, label_sized: set[str], leaves: int
) -> list[str]:
    module = modules[name]
    children = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
    if _is_stack(module, children, modules, trace, leaves) and not _holds(name, label_sized):
        ran = [child for child in children if child in trace.calls and _weighted_leaves(modules[child])]
        return [block for child in ran for block in _open(child, modules, trace, label_sized, leaves)]
    return [block for child in children for block in _blocks_below(child, modules, trace, label_sized, leaves)]


def _is_stack(
    module: nn.Module, children: list[str], modules: dict[str, nn.Module], trace: _Trace, leaves: int
) -> bool:
    """Whether a module's children run one after another and most of them are more than a single layer."""
    if not isinstance(module, nn.ModuleList | nn.Sequential):
        return False
    ran = [child for child in children if child in trace.calls and _weighted_leaves(modules[child])]
    ran.sort(key=lambda child: trace.calls[child].order)
    heavy = [child for child in ran if _weighted_leaves(modules[child]) >= leaves]
    if len(ran) < 2 or 2 * len(heavy) < len(ran):
        return False
    return all(_follows(trace.calls[after], trace.calls[before]) for before, after in pairwise(ran))


def _follows(after: _Call, before: _Call) -> bool:
    """Whether what enters one module depends on what left another."""
    return before.result is not None and before.result in _upstream(after.source, set())


def _open(child: str, modules: dict[str, nn.Module], trace: _Trace, label_sized: set[str], leaves: int) -> list[str]:
    """The blocks inside an element of a stack (a stage of blocks), or the element itself when it is one block.

    It is one block when its input reaches its output past the inner modules (a residual connection), or when
    these are all of different kinds (attention, then feed-forward).
    """
    inner = _blocks_below(child, modules, trace, label_sized, leaves)
    kinds = {type(modules[name]) for name in inner}
    if len(inner) < 2 or len(kinds) == len(inner):
        return [child]
    call = trace.calls[child]
    last = max(inner, key=lambda name: trace.calls[name].order)
    stop = frozenset([trace.calls[last].result])
    around = _upstream(call.result, set(), stop) if call.result is not trace.calls[last].result else set()
    return [child] if call.source in around else inner


def _weighted_leaves(module: nn.Module) -> int:
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def _holds(module: str, parameters: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for name in parameters)


def _head_modules(model: PreTrainedModel, label_sized: set[str], blocks: list[str]) -> set[str]:
    """The largest modules around the label-sized parameters that hold no block and are not the base model."""
    base = model.base_model_prefix if hasattr(model, model.base_model_prefix) else None
    heads = set()
    for parameter in label_sized:
        module = parameter.rpartition(".")[0]
        while parent := module.rpartition(".")[0]:
            if parent == base or _holds(parent, blocks):
                break
            module = parent
        heads.add(module)
    return {name for name in heads if not any(name.startswith(f"{other}.") for other in heads)}


def _assign_parameters(
    model: nn.Module, trace: _Trace, blocks: list[str], heads: set[str], new: set[str]
) -> dict[str, str]:
    """Parameter name -> group name (`stem`, `block 0`, ..., `neck`, `head`, `unused`)."""
    owners: dict[str, str] = {}
    rest: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        block = next((i for i, prefix in enumerate(blocks) if name.startswith(f"{prefix}.")), None)
        if name in new or any(name.startswith(f"{head}.") for head in heads):
            owners[name] = "head"
        elif block is not None:
            owners[name] = f"block {block}"
        else:
            rest[id(parameter)] = name
    outputs = [(f"block {i}" if i else "stem", trace.calls[name].result) for i, name in enumerate(blocks)]
    seen: set[Any] = set()
    for group, node in [*outputs, ("neck" if blocks else "stem", trace.logits)]:
        reached = _upstream(node, seen)
        seen |= reached
        for variable in (getattr(step, "variable", None) for step in reached):
            if variable is not None and id(variable) in rest:
                owners[rest.pop(id(variable))] = group
    return owners | dict.fromkeys(rest.values(), "unused")


def _table(model: nn.Module, trace: _Trace, owners: dict[str, str], heads: set[str], blocks: int) -> Anatomy:
    order = ["stem", *(f"block {i}" for i in range(blocks)), "neck", "head", "unused"]
    homes = _module_homes(model, trace, owners, order)
    buffers = {name: _home_of(name, homes, owners) for name, _ in model.named_buffers()}
    parameters = dict(model.named_parameters())
    norms = _normalisation(model)
    groups = []
    for group in order:
        members = tuple(name for name in parameters if owners[name] == group)
        if members:
            groups.append(
                DepthGroup(
                    name=group,
                    role=group.split()[0],
                    modules=tuple(name for name, home in homes.items() if home == group),
                    parameters=members,
                    buffers=tuple(name for name, home in buffers.items() if home == group),
                    size=sum(parameters[name].numel() for name in members),
                    norms=tuple(name for name in members if name in norms),
                )
            )
    first = min((head for head in heads if head in trace.calls), key=lambda head: trace.calls[head].order, default=None)
    return Anatomy(tuple(groups), trace.calls[first].shape if first else ())


def _normalisation(model: nn.Module) -> set[str]:
    """Parameters of normalisation layers, found by their type: names differ (`normalization.weight` in ResNet)."""
    return {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for key, _ in module.named_parameters(recurse=False)
    }


def _module_homes(model: nn.Module, trace: _Trace, owners: dict[str, str], order: list[str]) -> dict[str, str]:
    """Topmost module name -> group, for modules that lie wholly in one group.

    A module without parameters (dropout, pooling) that stands between groups goes with what ran before it; after
    the last group below the head it goes with the head, whose dropout must stay alive while the head trains.
    """
    homes: dict[str, str] = {}
    bare: list[str] = []

    def place(name: str, module: nn.Module) -> None:
        groups = {
            owners[full]
            for key, _ in module.named_parameters()
            for full in [f"{name}.{key}" if name else key]
            if full in owners
        }
        if len(groups) == 1 and name:
            homes[name] = groups.pop()
        elif not groups and name:
            bare.append(name)
        else:
            for child, part in module.named_children():
                place(f"{name}.{child}" if name else child, part)

    place("", model)
    ran = sorted((trace.calls[name].order, home) for name, home in homes.items() if name in trace.calls)
    below_head = [home for home in order[:-2] if home in owners.values()]
    for name in bare:
        if name in trace.calls:
            before = [home for begun, home in ran if begun < trace.calls[name].order and home != "head"]
            home = before[-1] if before else below_head[0]
            homes[name] = "head" if before and home == below_head[-1] else home
    return homes


def _home_of(tensor: str, homes: dict[str, str], owners: dict[str, str]) -> str:
    """The group of a buffer: that of the module around it, or of the parameters beside it."""
    module = tensor.rpartition(".")[0]
    name = module
    while name:
        if name in homes:
            return homes[name]
        name = name.rpartition(".")[0]
    beside = [owners[key] for key in owners if key.rpartition(".")[0] == module]
    return beside[0] if beside else "stem"


def linear_head(groups: Anatomy) -> bool:
    """Whether the head is a single layer: one weight, perhaps with a bias."""
    weights = [name for name in groups.of_role("head")[0].parameters if not name.endswith("bias")]
    return len(weights) == 1
