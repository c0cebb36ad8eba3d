"""Optimizer groups: one learning rate per depth group, and no weight decay on biases and norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_ft.methods import AppliedStage, Setting, plan_method
from hf_ft.models.freezing import plain_name
from hf_ft.models.grouping import DepthGroups, depth_groups


def param_groups(
    model: PreTrainedModel,
    method: str = "full",
    learning_rate: float = 5e-5,
    head_lr_multiplier: float = 10.0,
    layer_decay: float | None = None,
    weight_decay: float = 0.01,
    groups: DepthGroups | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer: a higher rate for the head, lower rates for lower blocks.

    Call `freeze` with the same method first: it sets `requires_grad`, and parameters without it are skipped.

    Args:
        model: The classifier.
        method: `full`, `last_n:2` or any other method that attaches no adapters.
        learning_rate: The rate below the head, before `layer_decay`.
        head_lr_multiplier: The rate of the head, as a multiple of `learning_rate`.
        layer_decay: The factor from one block to the block below, as in ULMFiT (https://arxiv.org/abs/1801.06146).
        weight_decay: The decay of all parameters except biases and normalisation layers.
        groups: The depth groups, if they are known.

    Raises:
        UserError: Unknown method, or one that the model does not support.
    """
    groups = groups if groups is not None else depth_groups(model)
    stage = plan_method(method, groups, 1, learning_rate, head_lr_multiplier, layer_decay).stages[0]
    return rated_groups(model, stage, weight_decay)


def rated_groups(model: nn.Module, stage: AppliedStage, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters of a stage, grouped by learning rate and weight decay; supports PEFT models."""
    owner = {name: setting for group, setting in stage for name in group.parameters}
    bare = {name for group in stage.groups for name in group.norms}
    shared = max((setting.rate for _, setting in stage if setting.mode == "adapt"), default=0.0)
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            setting = _setting_of(plain_name(name), owner)
            rate = setting.rate if setting is not None else shared
            decay = 0.0 if parameter.ndim < 2 or plain_name(name) in bare else weight_decay
            found.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in found.items()]


def _setting_of(name: str, owner: Mapping[str, Setting]) -> Setting | None:
    """Return the setting of a parameter's group; for a parameter of an adapter, that of the layer it adapts.

    None for parameters that an adapter shares between layers, such as the vector bank of VB-LoRA.
    """
    if name in owner:
        return owner[name]
    prefix = name.rpartition(".")[0]
    while prefix:
        for known, setting in owner.items():
            if known.startswith(f"{prefix}."):
                return setting
        prefix = prefix.rpartition(".")[0]
    return None
