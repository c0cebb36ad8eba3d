"""Images of a fixed crop are decoded and resized once: the same bits as live, for every processor that allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hf_ft import finetune, images, prepared

UNDIVIDED = {"EfficientNet", "MobileViT", "PPLCNet", "Siglip2", "TextNet", "TimmWrapper"}
"""They normalise or flip in both halves, make patches or pictures of several sizes, or know no such steps."""


class Decodes:
    """Counts the images that are opened for training or evaluation, wherever that is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, plain = 0, images.upright_rgb

        def counted(image: Image.Image) -> Image.Image:
            self.count += 1
            return plain(image)

        for module in (images, prepared):
            monkeypatch.setattr(module, "upright_rgb", counted)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Decodes:
    """The counter, and images that are kept however little that saves."""
    monkeypatch.setattr(prepared, "LEAST", -np.inf)
    return Decodes(monkeypatch)


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    """A short run on images as they are, with everything training."""
    usual: dict[str, Any] = {"task": "image_classification", "method": "full", "num_train_epochs": 4, "seed": 1}
    usual |= {"augment": "none", "per_device_train_batch_size": 8, "load_back_proof": False}
    usual |= {"model": model, "dataset": data, "output_dir": str(out), "cache_dir": str(out.parent / "cache")}
    return finetune(**(usual | settings))


def test_training_on_kept_images_is_that_on_files(
    image_model: str, image_data: str, tmp_path: Path, decodes: Decodes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same weights and scores to the bit; each image is opened once, in a second run none but the few tried."""
    counts, records = {}, {}
    for name, cache in (("live", "off"), ("first", "auto"), ("second", "auto")):
        before = decodes.count
        records[name] = train(image_model, image_data, tmp_path / name, cache=cache)
        counts[name] = decodes.count - before
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in records}
    for name in ("first", "second"):
        assert all(torch.equal(weights["live"][key], weights[name][key]) for key in weights["live"])
        assert json.dumps(records[name]["metrics"]) == json.dumps(records["live"]["metrics"])
    sizes = records["live"]["data"]["sizes"]
    tried, scored = prepared.SAMPLE, sizes["validation"] + sizes["test"]
    assert counts["second"] == tried + scored
    assert counts["first"] == counts["second"] + sizes["train"] + sizes["validation"]
    assert counts["live"] == 4 * (sizes["train"] + sizes["validation"]) + scored
    told = capsys.readouterr().out
    assert f"images: {sizes['train'] + sizes['validation']} of" in told
    assert "none are decoded and resized" in told


def test_random_crops_are_made_anew(image_model: str, image_data: str, tmp_path: Path, decodes: Decodes) -> None:
    """With augmentation train is read in every epoch, and validation, whose crop is fixed, once."""
    record = train(image_model, image_data, tmp_path / "out", augment="basic")
    sizes = record["data"]["sizes"]
    scored = sizes["validation"] + sizes["test"]
    assert decodes.count == prepared.SAMPLE + 4 * sizes["train"] + sizes["validation"] + scored


def test_slow_augmentation_is_told(
    image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Where decoding takes long and cannot be done once, people hear of it, and what would help."""
    monkeypatch.setattr(prepared, "SLOW", 0.0)
    train(image_model, image_data, tmp_path / "out", augment="basic", num_train_epochs=1)
    told = capsys.readouterr().out
    assert "augmentation cuts" in told
    assert "--augment none" in told


def test_little_is_not_kept(image_model: str, image_data: str, tmp_path: Path) -> None:
    """A few small images are not worth a file."""
    train(image_model, image_data, tmp_path / "out")
    assert not (tmp_path / "cache").exists()


def processors() -> dict[str, Any]:
    """Every processor of an image classifier of the installed transformers, by class name."""
    found = {}
    for kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        names = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, ())
        for name in names.values() if isinstance(names, dict) else names:
            if name == "TimmWrapperImageProcessor":
                known = timm.get_pretrained_cfg("resnet18")
                found[name] = TimmWrapperImageProcessor(known.to_dict(), "resnet18")
            elif name and not name.startswith("ImageGPT"):  # which makes tokens, of clusters that it has to be given
                found[name] = getattr(transformers, name)()
    return found


def pictures(seed: int) -> list[Image.Image]:
    """Noise of two sizes."""
    random = np.random.default_rng(seed)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((60, 80), (128, 257))]


def divided(processor: Any, seed: int) -> bool:
    """Whether scaling and normalising bytes of the right size gives what the whole processor gives."""
    try:
        whole = torch.stack(list(processor(pictures(seed), return_tensors="pt").pixel_values))
        pixels = prepared.resized(processor, pictures(seed))
        return pixels.dtype == torch.uint8 and torch.equal(prepared.normalised(processor, pixels), whole)
    except Exception:  # as in training
        return False


def test_processors_are_divided_to_the_bit() -> None:
    """What is the same on some images is the same on others; and for all processors but a few it is the same."""
    every = processors()
    assert len(every) >= 25
    found = {name: [divided(processor, seed) for seed in (0, 1)] for name, processor in every.items()}
    assert [name for name, both in found.items() if both[0] != both[1]] == []
    undivided = {name.removesuffix("Pil").removesuffix("ImageProcessor") for name, both in found.items() if not both[0]}
    assert undivided == UNDIVIDED, sorted(undivided)
