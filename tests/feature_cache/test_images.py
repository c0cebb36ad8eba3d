"""Images are decoded once: the same bits as live where the crop is fixed, for every processor that allows it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hf_ft import finetune
from hf_ft.feature_cache import images as image_cache
from hf_ft.modalities import image_transforms as images

UNDIVIDED = {"EfficientNet", "MobileViT", "PPLCNet", "Siglip2", "TextNet"}
"""They normalise or flip in both halves, or make patches or pictures of several sizes."""


LARGE = 300
"""Pixels of the shorter side of the photos of a test; what is kept of them is smaller."""


class Decodes:
    """Counts the images that are opened from files for training or evaluation, wherever that is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        importlib.import_module("hf_ft.modalities.image_files")  # binds the function; its reads are not counted
        self.count, plain = 0, images.upright_rgb

        def counted(image: Image.Image) -> Image.Image:
            # One that was made from bytes has no format, nor has one that `datasets` has turned.
            self.count += image.format is not None or min(image.size) >= LARGE
            return plain(image)

        for module in (images, image_cache):
            monkeypatch.setattr(module, "upright_rgb", counted)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Decodes:
    """The counter, and images that are kept however little that saves."""
    monkeypatch.setattr(image_cache, "LEAST", -np.inf)
    return Decodes(monkeypatch)


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    """A short run on images as they are, with everything training."""
    usual: dict[str, Any] = {"task": "image_classification", "method": "full", "num_train_epochs": 4, "seed": 1}
    usual |= {"augment": "none", "per_device_train_batch_size": 8, "load_back_proof": False}
    usual |= {"model": model, "dataset": data, "output_dir": str(out), "cache_dir": str(out.parent / "cache")}
    return finetune(**(usual | settings)).record


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
    tried, scored = image_cache.SAMPLE, sizes["validation"] + sizes["test"]
    assert counts["second"] == tried + scored
    assert counts["first"] == counts["second"] + sizes["train"] + sizes["validation"]
    assert counts["live"] == 4 * (sizes["train"] + sizes["validation"]) + scored
    kept = {name: record["stages"][0]["images"] for name, record in records.items()}
    assert kept["live"] is None
    assert kept["first"]["computed"] == kept["first"]["examples"] == sizes["train"] + sizes["validation"]
    assert kept["second"]["computed"] == 0
    assert 0 < kept["first"]["build_seconds"] <= kept["first"]["seconds"] + 0.001
    assert kept["second"]["build_seconds"] == pytest.approx(kept["first"]["build_seconds"], abs=0.002)
    told = capsys.readouterr().out
    assert f"images: {sizes['train'] + sizes['validation']} of" in told
    assert "examples are cached; none is decoded again" in told


def test_random_crops_are_cut_from_copies(image_model: str, image_data: str, tmp_path: Path, decodes: Decodes) -> None:
    """Images no larger than crops need are kept as they are: the same weights to the bit, each opened once."""
    record = train(image_model, image_data, tmp_path / "kept", augment="basic")
    sizes = record["data"]["sizes"]
    assert decodes.count == image_cache.SAMPLE + sum(sizes.values()) + sizes["validation"]
    assert record["stages"][0]["notes"] == []
    train(image_model, image_data, tmp_path / "live", augment="basic", cache="off")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "live"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_copies_of_large_images_are_as_small_as_crops_allow() -> None:
    """The shorter side is the one asked for, small images keep their bits, and what a model reads hardly changes."""
    large, small = smooth(800, 1000), smooth(60, 90)
    pixels, sizes = image_cache._shrunk([large, small], 160)
    assert sizes.tolist() == [[160, 200], [60, 90]]
    copy, kept = pixels.split([160 * 200, 60 * 90])
    assert np.array_equal(kept.view(60, 90, 3), np.asarray(small))
    direct = np.asarray(large.resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    through = Image.fromarray(copy.view(160, 200, 3).numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(direct - np.asarray(through, dtype=float)).mean() < 2  # of 255


def smooth(height: int, width: int) -> Image.Image:
    """A picture with large shapes and some noise."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    waves = np.stack([np.sin(9 * x + k) * np.cos(7 * y - k) for k in range(3)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 10, (height, width, 3))
    return Image.fromarray(np.clip(128 + 100 * waves + noise, 0, 255).astype(np.uint8))


def test_large_photos_are_shrunk_once(
    image_model: str, tmp_path: Path, decodes: Decodes, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole run on photos larger than the model needs, some of them rotated by their EXIF tag."""
    for name, k in (("a", 0), ("b", 1)):
        for i in range(6):
            for split in ("train", "test"):
                folder = tmp_path / "photos" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                exif = Image.Exif()
                exif[0x0112] = (1, 6)[i % 2]  # 6: to be turned by a quarter
                smooth(LARGE + 10 * i, 400 + 50 * k).save(folder / f"{i}.jpg", exif=exif)
    record = train(image_model, str(tmp_path / "photos"), tmp_path / "out", augment="trivial", validation_fraction=0.3)
    sizes = record["data"]["sizes"]
    assert decodes.count == image_cache.SAMPLE + sum(sizes.values()) + sizes["validation"]
    shapes = [np.load(file) for file in (tmp_path / "cache").rglob("1.npy")]
    assert len(shapes) == 1
    assert shapes[0].min(1).tolist() == [80] * sizes["train"]  # 2.5 times the 32 pixels that the model reads
    assert {shape[0] == 80 for shape in shapes[0].tolist()} == {True, False}  # some stand upright, some lie
    assert "are decoded" in capsys.readouterr().out
    (note,) = record["stages"][0]["notes"]
    assert "cached images of at most 80 pixels" in note


def test_slow_decoding_is_told(
    image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Where decoding takes long and is not done once, people hear of it."""
    monkeypatch.setattr(image_cache, "SLOW", 0.0)
    train(image_model, image_data, tmp_path / "out", augment="basic", num_train_epochs=1)
    assert "in every epoch: smaller files are faster" in capsys.readouterr().out


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
        pixels = torch.stack(image_cache.resized(processor, pictures(seed)))
        again = torch.stack(image_cache.normalised(processor, pixels))
        return pixels.dtype == torch.uint8 and torch.equal(again, whole)
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


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50.a1_in1k", "eva02_small_patch14_336"])
def test_processors_of_timm_are_divided_to_the_bit(name: str) -> None:
    """They have no options, and are divided where they make a tensor of an image; other steps stay in place."""
    settings = timm.get_pretrained_cfg(name).to_dict()
    processor = TimmWrapperImageProcessor(settings)
    assert divided(processor, 0)
    assert divided(processor, 1)
    scaled = torch.stack(image_cache.normalised(processor, torch.full((1, 3, *settings["input_size"][1:]), 255)))
    whole = processor([Image.new("RGB", (300, 400), "white")]).pixel_values
    assert torch.equal(scaled, whole)


class Stubborn:
    """A processor that resizes, and refuses to do so alone."""

    def __call__(self, images: Any, **options: Any) -> Any:
        if "do_rescale" in options:
            raise ValueError("do_rescale is not supported")
        return transformers.BatchFeature({"pixel_values": torch.zeros(len(images), 3, 8, 8)})


def test_a_processor_that_refuses_a_step_says_why() -> None:
    """The reason is kept for the user; a mistake outside the processor's own call is not taken for its refusal."""
    rows = Dataset.from_dict({"image": [Image.new("RGB", (9, 9))] * 2}).cast_column("image", datasets.Image())
    found = image_cache._measure(Stubborn(), rows)
    assert found.layout is None
    assert "Stubborn" in found.refused
    assert "do_rescale" in found.refused
    with pytest.raises(KeyError, match="image"):
        image_cache._measure(Stubborn(), rows.rename_column("image", "picture"))
