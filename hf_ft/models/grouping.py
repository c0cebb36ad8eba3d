"""The depth groups of a classifier: stem, blocks, neck and head, found from the model itself.

No architecture is known by name. The head is what changes when the model is built for another number of labels. The
blocks are the elements of module lists that run one after another, as one traced forward pass shows. Every other
parameter belongs to the first block whose output depends on it. Freezing, learning rates, adapter targets and audits
all use these groups.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_ft.errors import UserError, shorten
from hf_ft.modalities import batch_tokens
from hf_ft.models.tracing import Trace, example_inputs, trace_forward, upstream


@dataclass(frozen=True)
class DepthGroup:
    """One depth group and the modules, parameters and buffers that belong to it.

    Args:
        name: `stem`, `block 0`, `block 1`, ..., `neck`, `head` or `unused`.
        role: The first word of the name.
        modules: Full names of the topmost modules that lie entirely in the group.
        parameters: Full names of its parameters.
        buffers: Full names of its buffers.
        size: Number of parameter elements.
        norms: The parameters of normalisation layers.
        label_sized: The parameters whose shape depends on the number of labels: the head's last layer.
    """

    name: str
    role: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    size: int
    norms: tuple[str, ...] = ()
    label_sized: tuple[str, ...] = ()


@dataclass(frozen=True)
class DepthGroups(Sequence[DepthGroup]):
    """The depth groups of a model from input to output; every parameter and buffer is in exactly one.

    Args:
        groups: The groups in the order in which they run.
        head_reads: The shape of the head's input, without the batch and token dimensions.
        shared: One sentence for each weight that is used in several places. Such a weight belongs to the first group
            that uses it, and is trained or frozen with it.
    """

    groups: tuple[DepthGroup, ...]
    head_reads: tuple[int, ...]
    shared: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> DepthGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DepthGroup, ...]: ...
    def __getitem__(self, index: int | slice) -> DepthGroup | tuple[DepthGroup, ...]:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def of_role(self, role: str) -> tuple[DepthGroup, ...]:
        """Return the groups with that role, in order."""
        return tuple(group for group in self.groups if group.role == role)

    def owner(self, tensor: str) -> DepthGroup:
        """Return the group of a parameter or buffer, by its full name."""
        return next(group for group in self.groups if tensor in group.parameters or tensor in group.buffers)


def depth_groups(
    model: PreTrainedModel, new: Iterable[str] = (), inputs: dict[str, torch.Tensor] | None = None
) -> DepthGroups:
    """Find the depth groups of an image or text classifier by tracing one forward pass.

    Args:
        model: A classifier of `transformers`, which may be a `TimmWrapper`.
        new: Parameters that were newly initialised when the model was loaded (`load_model` reports them). They join
            the head, because random weights must be trained.
        inputs: One batch for the forward pass; by default an example made from the config.

    Raises:
        UserError: The model is not a `transformers` classifier, so its head cannot be identified.
    """
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"depth_groups() takes models of transformers (timm models as TimmWrapper), not {type(model).__name__}."
        )
    label_sized = label_sized_parameters(model)
    if not label_sized:
        raise UserError(
            f"{type(model).__name__} has no parameters whose size is the number of labels, so it has no head to "
            "train. Load the model with AutoModelForImageClassification or AutoModelForSequenceClassification."
        )
    inputs = inputs if inputs is not None else example_inputs(model)
    trace = trace_forward(model, inputs)
    blocks = _find_blocks(model, trace, label_sized)
    heads = _head_modules(model, label_sized, blocks)
    owners = _assign_parameters(model, trace, blocks, heads, set(new))
    found = _table(model, trace, owners, heads, len(blocks), label_sized)
    texts = batch_tokens(inputs)
    tokens = None if texts is None else texts.shape[1]
    # Heads of token classifiers and of decoders read every token of the example.
    return replace(found, head_reads=found.head_reads[1:]) if found.head_reads[:1] == (tokens,) else found


def label_sized_parameters(model: PreTrainedModel) -> set[str]:
    """Return the parameters whose shape depends on the number of labels, by building the model with one more label.

    The second model is built on the `meta` device, where tensors have a shape but no memory.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = (model.config.num_labels or 0) + 1
    with torch.device("meta"):
        other = {name: parameter.shape for name, parameter in type(model)(config).named_parameters()}
    return {name for name, parameter in model.named_parameters() if other.get(name, parameter.shape) != parameter.shape}


def _find_blocks(model: nn.Module, trace: Trace, label_sized: set[str]) -> list[str]:
    """Return the names of the blocks in the order in which they run; empty when the model has no stack of blocks.

    Definitions of a block are tried from strict to lenient, because a lenient one also finds stacks inside blocks:
    lists of modules of two or more layers each; a block that runs several times (ALBERT); attributes of one class;
    lists of single layers.
    """
    search = _Search(dict(model.named_modules()), trace, label_sized)
    for attempt in (search, replace(search, repeated=True), replace(search, loose=True), replace(search, leaves=1)):
        stacks = attempt.stacks("")
        kinds = {type(search.modules[name]) for stack in stacks for name in stack} or attempt.recurring_kinds()
        # Second pass: a list of one element cannot be recognised as a stack by itself. Now that the classes of blocks
        # are known, stages of a single block are found too.
        if kinds:
            stacks = replace(attempt, kinds=frozenset(kinds)).stacks("")
        names = _without_transitions(search.without_stems(stacks), trace)
        if len(names) > 1 or (names and attempt.repeated):
            return sorted(names, key=lambda name: trace.calls[name].order)
    return []


def _without_transitions(stacks: list[list[str]], trace: Trace) -> list[str]:
    """Return the blocks of all stacks, without stacks whose elements run singly between blocks of longer stacks.

    Those are transitions, such as the embeddings between the stages of PVT. Of two interleaved lists of equal length
    (attentions and feed-forwards in XLM) the one that runs last is used, so that a block ends after both parts.
    """
    order = {name: trace.calls[name].order for stack in stacks for name in stack}
    stacks = sorted(stacks, key=lambda stack: (len(stack), order[stack[-1]]))
    for stack in list(stacks):
        others = [order[name] for other in stacks if other is not stack for name in other]
        places = sorted(order[name] for name in stack)
        scattered = all(any(a < other < b for other in others) for a, b in pairwise(places))
        if len(stack) > 1 and scattered and len(others) >= len(stack):
            stacks.remove(stack)
    return [name for stack in stacks for name in stack]


@dataclass(frozen=True)
class _Search:
    """A search for stacks of blocks, with how strictly a stack is defined.

    Args:
        modules: All modules of the model by full name.
        trace: A traced forward pass.
        label_sized: Parameters whose shape depends on the number of labels: no stack contains the head.
        leaves: Minimum number of layers in a block.
        kinds: Classes of known blocks; a list with a single element of one of them is a stack.
        repeated: Accept a single module that runs several times.
        loose: Treat attributes of one class as a list.
    """

    modules: Mapping[str, nn.Module]
    trace: Trace
    label_sized: set[str]
    leaves: int = 2
    kinds: frozenset[type] = frozenset()
    repeated: bool = False
    loose: bool = False

    def stacks(self, name: str) -> list[list[str]]:
        """Return the stacks at or below a module, each as the names of its blocks."""
        children = self.children(name)
        if self.is_stack(name) and not _holds(name, self.label_sized):
            opened = {child: self.open(child) for child in children if self.heavy(child)}
            return [self.without_links(opened)]
        return [stack for child in children for stack in self.stacks(child)]

    def children(self, name: str) -> list[str]:
        """Return the children of a module, each once: under its first name if it is registered several times."""
        found = [self.first_names[id(child)] for child in self.modules[name].children()]
        return [child for child in found if child.rpartition(".")[0] == name]

    @cached_property
    def first_names(self) -> dict[int, str]:
        """The name of each module by its `id`."""
        return {id(module): name for name, module in self.modules.items()}

    def ran(self, name: str) -> bool:
        """Return whether a module has weights and was called."""
        return name in self.trace.calls and _weighted_leaves(self.modules[name]) > 0

    def heavy(self, name: str) -> bool:
        """Return whether a module ran and has enough layers to be a block."""
        return self.ran(name) and _weighted_leaves(self.modules[name]) >= self.leaves

    def is_stack(self, name: str) -> bool:
        """Return whether a module's children run one after another and most of them have several layers."""
        ran = [child for child in self.children(name) if self.ran(child)]
        alike = len({type(self.modules[child]) for child in ran}) == 1
        if not ran or not (self.listed(name) or (self.loose and alike)):
            return False
        if len(ran) == 1:
            return self.is_stage_of_one(name, ran[0])
        ran.sort(key=lambda child: self.trace.calls[child].order)
        if 2 * sum(map(self.heavy, ran)) < len(ran):
            return False
        return all(self.trace.follows(after, before) for before, after in pairwise(ran))

    def is_stage_of_one(self, name: str, child: str) -> bool:
        """Return whether a list's only element is a block: by class, place among stages, or because it runs often."""
        if self.repeated and self.listed(name):
            return self.heavy(child) and self.trace.calls[child].times > 1
        if not self.kinds or not self.heavy(child):
            return False
        parent = name.rpartition(".")[0]
        siblings = [self.children(other) for other in self.children(parent) if other != name]
        among_stages = any(type(self.modules[one]) in self.kinds for part in siblings for one in part)
        if among_stages and self.listed(parent):
            return self.listed(name)
        inside_stage = any(self.listed(above.rpartition(".")[0]) for above in _ancestors(name))
        return type(self.modules[child]) in self.kinds and (among_stages or inside_stage)

    def listed(self, name: str) -> bool:
        """Return whether a module is a list of modules."""
        return isinstance(self.modules[name], nn.ModuleList | nn.Sequential)

    def open(self, child: str) -> list[str]:
        """Return the blocks inside an element of a stack, or the element itself if it is a single block.

        An element is a stage of blocks unless its input bypasses an inner module (a residual or dense connection) or
        its inner modules all have different classes (attention, then feed-forward).
        """
        inner = [name for stack in self.stacks(child) for name in stack]
        kinds = {type(self.modules[name]) for name in inner}
        if not inner or (len(kinds) == len(inner) and not kinds <= self.kinds):
            return [child]
        return [child] if any(self.bypassed(child, name) for name in inner) else inner

    def bypassed(self, around: str, inner: str) -> bool:
        """Return whether the input of `around` reaches its output without passing through `inner`."""
        outer, through = self.trace.calls[around], self.trace.calls[inner].result
        return outer.result is not through and outer.source in upstream(outer.result, set(), frozenset([through]))

    def without_links(self, opened: Mapping[str, list[str]]) -> list[str]:
        """Return the blocks of a stack without links between stages: elements of another class with no stack inside."""
        stages = [child for child, blocks in opened.items() if blocks != [child]]
        blocks = [name for child in opened for name in opened[child]]
        if not stages:
            return blocks
        links = [child for child in opened if opened[child] == [child] and not self.stacks(child)]
        kinds = {type(self.modules[name]) for name in blocks if name not in links}
        return [name for name in blocks if name not in links or type(self.modules[name]) in kinds]

    def without_stems(self, stacks: list[list[str]]) -> list[list[str]]:
        """Return the stacks without stems (single convolutions with at most a norm), if there are larger stacks."""
        thick = [any(_weighted_leaves(self.modules[name]) > 2 for name in stack) for stack in stacks]
        return [stack for stack, keep in zip(stacks, thick, strict=True) if keep] if any(thick) else stacks

    def recurring_kinds(self) -> set[type]:
        """Return the classes that are the only large element of more than one list."""
        lists = [name for name in self.modules if self.listed(name)]
        alone = [heavy[0] for name in lists if len(heavy := [c for c in self.children(name) if self.heavy(c)]) == 1]
        counts = Counter(type(self.modules[child]) for child in alone)
        return {kind for kind, count in counts.items() if count > 1}


def _ancestors(name: str) -> list[str]:
    """Return a module and the modules around it, innermost first, without the model itself."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _weighted_leaves(module: nn.Module) -> int:
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def _holds(module: str, parameters: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for name in parameters)


def _base(model: PreTrainedModel) -> str | None:
    """Return the name of the base model inside a classifier; None if the classifier has none."""
    return model.base_model_prefix if isinstance(getattr(model, model.base_model_prefix, None), nn.Module) else None


def _head_modules(model: PreTrainedModel, label_sized: set[str], blocks: list[str]) -> set[str]:
    """Return the largest modules around the label-sized parameters that hold no block and are not the base model."""
    base = _base(model)
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
    model: PreTrainedModel, trace: Trace, blocks: list[str], heads: set[str], new: set[str]
) -> dict[str, str]:
    """Return parameter name -> group name (`stem`, `block 0`, ..., `neck`, `head`, `unused`)."""
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
    if any(node is None for _, node in outputs):
        return owners | _assign_by_order(trace, blocks, rest.values())
    seen: set[Any] = set()
    for group, node in [*outputs, ("neck" if blocks else "stem", trace.logits)]:
        reached = upstream(node, seen)
        seen |= reached
        for variable in (getattr(step, "variable", None) for step in reached):
            if variable is not None and id(variable) in rest:
                owners[rest.pop(id(variable))] = group
    if base := _base(model):
        # Everything that a classifier adds to its base model is the head: poolers, dense layers before the last one.
        owners |= {
            name: "head" for name, group in owners.items() if group == "neck" and not name.startswith(f"{base}.")
        }
    return owners | dict.fromkeys(rest.values(), "unused")


def _assign_by_order(trace: Trace, blocks: list[str], parameters: Iterable[str]) -> dict[str, str]:
    """Assign parameters to stem or neck by the order of calls, for a model whose autograd graph is hidden."""
    first = trace.calls[blocks[0]].order
    called = {name: trace.calls.get(name.rpartition(".")[0]) for name in parameters}
    return {
        name: "unused" if call is None else "stem" if call.order < first else "neck" for name, call in called.items()
    }


def _table(
    model: nn.Module, trace: Trace, owners: dict[str, str], heads: set[str], blocks: int, label_sized: set[str]
) -> DepthGroups:
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
                    label_sized=tuple(name for name in members if name in label_sized),
                )
            )
    first = min((head for head in heads if head in trace.calls), key=lambda head: trace.calls[head].order, default=None)
    return DepthGroups(tuple(groups), trace.calls[first].shape if first else (), _shared(model, trace, owners))


def _shared(model: nn.Module, trace: Trace, owners: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence for each module that runs several times in one pass, and each parameter with several names."""
    said = []
    for name, call in trace.calls.items():
        inside = {owners[full] for full in owners if full.startswith(f"{name}.")}
        if call.times > 1 and len(inside) == 1 and _weighted_leaves(model.get_submodule(name)) > 1:
            said.append(f"{name} ({inside.pop()}) runs {call.times} times in one pass.")
    said += [f"{first} ({owners[first]}) is also {shorten(others, 3)}." for first, *others in _same_tensors(model)]
    return tuple(said)


def _same_tensors(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def undeclared_sharing(model: PreTrainedModel) -> list[str]:
    """Return names of shared weights that the model does not declare as tied, which `save_pretrained` refuses."""
    declared = set(model.all_tied_weights_keys or ())
    return [name for names in _same_tensors(model) if not declared & set(names) for name in names]


def _normalisation(model: nn.Module) -> set[str]:
    """Return the parameters of normalisation layers, by class: names differ (`normalization.weight` in ResNet)."""
    return {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for key, _ in module.named_parameters(recurse=False)
    }


def _module_homes(model: nn.Module, trace: Trace, owners: dict[str, str], order: list[str]) -> dict[str, str]:
    """Return topmost module name -> group, for modules that lie entirely in one group.

    A module without parameters (dropout, pooling) between groups belongs to the group that ran before it. Directly
    before the head it belongs to the head, because its dropout must be active while the head trains.
    """
    homes: dict[str, str] = {}
    bare: list[str] = []

    first = {id(module): name for name, module in model.named_modules()}

    def place(name: str, module: nn.Module) -> None:
        if first[id(module)] != name:  # registered several times: the first name counts
            return
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
    """Return the group of a buffer: that of the module around it, else of the parameters in the same module."""
    module = tensor.rpartition(".")[0]
    name = module
    while name:
        if name in homes:
            return homes[name]
        name = name.rpartition(".")[0]
    beside = [owners[key] for key in owners if key.rpartition(".")[0] == module]
    return beside[0] if beside else "stem"


def linear_head(groups: Iterable[DepthGroup]) -> bool:
    """Return whether the head is a single linear layer: one weight, with or without a bias."""
    head = next(group for group in groups if group.role == "head")
    return sum(not name.endswith("bias") for name in head.parameters) == 1
