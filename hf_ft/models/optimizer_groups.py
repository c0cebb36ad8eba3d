"""Optimizer groups: one learning rate per depth group, and weight decay only where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_ft.methods import Setting, plan_method
from hf_ft.models.freezing import plain_name
from hf_ft.models.grouping import DepthGroup, DepthGroups, depth_groups


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
    return rated_groups(model, groups, stage.settings, weight_decay)


def rated_groups(
    model: nn.Module, groups: Sequence[DepthGroup], settings: Sequence[Setting], weight_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters by (rate, decay), for the settings of one stage; works on PEFT models too."""
    owner = {name: i for i, group in enumerate(groups) for name in group.parameters}
    bare = {name for group in groups for name in group.norms}
    shared = max((setting.rate for setting in settings if setting.mode == "adapt"), default=0.0)
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            position = _owner(plain_name(name), owner)
            rate = settings[position].rate if position is not None else shared
            decay = 0.0 if parameter.ndim < 2 or plain_name(name) in bare else weight_decay
            found.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in found.items()]


def _owner(name: str, owner: dict[str, int]) -> int | None:
    """The position of a parameter's group; an adapter's parameter goes with the layer that it adapts.

    None for what an adapter shares between layers, such as VB-LoRA's bank of vectors.
    """
    if name in owner:
        return owner[name]
    prefix = name.rpartition(".")[0]
    while prefix:
        for known, position in owner.items():
            if known.startswith(f"{prefix}."):
                return position
        prefix = prefix.rpartition(".")[0]
    return None
