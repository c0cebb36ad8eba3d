"""Frozen means frozen: no parameter, no running statistic, no dropout noise; and the audit that proves it.

`requires_grad = False` alone leaves two holes: `Trainer` calls `model.train()` before every step, so a frozen
BatchNorm goes on moving its statistics, and frozen dropout goes on adding noise. Here frozen groups are put into
evaluation mode at the start of every forward pass, whoever called `train()` before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_ft.errors import UserError, shorten
from hf_ft.methods import AppliedStage, Setting, plan_method
from hf_ft.models.grouping import DepthGroups, depth_groups
from hf_ft.models.tracing import evaluating, example_inputs
from hf_ft.storage import bytes_digest


class FreezeViolation(RuntimeError):
    """A frozen parameter or buffer changed during training."""


class FrozenMode:
    """Keeps modules in evaluation mode in every forward pass of `model` until `remove` is called.

    A forward hook on the whole model, so that it works in any training loop and with any wrapper around it.
    """

    def __init__(self, model: nn.Module, quiet: Iterable[nn.Module]) -> None:
        self.quiet = list(quiet)
        self._handle = model.register_forward_pre_hook(self._hold)

    def _hold(self, model: nn.Module, inputs: Any) -> None:
        if model.training:
            for module in self.quiet:
                module.training = False

    def remove(self) -> None:
        """Let go of the modules; `model.train()` reaches them again."""
        self._handle.remove()


def freeze(model: PreTrainedModel, method: str = "head", groups: DepthGroups | None = None) -> FrozenMode:
    """Freeze what a method leaves frozen in its first stage, for use with any `Trainer` or training loop.

    `method` is `head`, `bitfit` or any other name in `hf_ft.methods.registry.METHODS` that attaches no adapters. Sets
    `requires_grad` on every parameter. `param_groups` makes the optimizer's groups to go with it.

    Raises:
        UserError: unknown method, one that the model cannot take, or one that attaches adapters.
    """
    groups = groups if groups is not None else depth_groups(model)
    stage = plan_method(method, groups, 1, 1.0).stages[0]
    if stage.peft:
        raise UserError(f"freeze() attaches no adapters, which method '{method}' has. Use hf_ft.train or PEFT itself.")
    set_trainable(model, stage)
    ensure_gradients(model, stage, example_inputs(model))
    return FrozenMode(model, modules_in_eval(model, stage))


def ensure_gradients(model: nn.Module, stage: AppliedStage, inputs: Mapping[str, torch.Tensor]) -> None:
    """Try that every group that trains gets a gradient, with one example; works on PEFT models too.

    Reversible layers (Reformer) pass none on when nothing below them trains; then the embeddings' output is made to
    require one, as PEFT does for activation checkpointing.

    Raises:
        UserError: a group that should train would stay as it is, or the model's own code refuses.
    """
    if stage.trains_everything:
        return
    base: Any = getattr(model, "get_base_model", lambda: model)()
    starved: list[str] = []
    try:
        for attempt in (lambda: None, base.enable_input_require_grads):
            attempt()
            starved = _without_gradient(model, stage, inputs)
            if not starved:
                return
    except (AssertionError, AttributeError, RuntimeError) as error:  # as model code raises them
        starved, reason = [], f" ({' '.join(str(error).split())[:160]})"
    else:
        reason = f": nothing in {shorten(starved)} gets a gradient"
    raise UserError(
        f"{type(base).__name__} cannot be trained in part, with some of it frozen or adapted{reason}. "
        "Use another method, for example `full`."
    )


def _without_gradient(model: nn.Module, stage: AppliedStage, inputs: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of the groups of which parameters train, but none is reached by a backward pass."""
    with torch.enable_grad(), evaluating(model):
        model(**inputs).logits.float().sum().backward()
    trained: dict[str, list[bool]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained.setdefault(plain_name(name), []).append(parameter.grad is not None)
            parameter.grad = None
    starved = []
    for group, setting in stage.used:
        modules = tuple(f"{module}." for module in group.modules)
        found = [any(got) for name, got in trained.items() if name in group.parameters or name.startswith(modules)]
        if not setting.frozen and found and not any(found):
            starved.append(group.name)
    return starved


def set_trainable(model: nn.Module, stage: AppliedStage) -> None:
    """Let exactly the parameters that train require a gradient."""
    parameters = dict(model.named_parameters())
    for group, setting in stage:
        for name in group.parameters:
            parameters[name].requires_grad_(setting.trains(name) and parameters[name].is_floating_point())


def modules_in_eval(model: nn.Module, stage: AppliedStage) -> list[nn.Module]:
    """The modules that must stay in evaluation mode: those of frozen groups, and BatchNorm outside whole ones.

    Where biases, norms or adapters train, dropout is alive and running statistics stay as they are. A module around
    several groups (an encoder around its layers) is quiet, by its own flag only, as soon as one of them is frozen:
    what it does itself, such as dropout on embeddings, belongs to the frozen part.
    """
    home = {name: setting for group, setting in stage for name in group.modules}
    quiet = []
    for name, module in model.named_modules():
        if not name:
            continue
        inside = _setting_around(name, home)
        here = [inside] if inside is not None else _settings_below(name, stage)
        frozen = any(setting.frozen for setting in here)
        if frozen or (getattr(module, "running_mean", None) is not None and not all(setting.whole for setting in here)):
            quiet.append(module)
    return quiet


def _setting_around(name: str, home: Mapping[str, Setting]) -> Setting | None:
    while name:
        if name in home:
            return home[name]
        name = name.rpartition(".")[0]
    return None


def _settings_below(name: str, stage: AppliedStage) -> list[Setting]:
    return [setting for group, setting in stage.used if any(full.startswith(f"{name}.") for full in group.parameters)]


def plain_name(name: str) -> str:
    """The name that a tensor of a PEFT-wrapped model has in the plain model (names of adapters stay odd)."""
    # `base_layer` just before the tensor is PEFT's; some models (DLA) have a module of that name themselves.
    name = re.sub(r"\.base_layer\.(\w+)$", r".\1", name.removeprefix("base_model.model."))
    return name.replace(".modules_to_save.default.", ".")


def snapshot(model: nn.Module, names: set[str]) -> dict[str, str]:
    """A digest of each named parameter and buffer, bit for bit, in the plain model's names."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {plain_name(name): _digest(tensor) for name, tensor in tensors if plain_name(name) in names}


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes_digest(flat.view(torch.uint8).numpy().data) if flat.numel() else ""


def audit(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    """Compare two snapshots and return how many tensors were compared.

    Raises:
        FreezeViolation: names the frozen tensors that changed or vanished.
    """
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    if changed:
        raise FreezeViolation(
            f"{len(changed)} of {len(before)} frozen tensors changed in training: {shorten(changed)}."
        )
    return len(before)
