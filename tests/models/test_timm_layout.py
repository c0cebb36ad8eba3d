"""A saved model of timm, loaded by timm itself: the same logits, labels and preparation of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_ft import finetune
from hf_ft.models.timm_layout import timm_config

RUNS: dict[str, dict[str, Any]] = {
    "names with the wrapper's prefix": {"model": "builtin:efficientnet-lite0", "method": "head"},
    "from random weights": {"model": "timm:test_resnet", "method": "scratch", "max_steps": 1},
    "another image size": {"model": "timm:test_vit", "method": "scratch", "max_steps": 1, "image_size": 96},
    "calibrated": {"model": "timm:test_efficientnet", "method": "scratch", "max_steps": 1, "calibrate": True},
}


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, image_data: str) -> Path:
    """A result folder."""
    out = tmp_path_factory.mktemp("timm") / "out"
    settings = {"task": "image_classification", "dataset": image_data, "load_back_proof": False, "output_dir": str(out)}
    finetune(**settings, **RUNS[request.param])
    return out


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8))


def test_timm_loads_it(run: Path) -> None:
    """By `local-dir:`, with the image as timm prepares it, the logits are those of `transformers`."""
    config = json.loads((run / "config.json").read_text())
    plain = AutoModelForImageClassification.from_pretrained(run).eval()
    pixels = AutoImageProcessor.from_pretrained(run)(image(), return_tensors="pt")["pixel_values"]
    by_timm = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    own = create_transform(**resolve_model_data_config(by_timm), is_training=False)(image()).unsqueeze(0)
    assert torch.equal(own, pixels)
    with torch.no_grad():
        assert torch.equal(by_timm(own), plain(pixels).logits)
    assert by_timm.num_classes == config["num_classes"] == 3
    assert by_timm.pretrained_cfg["label_names"] == config["label_names"] == ["blue", "green", "red"]
    assert plain.config.id2label == dict(enumerate(config["label_names"]))


def test_nothing_points_to_the_source(run: Path) -> None:
    """Trap: with `hf_hub_filename` or `custom_load` of the source, timm would load another file, or by other code."""
    images = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    assert {"input_size", "mean", "std", "interpolation"} <= set(images)
    assert not {"url", "hf_hub_id", "hf_hub_filename", "custom_load", "label_offset", "num_classes"} & set(images)


def test_configs_of_others_are_cleaned() -> None:
    """Keys that timm does not know, and arguments that are none, which it stumbles over."""
    found = timm_config({"architecture": "a", "model_args": None, "pretrained_cfg": {"mean": [0.5], "strange": 1}})
    assert found == {"architecture": "a", "pretrained_cfg": {"mean": [0.5]}}
    kept = {"architecture": "a", "model_args": {"img_size": 96}, "pretrained_cfg": {}}
    assert timm_config(kept) == kept
