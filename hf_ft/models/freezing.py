"""Freezing of parameters, running statistics and dropout, and the audit that proves it.

`requires_grad = False` alone is not enough: `Trainer` calls `model.train()` before every step, so BatchNorm layers of
frozen groups would still update their statistics, and their dropout would still add noise. Frozen modules are therefore
put into evaluation mode at the start of every forward pass, no matter who called `train()` before.
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
    """A hook that holds modules in evaluation mode in every forward pass of `model`, until `remove` is called.

    It is a forward pre-hook of the whole model, so it works in any training loop and under any wrapper.
    """

    def __init__(self, model: nn.Module, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self._handle = model.register_forward_pre_hook(self._hold)

    def _hold(self, model: nn.Module, inputs: Any) -> None:
        if model.training:
            for module in self.modules:
                module.training = False

    def remove(self) -> None:
        """Release the modules; `model.train()` applies to them again."""
        self._handle.remove()


def freeze(model: PreTrainedModel, method: str = "head", groups: DepthGroups | None = None) -> FrozenMode:
    """Freeze the depth groups that do not train in the first stage of a method, for any `Trainer` or training loop.

    Sets `requires_grad` of every parameter. `param_groups` returns the matching optimizer groups; `FeatureCache` runs
    the frozen layers only once.

    Args:
        model: The classifier.
        method: `head`, `last_n:2`, `bitfit` or any other method that attaches no adapters.
        groups: The depth groups, if they are known.

    Returns:
        The hook that holds frozen modules in evaluation mode, until its `remove()` is called.

    Raises:
        UserError: Unknown method, one that the model does not support, or one that attaches adapters.
    """
    groups = groups if groups is not None else depth_groups(model)
    stage = plan_method(method, groups, 1, 1.0).stages[0]
    if stage.peft:
        raise UserError(f"freeze() attaches no adapters, which method '{method}' has. Use hf_ft.train or PEFT itself.")
    set_trainable(model, stage)
    ensure_gradients(model, stage, example_inputs(model))
    return FrozenMode(model, modules_in_eval(model, stage))


def ensure_gradients(model: nn.Module, stage: AppliedStage, inputs: Mapping[str, torch.Tensor]) -> None:
    """Check with one batch that every trainable group receives a gradient; supports PEFT models.

    Reversible layers (Reformer) pass no gradient on when nothing below them trains. The output of the embeddings is
    then made to require a gradient, as PEFT does for activation checkpointing.

    Raises:
        UserError: A trainable group receives no gradient, or the model's own code fails.
    """
    if stage.trains_everything:
        return
    base: Any = getattr(model, "get_base_model", lambda: model)()
    reason = ""
    for through_inputs in (False, True):
        try:  # the model's own code alone
            if through_inputs:
                base.enable_input_require_grads()
            with torch.enable_grad(), evaluating(model):
                model(**inputs).logits.float().sum().backward()
        except (AssertionError, AttributeError, RuntimeError) as error:
            reason = f" ({' '.join(str(error).split())[:160]})"
            break
        starved = _without_gradient(model, stage)
        if not starved:
            return
        reason = f": nothing in {shorten(starved)} gets a gradient"
    raise UserError(
        f"{type(base).__name__} cannot be trained in part, with some layers frozen or adapted{reason}. "
        "Use another method, for example `full`."
    )


def _without_gradient(model: nn.Module, stage: AppliedStage) -> list[str]:
    """Return the groups whose trainable parameters all lack a gradient; clear all gradients."""
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
    """Set `requires_grad` of every parameter according to the stage."""
    parameters = dict(model.named_parameters())
    for group, setting in stage:
        for name in group.parameters:
            parameters[name].requires_grad_(setting.trains(name) and parameters[name].is_floating_point())


def modules_in_eval(model: nn.Module, stage: AppliedStage, hold_batch_norm: bool = False) -> list[nn.Module]:
    """Return the modules that must stay in evaluation mode: all of frozen groups, BatchNorm of partly trained ones.

    A group in which only biases, norms or adapters train keeps its dropout active, but not its running statistics. A
    module around several groups (an encoder around its layers) has its own flag set to evaluation mode as soon as one
    of them is frozen: its own operations, such as dropout on embeddings, feed frozen layers. With `hold_batch_norm`,
    BatchNorm of groups that train whole stays in evaluation mode too: its scale and shift train, its statistics do not.
    """
    home = {name: setting for group, setting in stage for name in group.modules}
    found = []
    for name, module in model.named_modules():
        if not name:
            continue
        inside = _setting_around(name, home)
        here = [inside] if inside is not None else _settings_below(name, stage)
        frozen = any(setting.frozen for setting in here)
        held = hold_batch_norm or not all(setting.whole for setting in here)
        if frozen or (held and has_statistics(module)):
            found.append(module)
    return found


def has_statistics(module: nn.Module) -> bool:
    """Return whether a module is a normalisation layer with running statistics (BatchNorm)."""
    return getattr(module, "running_mean", None) is not None


def held_statistics(model: nn.Module, in_eval: Iterable[nn.Module]) -> set[str]:
    """Return the names of the running statistics of modules that stay in evaluation mode."""
    held = {id(module) for module in in_eval}
    layers = {name: module for name, module in model.named_modules() if id(module) in held and has_statistics(module)}
    return {f"{name}.{buffer}" for name, module in layers.items() for buffer, _ in module.named_buffers(recurse=False)}


def _setting_around(name: str, home: Mapping[str, Setting]) -> Setting | None:
    while name:
        if name in home:
            return home[name]
        name = name.rpartition(".")[0]
    return None


def _settings_below(name: str, stage: AppliedStage) -> list[Setting]:
    return [setting for group, setting in stage.used if any(full.startswith(f"{name}.") for full in group.parameters)]


def plain_name(name: str) -> str:
    """Return the plain model's name of a tensor of a PEFT model; names of adapter tensors do not change."""
    # Only a `base_layer` directly before the tensor is PEFT's: some models (DLA) have a module of that name.
    name = re.sub(r"\.base_layer\.(\w+)$", r".\1", name.removeprefix("base_model.model."))
    return name.replace(".modules_to_save.default.", ".")


def snapshot(model: nn.Module, names: set[str]) -> dict[str, str]:
    """Return the SHA-256 of each of the named parameters and buffers, by its name in the plain model."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {plain_name(name): _digest(tensor) for name, tensor in tensors if plain_name(name) in names}


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes_digest(flat.view(torch.uint8).numpy().data) if flat.numel() else ""


def audit(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    """Compare two snapshots and return how many tensors were compared.

    Raises:
        FreezeViolation: Frozen tensors changed or vanished; the message names them.
    """
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    if changed:
        raise FreezeViolation(
            f"{len(changed)} of {len(before)} frozen tensors changed in training: {shorten(changed)}."
        )
    return len(before)
