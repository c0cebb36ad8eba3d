"""Another image size: only position embeddings change, as the model's own library interpolates them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BeitConfig,
    BeitForImageClassification,
    CLIPConfig,
    CLIPForImageClassification,
    ConvNextImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    LevitConfig,
    LevitForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_ft.cli.app import main
from hf_ft.errors import UserError
from hf_ft.modalities.processor_size import output_side, resize_processor
from hf_ft.models.image_size import CannotResize, check_image_size, with_image_size

OWN = 32
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": OWN,
    "patch_size": 8,
}
WORDS: dict[str, Any] = {name: SMALL[name] for name in SMALL if "size" not in name} | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def timm_model(architecture: str, **words: Any) -> PreTrainedModel:
    config = TimmWrapperConfig(architecture=architecture, num_labels=3, model_args=words or None)
    return TimmWrapperForImageClassification(config)


def swin(**words: Any) -> PreTrainedModel:
    sizes: dict[str, Any] = {"image_size": OWN, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    return SwinForImageClassification(SwinConfig(**sizes, window_size=2, **words))


POSITIONS = "embeddings.position_embeddings"
MODELS: dict[str, tuple[Callable[[], PreTrainedModel], str, int]] = {
    "vit": (lambda: ViTForImageClassification(ViTConfig(**SMALL)), POSITIONS, 1),
    "dinov2": (lambda: Dinov2ForImageClassification(Dinov2Config(**SMALL)), POSITIONS, 1),
    "siglip": (
        lambda: SiglipForImageClassification(SiglipConfig(vision_config=SMALL, text_config=WORDS)),
        "position_embedding.weight",
        1,
    ),
    "clip": (
        lambda: CLIPForImageClassification(CLIPConfig(vision_config=SMALL, text_config=WORDS)),
        "position_embedding.weight",
        1,
    ),
    "swin, absolute": (lambda: swin(use_absolute_embeddings=True), POSITIONS, 1),
    "swin": (swin, "", 0),
    "beit": (
        lambda: BeitForImageClassification(BeitConfig(**SMALL, use_relative_position_bias=True)),
        "relative_position_bias_table",
        2,
    ),
    "resnet": (
        lambda: ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        "",
        0,
    ),
    "timm vit": (lambda: timm_model("test_vit", img_size=OWN), "pos_embed", 1),
    "timm cait": (lambda: timm_model("cait_xxs24_224", img_size=OWN, depth=1, patch_size=8), "pos_embed", 1),
    "timm resnet": (lambda: timm_model("test_resnet"), "", 0),
}
"""Model -> how to make it, the end of the names of what depends on the size, and how many tensors that are."""
INTERPOLATES = ("vit", "dinov2", "siglip", "clip", "swin, absolute")
"""Models whose forward pass interpolates by itself where it is asked to."""
ANY_SIZE = ("swin", "beit", "resnet", "timm resnet")
"""Models whose forward pass takes images of any size."""


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(std=0.2)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_only_position_embeddings_change(name: str) -> None:
    """Every other tensor is the checkpoint's bit for bit, and the model answers for images of the new size."""
    model, (_, ending, count) = made(name), MODELS[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    own = int(getattr(getattr(model, "timm_model", None), "default_cfg", {"input_size": (3, 224)})["input_size"][1])
    size = 2 * (OWN if ending or name == "swin" else own)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    wanted = None
    with torch.no_grad():
        if name in INTERPOLATES:
            wanted = model(images, interpolate_pos_encoding=True).logits
        elif name in ANY_SIZE:
            wanted = model(images).logits
    resized, found = with_image_size(model, size)
    assert found is not None
    after = resized.state_dict()
    differs = [
        key for key in after if after[key].shape != before[key].shape or not torch.equal(after[key], before[key])
    ]
    assert sorted(found.resampled) == sorted(differs)
    assert len(differs) == count
    assert all(key.endswith(ending) for key in differs)
    assert found.unchanged == len(before) - count
    with torch.no_grad():
        logits = resized(images).logits
    assert logits.isfinite().all()
    if wanted is not None:
        assert torch.allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_timm_resamples_as_timm_does() -> None:
    """The table is that of `timm.layers.resample_abs_pos_embed`."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    model = made("timm vit")
    table = model.get_parameter("timm_model.pos_embed").detach().clone()
    resized, _ = with_image_size(model, 4 * OWN)
    grid = 4 * OWN // 16
    assert torch.equal(resized.get_parameter("timm_model.pos_embed"), resample_abs_pos_embed(table, [grid, grid]))


@pytest.mark.parametrize("name", ["vit", "timm vit"])
def test_the_size_of_the_checkpoint_changes_nothing(name: str) -> None:
    model = made(name)
    assert with_image_size(model, OWN) == (model, None)


def test_a_model_of_one_size_is_refused() -> None:
    """LeViT's attention biases are no position embeddings that could be resampled."""
    model = LevitForImageClassification(LevitConfig())
    with pytest.raises(CannotResize, match="attention_biases"):
        with_image_size(model, 256)


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [("vit", 60, ("56", "64")), ("timm vit", 40, ("32", "48")), ("vit", 4, ("8",))],
)
def test_sizes_that_a_model_cannot_take_are_refused_with_the_nearest(
    name: str, size: int, nearest: tuple[str, ...]
) -> None:
    model = made(name)
    build: Any = type(model)
    with pytest.raises(UserError) as caught:
        check_image_size(build, model.config, size, "some/model")
    assert (caught.value.option, caught.value.value) == ("image_size", size)
    assert all(one in caught.value.hint for one in nearest)
    check_image_size(build, model.config, int(nearest[-1]), "some/model")


@pytest.mark.parametrize(
    ("processor", "before"),
    [
        (ViTImageProcessor(size={"height": 32, "width": 32}), 32),
        (
            ViTImageProcessor(
                size={"shortest_edge": 256}, do_center_crop=True, crop_size={"height": 224, "width": 224}
            ),
            224,
        ),
        (ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875), 224),
    ],
)
def test_processors_keep_their_proportions(processor: Any, before: int) -> None:
    """Twice the size shows twice as many pixels of the same part of the image."""
    config: Any = ViTConfig()
    assert output_side(processor) == before
    assert resize_processor(processor, config, before, "m") is processor
    resized = resize_processor(processor, config, 2 * before, "m")
    assert output_side(resized) == 2 * before
    if "shortest_edge" in dict(processor.size) and hasattr(processor, "crop_size") and processor.crop_size:
        assert dict(resized.size)["shortest_edge"] == 2 * dict(processor.size)["shortest_edge"]


def save(name: str, folder: Path) -> Path:
    """A checkpoint with its processor; timm's is in the model's config."""
    model = made(name)
    if "timm" in name:
        model.config.pretrained_cfg = {
            **model.timm_model.default_cfg,
            "input_size": [3, OWN, OWN],
            "crop_pct": 0.8,
        }
    else:
        ViTImageProcessor(size={"height": OWN, "width": OWN}).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def train(model: Path, data: str, out: Path, *words: str) -> int:
    given = ["--task=image_classification", f"--model={model}", f"--dataset={data}", f"--output_dir={out}"]
    return main(["train", *given, *words])


@pytest.mark.parametrize("name", ["vit", "timm vit", "resnet"])
def test_the_result_is_a_plain_model_for_that_size(
    name: str, image_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_proof: None
) -> None:
    """Trained by the command line, loaded back by a plain `pipeline` (the proof), scored again, and asked."""
    folder, out, size = save(name, tmp_path / "model"), tmp_path / "out", 2 * OWN
    cache = f"--cache_dir={tmp_path / 'cache'}"
    assert train(folder, image_data, out, "--method=head", f"--image_size={size}", cache) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["proofs"]["load_back"]["passed"]
    assert record["settings"]["image_size"] == size
    _, ending, count = MODELS[name]
    sized = record["proofs"]["image_size"]
    assert (sized["size"], sized["checkpoint"], len(sized["resampled"])) == (size, OWN, count)
    assert all(one.endswith(ending) for one in sized["resampled"])
    before, after = (
        {key.removeprefix("timm_model."): tensor for key, tensor in load_file(path / "model.safetensors").items()}
        for path in (folder, out)
    )
    differs = {key for key in after if key not in before or not torch.equal(after[key], before[key])}
    heads = ("classifier", "head.")
    assert {key for key in differs if not key.startswith(heads)} == {
        key for key in after if ending and key.endswith(ending)
    }
    processor = AutoImageProcessor.from_pretrained(out)
    assert output_side(processor) == size
    model = AutoModelForImageClassification.from_pretrained(out)
    photo = Image.new("RGB", (100, 80), "red")
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        plain = model(pixels).logits.softmax(-1)[0]
    classify: Any = pipeline("image-classification", model=str(out))
    assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in classify(photo)} == {
        model.config.id2label[i]: float(value) for i, value in enumerate(plain)
    }
    capsys.readouterr()
    assert main(["evaluate", str(out), "--dataset", image_data, "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["metrics"]["accuracy"]["value"] == record["metrics"]["test"]["accuracy"]["value"]
    photo.save(tmp_path / "photo.png")
    assert main(["predict", str(out), str(tmp_path / "photo.png")]) == 0
    assert str(tmp_path / "photo.png") in capsys.readouterr().out
    # Features of another size are another entry of the cache.
    assert train(folder, image_data, tmp_path / "own", "--method=head", cache, "--load_back_proof=false") == 0
    own = json.loads((tmp_path / "own" / "run.json").read_text())
    assert own["stages"][0]["cache"]["computed"] == own["stages"][0]["cache"]["examples"]
    assert own["proofs"]["image_size"] is None
    assert output_side(AutoImageProcessor.from_pretrained(tmp_path / "own")) == OWN


def test_mistakes_are_one_line(image_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save("vit", tmp_path / "model")
    capsys.readouterr()
    for words in (["--image_size=60"], ["--image_size=0"], ["--image_size=small"]):
        assert train(folder, image_data, tmp_path / "out", *words) == 2
        error = capsys.readouterr().err
        assert "image_size" in error, words
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    given = ["--task=text_classification", "--model=x/y", "--dataset=x/y", f"--output_dir={tmp_path / 'out'}"]
    assert main(["train", *given, "--image_size=64"]) == 2
    assert "--image_size does not go with text_classification" in capsys.readouterr().err
