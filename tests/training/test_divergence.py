"""A loss that is not finite ends training at once, keeps the best weights, and says what to do."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.training import stage_runner as training
from hf_ft.training.divergence import FP16_PATIENCE, DivergenceGuard


def test_rate_that_gives_nan(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line: one line, exit code 2, no result, and weights that load."""
    out = tmp_path / "out"
    command = ["train", "--task=text_classification", f"--model={text_model}", f"--dataset={text_data}"]
    command += ["--method=full", "--num_train_epochs=4", "--learning_rate=1000", "--per_device_train_batch_size=8"]
    assert main([*command, f"--output_dir={out}", "--disable_tqdm=true", "--warmup_steps=0", "--seed=3"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for said in ("Stage 'full' diverged in step", "nan at learning rate 1000", "--learning_rate 100", "--warmup_steps"):
        assert said in line
    assert not (out / "run.json").exists()
    kept = sorted((out / "checkpoints/1-full").glob("checkpoint-*"))
    for folder in kept:
        assert str(folder) in line
        weights = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
        assert all(torch.isfinite(value).all() for value in weights.values())
    assert kept or "No weights were saved before" in line


def test_nan_in_the_second_stage_keeps_the_first(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation loss shows it where the batches do not: its weights do not become the best ones."""
    loop, told = training.StageTrainer.evaluation_loop, iter((1.0, math.nan))

    def evaluated(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        found = loop(trainer, *args, **kwargs)
        found.metrics["eval_loss"] = next(told)
        return found

    monkeypatch.setattr(training.StageTrainer, "evaluation_loop", evaluated)
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "lp_ft"}
    with pytest.raises(UserError) as caught:
        finetune(**settings, num_train_epochs=4, output_dir=str(tmp_path / "out"))
    assert caught.value.option == "learning_rate"
    assert "Stage 'full' diverged" in str(caught.value)
    assert str(tmp_path / "out/checkpoints/1-head/whole") in str(caught.value)
    assert (tmp_path / "out/checkpoints/1-head/whole/model.safetensors").is_file()
    assert not list((tmp_path / "out/checkpoints/2-full").glob("checkpoint-*"))


def test_nan_before_the_first_step_is_not_the_rate(text_model: str, text_data: str, tmp_path: Path) -> None:
    """A loss of the caller's that is NaN from the start."""

    def broken(outputs: Any, labels: Any, num_items_in_batch: Any) -> Any:
        return outputs.logits.sum() * math.nan

    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "full"}
    with pytest.raises(UserError, match="not the learning rate") as caught:
        finetune(**settings, max_steps=2, loss=broken, output_dir=str(tmp_path / "out"))
    assert caught.value.option is None


def trainer(**changes: Any) -> Any:
    """What the guard asks of a trainer."""
    state = SimpleNamespace(global_step=5, max_steps=10)
    usual = {"args": SimpleNamespace(world_size=1, fp16=False), "accelerator": SimpleNamespace(scaler=None)}
    return SimpleNamespace(state=state, **usual | changes)


def test_fp16_looks_for_its_scale() -> None:
    """Infinite gradients and a few infinite losses are skipped steps there, and the end of training elsewhere."""
    guard = DivergenceGuard("full", 1.0, "--learning_rate 0.1", True, lambda: "")
    scaled = trainer(
        args=SimpleNamespace(world_size=1, fp16=True), accelerator=SimpleNamespace(scaler=torch.amp.GradScaler("cpu"))
    )
    guard.check_gradient(torch.tensor(math.inf), scaled)
    for _ in range(3):
        for _ in range(FP16_PATIENCE):
            guard.check_loss(torch.tensor(math.inf), scaled)
        guard.check_loss(torch.tensor(1.0), scaled)
    for _ in range(FP16_PATIENCE):
        guard.check_loss(torch.tensor(math.nan), scaled)
    with pytest.raises(UserError, match="--bf16"):
        guard.check_loss(torch.tensor(math.nan), scaled)
    for value in (math.inf, math.nan):
        with pytest.raises(UserError, match="gradients"):
            guard.check_gradient(torch.tensor(value), trainer())
        with pytest.raises(UserError, match="loss is"):
            guard.check_loss(torch.tensor(value), trainer())


def test_several_processes_end_together() -> None:
    """A loss is that of one process, the norm of the gradients that of all: only the norm ends training there."""
    guard = DivergenceGuard("full", 1.0, "--learning_rate 0.1", True, lambda: "")
    several = trainer(args=SimpleNamespace(world_size=2, fp16=False))
    guard.check_loss(torch.tensor(math.nan), several)
    with pytest.raises(UserError):
        guard.check_gradient(math.nan, several)
    guard.check_gradient(1.0, several)
    guard.check_evaluation(None, several)
