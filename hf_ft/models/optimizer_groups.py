"""Optimizer groups: one learning rate per depth group, and weight decay only where it belongs."""

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
    """Optimizer groups for any torch optimizer: the head at a higher rate, lower blocks at a lower one.

    Layer-wise decay as in ULMFiT (https://arxiv.org/abs/1801.06146). `freeze` with the same method sets what
    requires a gradient; parameters that do not are left out.

    Raises:
        UserError: unknown method, or one that the model cannot take.
    """
    groups = groups if groups is not None else depth_groups(model)
    stage = plan_method(method, groups, 1, learning_rate, head_lr_multiplier, layer_decay).stages[0]
    return rated_groups(model, stage, weight_decay)


def rated_groups(model: nn.Module, stage: AppliedStage, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters by (rate, decay), for the settings of one stage; works on PEFT models too."""
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
    """The setting of a parameter's group; an adapter's parameter goes with the layer that it adapts.

    None for what an adapter shares between layers, such as VB-LoRA's bank of vectors.
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
