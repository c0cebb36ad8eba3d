"""Stochastic depth: residual branches that are skipped at random in training (https://arxiv.org/abs/1603.09382).

Libraries put a module into each branch when they build a model (`DropPath` in timm and in `transformers`), and none, or
an identity, where the rate is 0. Which rate a branch gets is theirs to say. So a twin of the model is built at the new
rate on the `meta` device, and its modules, which have no weights, take the place of those of the model. The model's
config stays as it was, and so does what is saved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ft.errors import UserError
from hf_ft.models.loading_output import silent_loading


def set_drop_path(model: PreTrainedModel, rate: float) -> Callable[[], None]:
    """Give a model stochastic depth at a rate, in place of its own; returns what undoes it.

    Raises:
        UserError: The model has no stochastic depth.
    """
    twin = _twin(model.config, rate, lambda config: type(model)(config))
    places = {*drop_paths(twin), *drop_paths(model)}
    found = {place: _at(model, place) for place in places}
    for place in places:
        _set(model, place, _at(twin, place))
    model.train(model.training)  # the new modules follow

    def undo() -> None:
        for place, module in found.items():
            _set(model, place, module)

    return undo


def check_drop_path(config: PreTrainedConfig, build: Callable[[Any], nn.Module]) -> None:
    """Check that a model that `build` makes of a config can have stochastic depth.

    Raises:
        UserError: It cannot.
    """
    _twin(config, 0.5, build)


def drop_paths(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that skip branches at random, by name."""
    return {name: module for name, module in model.named_modules() if "DropPath" in type(module).__name__}


def drops_anywhere(model: nn.Module, in_eval: Iterable[nn.Module]) -> bool:
    """Return whether branches are skipped while the modules `in_eval` stay in evaluation mode."""
    still = {*in_eval}
    return any(getattr(module, "drop_prob", 1) and module not in still for module in drop_paths(model).values())


def _twin(config: PreTrainedConfig, rate: float, build: Callable[[Any], nn.Module]) -> nn.Module:
    """Build the model of a config with another rate of stochastic depth, without memory for its weights.

    Raises:
        UserError: The library has none for this model.
    """
    changed: Any = copy.deepcopy(config)
    name = getattr(config, "architecture", config.model_type)
    refusal = UserError(
        f"--drop_path {rate:g}: {name} has no stochastic depth.",
        option="drop_path",
        value=rate,
        hint="Leave it out, or choose a model that has, such as ConvNeXt, Swin, BEiT, DINOv2 or timm's EfficientNet.",
    )
    known = getattr(config, "drop_path_rate", None)
    if config.model_type == "timm_wrapper":
        changed.model_args = {**(changed.model_args or {}), "drop_path_rate": rate}
    elif known is None:
        raise refusal
    else:
        by_stage = isinstance(known, list | tuple)  # as in CvT
        try:
            changed.drop_path_rate = [*[0.0] * (len(known) - 1), rate] if by_stage else rate
        except StrictDataclassError as error:  # LeViT's is a whole number
            raise refusal from error
    try:
        with silent_loading(), torch.device("meta"):
            twin = build(changed)
    except TypeError as error:  # timm's constructors raise it for an argument that they do not have
        if "drop_path_rate" not in str(error):
            raise
        raise refusal from error
    if rate and not drop_paths(twin):
        raise refusal
    return twin


def _at(model: nn.Module, place: str) -> Any:
    parent, _, name = place.rpartition(".")
    return getattr(model.get_submodule(parent), name)


def _set(model: nn.Module, place: str, module: Any) -> None:
    above, _, name = place.rpartition(".")
    parent = model.get_submodule(above)
    if module is None:  # as timm's ResNet has it without a rate: no entry in the list of modules
        delattr(parent, name)
    setattr(parent, name, module)
