"""A linear head on cached features is solved wherever it can be, in every method that trains it alone first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_ft import UserError, finetune
from hf_ft.records import RunRecord, from_json
from hf_ft.reports.learning_curves import curves


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    """The record of a short run of `lp_ft`."""
    usual = {"task": "text_classification", "method": "lp_ft", "num_train_epochs": 4, "load_back_proof": False}
    usual |= {"model": model, "dataset": data, "output_dir": str(out), "per_device_train_batch_size": 8}
    return finetune(**{**usual, **settings}).record


def solved(record: dict[str, Any]) -> list[bool]:
    """Whether the head of each stage was solved."""
    return [bool(stage["solver"]) for stage in record["stages"]]


def changed(out: Path, base: str) -> set[str]:
    """The tensors of a result that are not those of its base."""
    before, after = load_file(Path(base) / "model.safetensors"), load_file(out / "model.safetensors")
    return {name for name, value in before.items() if not torch.equal(value, after[f"bert.{name}"])}


def test_lp_ft_begins_with_a_solved_head(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs and a rate are those of the fine-tuning: the head is solved, and the table says so before it starts."""
    record = train(text_model, text_data, tmp_path / "out", learning_rate=1e-4)
    text = capsys.readouterr().out
    assert solved(record) == [True, False]
    assert record["stages"][0]["solver"]["converged"]
    assert [stage["solved"] for stage in record["plan"]["stages"]] == [True, False]
    head, full = record["stages"]
    assert (head["steps"], head["epochs"], full["epochs"]) == (0, 0, 3)
    before, after = text.split("cache ", 1)
    assert "head, closed form" in before
    assert "1 epoch" not in before
    assert "saves about" not in after  # the features are what is solved on, whatever epochs would have taken
    assert "epoch  3.00/3 " in after
    points, begins = curves(from_json(RunRecord, record))
    assert begins == [(0, "full")]
    assert [x for x, _ in points["eval_accuracy"]] == pytest.approx([0, 1, 2, 3])
    assert points["eval_accuracy"][0][1] == head["best_metric"]
    steps = train(text_model, text_data, tmp_path / "steps", head_solver="sgd")
    assert solved(steps) == [False, False]
    assert [stage["solved"] for stage in steps["plan"]["stages"]] == [False, False]
    assert "head, 1 epoch" in capsys.readouterr().out


def test_a_stage_shorter_than_an_epoch_is_solved(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Features that would be read once save no time, but they are what the solver needs."""
    assert solved(train(text_model, text_data, tmp_path / "out", num_train_epochs=1)) == [True, False]
    assert solved(train(text_model, text_data, tmp_path / "steps", num_train_epochs=None, max_steps=3)) == [True, False]


def test_gradual_begins_with_a_solved_head(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The neck thaws with the first block, so that the head comes alone."""
    record = train(text_model, text_data, tmp_path / "out", method="gradual", num_train_epochs=5)
    assert solved(record) == [True, False, False, False, False]
    neck = [group["role"] for group in record["plan"]["groups"]].index("neck")
    assert [stage["settings"][neck]["mode"] for stage in record["plan"]["stages"]] == ["frozen", *["train"] * 4]


def test_stages_of_ones_own(text_model: str, text_data: str, tmp_path: Path) -> None:
    """A stage that says how its steps are made makes them; one that says nothing is solved."""
    stages = [
        {"name": "plain", "trains": "head"},
        {"name": "rated", "trains": "head", "learning_rate": 0.01},
        {"name": "scheduled", "trains": "head", "scheduler": "constant"},
        {"name": "rest", "trains": "all"},
    ]
    record = train(text_model, text_data, tmp_path / "out", plan={"stages": stages}, method=None)
    assert solved(record) == [True, False, False, False]
    alone = {"plan": {"stages": stages[:1]}, "method": None}
    assert solved(train(text_model, text_data, tmp_path / "alone", num_train_epochs=None, **alone)) == [True]
    assert solved(train(text_model, text_data, tmp_path / "epochs", num_train_epochs=2, **alone)) == [False]


def test_settings_that_ask_for_steps_are_named(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `head`, a number of epochs means steps; the output says so, and how it is solved all the same."""
    settings = {"method": "head", "num_train_epochs": 2}
    assert solved(train(text_model, text_data, tmp_path / "out", **settings)) == [False]
    assert "solver   not used, since --num_train_epochs asks for steps" in capsys.readouterr().out
    assert solved(train(text_model, text_data, tmp_path / "exact", head_solver="exact", **settings)) == [True]
    assert solved(train(text_model, text_data, tmp_path / "sgd", head_solver="sgd", **settings)) == [False]
    assert "solver   not used" not in capsys.readouterr().out


def test_images_of_a_solved_head_are_not_augmented(image_model: str, image_data: str, tmp_path: Path) -> None:
    """Augmentation is for steps: the head of `lp_ft` is solved on plain images, and of `head` it is not solved."""
    settings = {"task": "image_classification", "num_train_epochs": 3}
    record = train(image_model, image_data, tmp_path / "out", **settings)
    assert solved(record) == [True, False]
    assert record["settings"]["augment"] == "basic"
    assert record["stages"][0]["notes"] == []
    changes = {"augment": "strong", "mixup": 0.2, "cutmix": 1.0}
    asked = train(image_model, image_data, tmp_path / "asked", **changes, **settings)
    assert solved(asked) == [True, False]
    assert all(f"--{name}" in asked["stages"][0]["notes"][0] for name in changes)
    for name, value in changes.items():
        alone = settings | {"method": "head", "num_train_epochs": None, name: value}
        with pytest.raises(UserError) as caught:
            train(image_model, image_data, tmp_path / name, head_solver="exact", **alone)
        assert (caught.value.option, caught.value.value) == (name, value)
    assert solved(train(image_model, image_data, tmp_path / "alone", **alone)) == [False]


def test_the_better_of_solved_head_and_fine_tuning_is_kept(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuning that wrecks the model is taken back to the solved head, and the output says so."""
    stages = [{"name": "first", "trains": "head"}, {"name": "wreck", "trains": "all", "learning_rate": 3.0}]
    settings = {"plan": {"stages": stages}, "method": None, "metric_for_best_model": "loss"}
    record = train(text_model, text_data, tmp_path / "out", **settings)
    assert solved(record) == [True, False]
    assert changed(tmp_path / "out", text_model) == set()
    assert "stage 'first' scored best" in record["stages"][1]["notes"][0]
    assert "stage 'first' scored best" in capsys.readouterr().out


def test_last_weights_are_kept_where_nothing_competes(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Without evaluations, or without going back to the best, the solved head does not win over what follows it."""
    for name, more in (
        ("blind", {"eval_strategy": "no", "save_strategy": "no"}),
        ("last", {"load_best_model_at_end": False, "learning_rate": 1e-9}),
    ):
        record = train(text_model, text_data, tmp_path / name, **more)
        assert solved(record) == [True, False]
        assert record["stages"][1]["notes"] == []
        assert changed(tmp_path / name, text_model)
