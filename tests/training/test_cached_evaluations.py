"""Stages whose training images change in each epoch evaluate from cached features: validation images never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.resnet.modeling_resnet import ResNetEmbeddings

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.training.trainer import StageTrainer
from tests.training.test_interruptions import Work, differing

EPOCHS = 3
CHANGING: dict[str, dict[str, Any]] = {
    "augmentation": {"method": "last_n:1", "augment": "basic"},
    "mixing": {"method": "last_n:1", "augment": "none", "mixup": 0.3},
    "a head by steps": {"method": "head", "augment": "basic", "head_solver": "sgd"},
    "adapters": {"method": "lora@last_n:1", "augment": "basic"},
    "an average": {"method": "last_n:1", "augment": "basic", "ema": 0.5},
    "bfloat16": {"method": "last_n:1", "augment": "basic", "bf16": True, "use_cpu": True},
}


@pytest.fixture
def usual(image_model: str, image_data: str, tmp_path: Path) -> dict[str, Any]:
    """A short training that evaluates after each epoch."""
    settings: dict[str, Any] = {"task": "image_classification", "model": image_model, "dataset": image_data}
    settings |= {"num_train_epochs": EPOCHS, "per_device_train_batch_size": 8, "load_back_proof": False}
    return settings | {"cache_dir": str(tmp_path / "cache"), "autotune": "off", "seed": 1}


def run_in_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images run through the frozen stem in each evaluation from now on."""
    found: list[int] = []
    forward, evaluate = ResNetEmbeddings.forward, StageTrainer.evaluate
    images: list[int] = []

    def counted(self: Any, pixels: torch.Tensor) -> Any:
        images.append(len(pixels))
        return forward(self, pixels)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        images.clear()
        scores = evaluate(self, *args, **kwargs)
        found.append(sum(images))
        return scores

    monkeypatch.setattr(ResNetEmbeddings, "forward", counted)
    monkeypatch.setattr(StageTrainer, "evaluate", watched)
    return found


def evaluations(record: dict[str, Any]) -> list[float]:
    """The losses of all evaluations of the only stage."""
    (stage,) = record["stages"]
    return [entry["eval_loss"] for entry in stage["history"] if "eval_loss" in entry]


@pytest.mark.parametrize("case", CHANGING)
def test_the_same_training_and_the_same_scores(
    case: str, usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights to the bit and losses but for rounding; no evaluation runs the frozen layers."""
    assert len(CHANGING) == 6
    settings = usual | CHANGING[case]
    counted = run_in_evaluations(monkeypatch)
    record = finetune(**settings, output_dir=str(tmp_path / "cached")).record
    assert counted == [0] * EPOCHS
    counted.clear()
    live = finetune(**settings, cache="off", output_dir=str(tmp_path / "live")).record
    held = record["data"]["sizes"]["validation"]
    assert record["stages"][0]["evaluated"]["computed"] == held
    assert record["stages"][0]["cache"] is None
    assert live["stages"][0]["evaluated"] is None
    assert counted == [held] * EPOCHS
    rounding = 3e-2 if "bf16" in settings else 1e-5
    assert len(evaluations(record)) == len(evaluations(live)) == EPOCHS
    assert evaluations(record) == pytest.approx(evaluations(live), abs=rounding)
    if "bf16" not in settings:
        one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("cached", "live"))
        assert all(torch.equal(one[name], other[name]) for name in other)
        assert set(live["metrics"]) == {"validation", "test"}
        for split, scores in live["metrics"].items():
            assert len(scores) >= 5
            for name, score in scores.items():
                assert record["metrics"][split][name]["value"] == pytest.approx(score["value"], abs=1e-5), name


NOT_HELD: dict[str, dict[str, Any]] = {
    "everything trains": {"method": "full", "augment": "basic"},
    "no evaluation": {"method": "last_n:1", "augment": "basic", "eval_strategy": "no", "save_strategy": "no"},
    "no cache": {"method": "last_n:1", "augment": "basic", "cache": "off"},
    "everything is cached": {"method": "last_n:1", "augment": "none"},
    "fixed views": {"method": "last_n:1", "augment": "basic", "augment_views": 2},
}


@pytest.mark.parametrize("case", NOT_HELD)
def test_where_there_is_nothing_to_hold(case: str, usual: dict[str, Any], tmp_path: Path) -> None:
    assert len(NOT_HELD) == 5
    record = finetune(**usual | NOT_HELD[case], output_dir=str(tmp_path / "out")).record
    assert record["stages"][0]["evaluated"] is None


def test_the_reason_is_said(usual: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the features of validation do not fit, the line names evaluations, and the stage trains."""
    settings = usual | CHANGING["augmentation"] | {"cache_max_gb": 1e-9}
    record = finetune(**settings, output_dir=str(tmp_path / "out")).record
    assert record["stages"][0]["evaluated"] is None
    said = [line for line in capsys.readouterr().out.splitlines() if "evaluations of stage" in line]
    assert len(said) == 1
    assert "not used in evaluations of stage 'last_n': it needs" in said[0]
    assert "--cache_max_gb is 1e-09" in said[0]


@pytest.mark.parametrize("step", [4, 7])
def test_resumed_the_same(
    step: int, image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in an epoch and between two: the tensors and the evaluations of a whole run."""
    work = Work(image_model, image_data, tmp_path)
    settings = {"task": "image_classification", "method": "last_n:1", "augment": "basic", "cache_dir": tmp_path / "c"}
    assert main(work.words(tmp_path / "whole", **settings)) == 0
    work.interrupted(tmp_path / "out", step, monkeypatch, **settings)
    counted = run_in_evaluations(monkeypatch)
    assert main([*work.words(tmp_path / "out", **settings), "--resume"]) == 0
    assert counted
    assert not any(counted)
    assert differing(tmp_path / "out", tmp_path / "whole") == 0
