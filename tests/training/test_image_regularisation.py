"""Augmentation, mixing and stochastic depth in whole runs: resumed, saved, loaded back, refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn.functional import one_hot
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor, pipeline

from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.feature_cache import images as image_cache
from hf_ft.modalities.image_mixing import ImageMixing
from hf_ft.training import stage_runner

EVERYTHING = {"augment": "strong", "mixup": 0.2, "cutmix": 1.0, "drop_path": 0.3}


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ConvNeXt, which has stochastic depth, at a rate of 0."""
    folder = tmp_path_factory.mktemp("models") / "tiny-convnext"
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 2], num_stages=2, num_labels=5)
    ConvNextForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder)
    return str(folder)


def words(model: str, data: str, out: Path, **settings: Any) -> list[str]:
    """A command line: two epochs of five steps by `full`, with two workers that load ahead."""
    usual = {"task": "image_classification", "model": model, "dataset": data, "output_dir": out, "method": "full"}
    usual |= {"num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 3, "disable_tqdm": "true"}
    usual |= {"dataloader_num_workers": 2, "load_back_proof": "false", "load_best_model_at_end": "false"}
    return ["train", *(f"--{name}={value}" for name, value in {**usual, **settings}.items())]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a result."""
    return load_file(out / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two results have the same tensors, to the bit."""
    tensors = weights(one), weights(other)
    return all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


@pytest.mark.usefixtures("quick_proof")
def test_a_whole_run_with_everything(
    convnext: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It resumes within an epoch to the same tensors; the result is a plain model, with the config of its source."""
    monkeypatch.setattr(image_cache, "LEAST", -float("inf"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words(convnext, image_data, whole, **EVERYTHING), "--load_back_proof=true"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {value}" in said for name, value in EVERYTHING.items())

    class Stopping(stage_runner.Lines):  # type: ignore[name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(stage_runner, "Lines", Stopping)
        assert main(words(convnext, image_data, parts, **EVERYTHING)) == 143
    assert main([*words(convnext, image_data, parts, **EVERYTHING), "--resume"]) == 0
    assert same(whole, parts)

    record = json.loads((whole / "run.json").read_text())
    assert {name: record["settings"][name] for name in EVERYTHING} == EVERYTHING
    assert record["proofs"]["load_back"]
    assert record["stages"][0]["images"]  # decoded once, then mixed
    assert "mixup 0.2" in (whole / "README.md").read_text()
    found, source = (json.loads((Path(folder) / "config.json").read_text()) for folder in (whole, convnext))
    assert found["drop_path_rate"] == source["drop_path_rate"] == 0.0
    photo = next(Path(image_data).glob("test/*/*.png"))
    answers = pipeline("image-classification", str(whole))(str(photo))
    assert sum(one["score"] for one in answers) == pytest.approx(1, abs=1e-3)


def test_each_option_changes_training(convnext: str, image_data: str, tmp_path: Path) -> None:
    """Each alone gives other weights than none; 0 is the same as none."""
    base = {"task": "image_classification", "model": convnext, "dataset": image_data, "method": "full", "max_steps": 2}
    base |= {"augment": "none", "load_back_proof": False, "eval_strategy": "no", "save_strategy": "no"}
    off = {"mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0, "drop_path": 0.0}
    changes: dict[str, dict[str, Any]] = {"plain": {}, "off": off, "mixup": {"mixup": 0.4}, "cutmix": {"cutmix": 1.0}}
    changes |= {"erasing": {"random_erasing": 1.0}, "depth": {"drop_path": 0.5}}
    for name, change in changes.items():
        finetune(**base, **change, output_dir=str(tmp_path / name))
    assert same(tmp_path / "plain", tmp_path / "off")
    different = [name for name in changes if name not in ("plain", "off")]
    assert not any(same(tmp_path / "plain", tmp_path / name) for name in different)
    heads = {weights(tmp_path / name)["classifier.weight"].numpy().tobytes() for name in different}
    assert len(heads) == len(different)


class UnmixedShares(ImageMixing):
    """Labels as shares of which none is mixed, so that a batch and its parts hold the same examples."""

    def __call__(self, rows: Any) -> dict[str, Any]:
        """Labels as rows of 0 and 1."""
        batch = self.collate(rows)
        return {**batch, "labels": one_hot(batch["labels"], 3).float()}


def unequal(image_data: str) -> dict[str, Dataset]:
    """Images with 2, 6 and 10 examples of a class, in memory."""
    folders = enumerate(sorted(Path(image_data).glob("train/*")))
    photos = [path for i, folder in folders for path in sorted(folder.glob("*.png"))[: 2 + 4 * i]]
    made = Dataset.from_dict({"image": [*map(str, photos)], "label": [path.parent.name for path in photos]})
    return {"train": made, "validation": made}


def test_shares_weigh_as_labels_do(
    image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With class weights and label smoothing, in one batch or accumulated parts: the same head as from labels."""
    monkeypatch.setattr(stage_runner, "ImageMixing", UnmixedShares)
    base: dict[str, Any] = {"task": "image_classification", "model": image_model, "method": "head", "max_steps": 2}
    base |= {"optim": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "max_grad_norm": 0.0, "cache": "off"}
    base |= {"class_weights": "balanced", "label_smoothing_factor": 0.2, "load_back_proof": False}
    heads = []
    for name, parts, mixup in (("labels", 1, 0.0), ("shares", 1, 0.2), ("accumulated", 3, 0.2)):
        settings = {"per_device_train_batch_size": 6 // parts, "gradient_accumulation_steps": parts, "mixup": mixup}
        finetune(**base, **settings, dataset=unequal(image_data), output_dir=str(tmp_path / name))
        heads.append(weights(tmp_path / name)["classifier.1.weight"])
    start = load_file(Path(image_model) / "model.safetensors")["classifier.1.weight"]
    assert start.shape != heads[0].shape or not torch.allclose(start, heads[0])
    for other in heads[1:]:
        torch.testing.assert_close(other, heads[0], rtol=1e-4, atol=1e-6)


def test_several_labels_are_mixed(image_model: str, image_data: str, tmp_path: Path) -> None:
    """The run of `full` ends with finite losses, and evaluation sees whole labels."""
    photos = sorted(Path(image_data).glob("train/*/*.png"))
    labels = [[path.parent.name, "even" if i % 2 else "odd"] for i, path in enumerate(photos)]
    rows = Dataset.from_dict({"image": [str(path) for path in photos], "label": labels})
    settings = {"mixup": 0.4, "cutmix": 1.0, "max_steps": 3, "load_back_proof": False, "method": "full"}
    found = finetune(
        task="image_classification", model=image_model, dataset=rows, output_dir=str(tmp_path / "out"), **settings
    )
    assert found.record["data"]["problem_type"] == "multi_label_classification"
    losses = [entry["loss"] for entry in found.record["stages"][0]["history"] if "loss" in entry]
    assert losses
    assert np.isfinite(losses).all()
    assert found.metrics["validation"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mixup": 0.2, "data_collator": lambda rows: rows}, "mixup"),
    ({"drop_path": 0.2}, "drop_path"),
    ({"model": "convnext", "method": "head", "drop_path": 0.2}, "drop_path"),
    ({"mixup": -0.1}, "mixup"),
    ({"random_erasing": 1.5}, "random_erasing"),
    ({"drop_path": 1.0}, "drop_path"),
    ({"augment": "rand_augment"}, "augment"),
    *(
        ({"task": task, "model": "text", "dataset": kind, name: 0.1}, name)
        for task, kind in (
            ("text_classification", "text"),
            ("text_regression", "regression"),
            ("token_classification", "token"),
        )
        for name in ("mixup", "cutmix", "random_erasing", "drop_path")
    ),
]


def spelled(value: Any) -> str:
    """An id without the address of a function, which differs between the processes of a test run."""
    return value if isinstance(value, str) else " ".join(value)


@pytest.mark.parametrize(("change", "option"), REFUSED, ids=spelled)
def test_what_does_not_go_together(
    change: dict[str, Any], option: str, convnext: str, image_data: str, image_model: str, request: Any, tmp_path: Path
) -> None:
    """One error that names the option, before anything is trained or written."""
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, "method": "full", **change}
    if settings["model"] in ("convnext", "text"):
        settings["model"] = convnext if settings["model"] == "convnext" else request.getfixturevalue("text_model")
    if settings["dataset"] in ("text", "regression", "token"):
        settings["dataset"] = request.getfixturevalue(f"{settings['dataset']}_data")
    with pytest.raises(UserError) as caught:
        finetune(**settings, output_dir=str(tmp_path / "out"))
    assert caught.value.option == option
    assert not (tmp_path / "out/run.json").exists()
    assert not (tmp_path / "out/checkpoints").exists()
