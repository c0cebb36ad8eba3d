"""Stochastic depth: at the rates of the library, in the layers that train, and gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import nn

from hf_ft.errors import UserError
from hf_ft.methods.method_spec import plan_method
from hf_ft.models.drop_path import check_drop_path, drop_paths, drops_anywhere, set_drop_path
from hf_ft.models.freezing import FrozenMode, modules_in_eval
from hf_ft.models.grouping import depth_groups

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}),
    "swin": ("SwinConfig", {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "image_size": 32, "window_size": 4}),
    "beit": ("BeitConfig", SMALL),
    "dinov2": ("Dinov2Config", {**SMALL, "patch_size": 8}),
    "segformer": ("SegformerConfig", {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4}),
    "timm efficientnet": ("TimmWrapperConfig", {"architecture": "tf_efficientnet_lite0"}),
    "timm resnet": ("TimmWrapperConfig", {"architecture": "test_resnet"}),
    "timm vit": ("TimmWrapperConfig", {"architecture": "test_vit"}),
}
WITHOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTConfig", SMALL),
    "timm dla": ("TimmWrapperConfig", {"architecture": "dla46_c"}),
}


def model_of(name: str, **changes: Any) -> Any:
    """A tiny classifier with random weights."""
    kind, options = (CONFIGS | WITHOUT)[name]
    config = getattr(transformers, kind)(**{**options, **changes}, num_labels=3)
    if kind == "TimmWrapperConfig":
        config.pretrained_cfg = timm.get_pretrained_cfg(config.architecture).to_dict()
    torch.manual_seed(0)
    return transformers.AutoModelForImageClassification.from_config(config)


def rates(model: nn.Module) -> list[float]:
    """The rates of all branches."""
    return [module.drop_prob or 0.0 for module in drop_paths(model).values()]  # type: ignore[misc]


@pytest.mark.parametrize("name", CONFIGS)
def test_rates_are_those_of_the_library(name: str) -> None:
    """They rise to about the rate that is asked for, change training alone, and are taken back with the config."""
    model = model_of(name).eval()
    before, config, own = repr(model), model.config.to_dict(), rates(model)
    side = {"timm vit": 160}.get(name, 32)
    pixels = torch.randn(8, 3, side, side)
    with torch.no_grad():
        plain = model(pixel_values=pixels).logits
        undo = set_drop_path(model, 0.5)
        found = rates(model)
        assert found == sorted(found)
        assert 0.25 <= max(found) <= 0.5
        assert torch.equal(model(pixel_values=pixels).logits, plain)
        dropped: list[bool] = []
        for module in drop_paths(model).values():
            module.train().register_forward_hook(lambda _, given, made: dropped.append(not torch.equal(given[0], made)))
        model(pixel_values=pixels)
        assert any(dropped)
    undo()
    assert (repr(model), model.config.to_dict(), rates(model)) == (before, config, own)
    assert {*model.state_dict()} == {*model_of(name).state_dict()}


def test_a_rate_of_the_config_can_be_taken_away() -> None:
    """Swin has 0.1 by default."""
    model = model_of("swin")
    assert max(rates(model)) == pytest.approx(0.1)
    set_drop_path(model, 0.0)
    assert not any(rates(model))


@pytest.mark.parametrize("name", WITHOUT)
def test_models_without_it_are_refused(name: str) -> None:
    """The error names the option, and the model stays as it was."""
    model = model_of(name)
    before = repr(model)
    with pytest.raises(UserError) as caught:
        set_drop_path(model, 0.2)
    assert (caught.value.option, caught.value.value) == ("drop_path", 0.2)
    assert repr(model) == before


def test_a_config_that_takes_no_such_rate() -> None:
    """LeViT's is a whole number: refused before a model is built."""
    with pytest.raises(UserError) as caught:
        check_drop_path(transformers.LevitConfig(), lambda config: pytest.fail("a model is built"))
    assert caught.value.option == "drop_path"


def test_frozen_layers_skip_nothing() -> None:
    """Only the branches of blocks that train are skipped; a head that trains alone leaves none."""
    model = model_of("convnext")
    set_drop_path(model, 0.5)
    groups = depth_groups(model)
    active = {}
    for method in ("head", "last_n:1", "full"):
        stage = plan_method(method, groups, 1, 1e-3).stages[0]
        still = modules_in_eval(model, stage)
        hook = FrozenMode(model.train(), still)
        model(pixel_values=torch.randn(2, 3, 32, 32))
        hook.remove()
        active[method] = sum(module.training for module in drop_paths(model).values())
        assert drops_anywhere(model, still) == bool(active[method])
    assert active == {"head": 0, "last_n:1": 1, "full": 3}
