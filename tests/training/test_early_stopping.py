"""Early stopping: when it ends a stage, when it does not, and which of several stages is the result."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.methods import MethodSpec
from hf_ft.settings import Config
from hf_ft.training import early_stopping, loop
from hf_ft.training import stage_runner as training
from hf_ft.training.early_stopping import EarlyStop, Patience, patience_of
from hf_ft.training.run import StageResult
from tests.support.scripted_scores import scripted_losses


def patience(setting: Any = "auto", epochs: float = 10, validation: int = 200, **changes: Any) -> Patience | None:
    """The patience of a stage that evaluates after each epoch."""
    usual = {"eval_strategy": "epoch", "load_best_model_at_end": True, "world_size": 1}
    args, stage = SimpleNamespace(**usual | changes), SimpleNamespace(epochs=epochs, max_steps=-1)
    return patience_of(SimpleNamespace(early_stopping_patience=setting), args, stage, 10, validation)  # type: ignore[arg-type]


def test_patience_by_default() -> None:
    """A quarter of the evaluations, at least three; none where validation is small or the end would come first."""
    assert patience() == Patience(3, True)
    assert patience(epochs=20) == Patience(5, True)
    assert patience(epochs=4) == Patience(3, True)
    assert patience(epochs=3) is None
    assert patience(validation=early_stopping.MIN_VALIDATION) is not None
    assert patience(validation=early_stopping.MIN_VALIDATION - 1) is None
    assert patience(load_best_model_at_end=False) is None
    assert patience(eval_strategy="no") is None


def test_patience_of_the_user() -> None:
    """A number holds whatever the validation split; 0 and `none` switch it off."""
    assert patience(2, validation=5) == Patience(2, False)
    assert patience(0) is None
    assert patience("none") is None


@pytest.mark.parametrize(
    ("watches", "ended"), [(True, [False] * 5 + [True]), (False, [False, False, True, True, True, True])]
)
def test_a_falling_loss_is_an_improvement(watches: bool, ended: list[bool]) -> None:
    """With equal scores the loss decides, by default; with a patience of the user's the metric alone."""
    stop, control, found = EarlyStop(2, watches_loss=watches), SimpleNamespace(should_training_stop=False), []
    args = SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True)
    state = SimpleNamespace(best_metric=None)
    for loss in (1.0, 0.9, 0.8, 0.7, 0.7, 0.75):
        stop.on_evaluate(args, state, control, metrics={"eval_accuracy": 0.9, "eval_loss": loss})
        state.best_metric = 0.9
        found.append(control.should_training_stop)
    assert found == ended
    again = EarlyStop.from_state(json.loads(json.dumps(stop.state())))
    assert vars(again) == vars(stop)


def command(model: str, data: str, out: Path, **settings: Any) -> list[str]:
    """The command line of ten epochs of five steps."""
    usual = {"task": "text_classification", "model": model, "dataset": data, "method": "full", "num_train_epochs": 10}
    usual |= {"per_device_train_batch_size": 8, "seed": 3, "metric_for_best_model": "loss", "output_dir": out}
    usual |= {"load_back_proof": "false", "disable_tqdm": "true"} | settings
    return ["train", *(f"--{name}={value}" for name, value in usual.items())]


def test_stage_that_stops_early(
    text_model: str,
    text_data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By default, on the terminal, in `run.json` and on the card; interrupted, it stops at the same step."""
    monkeypatch.setattr(early_stopping, "MIN_VALIDATION", 1)
    losses = (3.0, 1.0, 2.0, 1.5, 1.1)
    scripted_losses(monkeypatch, *losses, *losses)
    assert main(command(text_model, text_data, tmp_path / "whole")) == 0
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "whole/run.json").read_text())["stages"][0]
    assert record["steps"] == 25
    assert record["stopped"]["epoch"] == 5
    assert record["stopped"]["planned_epochs"] == 10
    assert record["stopped"]["best_epoch"] == 2
    assert "loss on validation had not improved for 3 evaluations" in record["stopped"]["reason"]
    assert shown.count("stopped early, after epoch 5 of 10") == 2
    assert "stopped early" in (tmp_path / "whole/README.md").read_text()

    class Ending(training.Lines):  # type: ignore[name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 18:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training, "Lines", Ending)
        assert main(command(text_model, text_data, tmp_path / "out")) == 143
    assert main([*command(text_model, text_data, tmp_path / "out"), "--resume"]) == 0
    again = json.loads((tmp_path / "out/run.json").read_text())["stages"][0]
    assert again["stopped"] == record["stopped"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("setting", ["none", None])
def test_stage_that_trains_to_its_end(
    setting: str | None, text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched off, and by default with the four validation examples that there are."""
    monkeypatch.setattr(early_stopping, "MIN_VALIDATION", 5 if setting is None else 1)
    scripted_losses(monkeypatch, *range(1, 7))
    own = {} if setting is None else {"early_stopping_patience": setting}
    assert main(command(text_model, text_data, tmp_path / "out", num_train_epochs=6, **own)) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())["stages"][0]
    assert record["steps"] == 30
    assert record["stopped"] is None


# --- The best of several stages ---------------------------------------------------------------------------------------

PLAN = {"stages": [{"name": "top", "trains": "last_n:1"}, {"name": "lora", "trains": "all", "peft": "lora"}]}


@pytest.mark.parametrize("how", [{"method": "lp_ft"}, {"method": "gradual"}, {"plan": PLAN}], ids=str)
def test_result_is_never_worse_than_any_stage(
    how: dict[str, Any], text_model: str, text_data: str, tmp_path: Path
) -> None:
    """The score of the result on validation is that of the best stage, however high the rate of the later ones."""
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "seed": 2}
    settings |= {"num_train_epochs": 6, "learning_rate": 0.05, "load_back_proof": False, "validation_fraction": 0.3}
    record = finetune(**settings, **how, output_dir=str(tmp_path / "out")).record
    best = [stage["best_metric"] for stage in record["stages"]]
    assert len(best) >= 2
    assert None not in best
    assert record["metrics"]["validation"][record["selection_metric"]]["value"] == pytest.approx(max(best))
    for stage in record["stages"]:
        scores = [entry["eval_accuracy"] for entry in stage["history"] if "eval_accuracy" in entry]
        assert stage["best_metric"] == max(scores)


def stage(name: str, score: float, loss: float | None) -> StageResult:
    """A finished stage with one evaluation."""
    facts = {"steps": 1, "seconds": 1.0, "peak_memory": 0, "trainable": 1, "total": 1, "frozen_checked": 0}
    entry = {"eval_accuracy": score} | ({} if loss is None else {"eval_loss": loss})
    return StageResult(name, 1.0, **facts, best_metric=score, checkpoint=name, history=[entry])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stages", "best"),
    [
        ([stage("head", 0.9, 0.3), stage("full", 0.8, 0.1)], "head"),
        ([stage("head", 0.9, 0.3), stage("full", 0.9, 0.2)], "full"),
        ([stage("head", 0.9, 0.2), stage("full", 0.9, 0.3)], "head"),
        ([stage("head", 0.9, 0.2), stage("full", 0.9, 0.2)], "full"),
        ([stage("head", 0.9, None), stage("full", 0.9, None)], "full"),
        ([stage("head", 0.9, math.inf), stage("full", 0.9, 5.0)], "full"),
    ],
)
def test_stages_with_equal_scores(stages: list[StageResult], best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower loss on validation decides, then the later stage."""
    restored: list[str] = []
    monkeypatch.setattr(loop, "restore", lambda _, folder: restored.append(folder.name))
    run = SimpleNamespace(
        config=SimpleNamespace(explicit=frozenset()),
        stages=stages,
        metric="accuracy",
        higher_is_better=True,
        model=None,
        output_dir=Path("out"),
    )
    number = loop._keep_best(run)  # type: ignore[arg-type]
    assert stages[number - 1].name == best
    assert restored == ([] if best == "full" else ["head"])


# --- BatchNorm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm(mode: str, image_model: str, image_data: str, tmp_path: Path, quick_proof: None) -> None:
    """With `eval`, statistics stay bit-identical, which the audit checks, and scale and shift train."""
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, "method": "full"}
    settings |= {"eval_strategy": "no", "save_strategy": "no", "max_steps": 4, "per_device_train_batch_size": 8}
    record = finetune(**settings, batch_norm=mode, output_dir=str(tmp_path / "out")).record
    assert record["proofs"]["load_back"]["passed"]
    before, after = load_file(Path(image_model) / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    statistics = {name for name in before if "running" in name}
    same = {name for name in statistics if torch.equal(before[name], after[name])}
    assert len(statistics) > 10
    assert same == (statistics if mode == "eval" else set())
    norms = {name.replace("running_mean", "weight") for name in statistics if name.endswith("mean")}
    assert not any(torch.equal(before[name], after[name]) for name in norms)
    assert (record["stages"][0]["frozen_checked"] >= len(statistics)) == (mode == "eval")


@pytest.mark.parametrize(
    ("mode", "method", "held"),
    [(None, "full", True), (None, "scratch", False), ("train", "full", False), ("eval", "full", True)],
)
def test_batch_norm_by_default(mode: str | None, method: str, held: bool) -> None:
    """The statistics of a source model are held, never random ones."""
    assert Config(method=MethodSpec(method), batch_norm=mode).holds_batch_norm is held
