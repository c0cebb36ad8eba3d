"""What users bring themselves: a task in place of a named one, callbacks, a loss, a collator, a transform, a metric."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import ImageOps
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms.functional import to_tensor
from transformers import TrainerCallback

from hf_ft import UserError, finetune, load_model, load_splits, make_plan, save, score, train
from hf_ft.feature_cache import images as image_cache
from hf_ft.feature_cache.function_identity import Unidentifiable, identify
from hf_ft.metrics.evaluate_metrics import load_metric
from hf_ft.settings.merge import build
from hf_ft.tasks.base import Task
from hf_ft.tasks.registry import get_task
from hf_ft.training.extensions import read_extensions

PLAIN = get_task("image_classification")


class Negative:
    """The images of a batch as the processor sees them, in inverted colours."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [ImageOps.invert(image.convert("RGB")) for image in batch["image"]]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": list(pixels), "labels": batch["labels"]}


def encode_negative(rows: Dataset, processor: Any, config: Any, training: bool) -> Dataset:
    """In place of the task's own `encode`."""
    return rows.with_transform(Negative(processor))


NEGATIVE = replace(PLAIN, encode=encode_negative)


def run_with(own: Task | None, tmp_path: Path, name: str, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """A run through the steps of a recipe, whose features stand in a folder that all of a test share."""
    settings |= {"cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / name), "load_back_proof": False}
    made = build(("the test", settings))
    config, args = made.config, made.arguments()
    splits = load_splits(config, args.seed)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    run = train(model, processor, splits, plan, config, args, loaded, own)
    results = score(run)
    save(run, results)
    return run, {name: one.value for name, one in results.metrics["test"].items()}


@pytest.fixture
def image_settings(image_model: str, image_data: str) -> dict[str, Any]:
    """A linear probe of the squares."""
    return {"task": "image_classification", "model": image_model, "dataset": image_data, "method": "head"}


def test_two_encodings_share_no_features(image_settings: dict[str, Any], tmp_path: Path) -> None:
    """Features of images belong to the images and to how a task encodes them; the same encoding finds them again."""
    plain, _ = run_with(None, tmp_path, "plain", **image_settings, cache="on")
    own, _ = run_with(NEGATIVE, tmp_path, "own", **image_settings, cache="on")
    again, _ = run_with(NEGATIVE, tmp_path, "again", **image_settings, cache="on")
    facts = [run.stages[0].cache for run in (plain, own, again)]
    assert facts[0]["computed"] == facts[1]["computed"] == facts[1]["examples"] > 0
    assert facts[2]["computed"] == 0
    weights = [run.model.state_dict() for run in (plain, own, again)]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])


def test_a_replaced_task_scores_as_it_trains(
    image_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring asks the task that trained, not the one of its name; so do images that are decoded once."""
    monkeypatch.setattr(image_cache, "LEAST", -float("inf"))
    asked: list[bool] = []

    def encode(rows: Dataset, processor: Any, config: Any, training: bool) -> Dataset:
        asked.append(training)
        return encode_negative(rows, processor, config, training)

    settings = image_settings | {"method": "full", "augment": "none", "max_steps": 3}
    run, _ = run_with(replace(PLAIN, encode=encode), tmp_path, "own", **settings, cache="on")
    assert run.stages[0].images is None  # those of the image cache are not inverted
    assert asked == [True, False, False, False]  # train and validation, then both scored splits


@pytest.mark.parametrize("cache", ["on", "auto"])
def test_an_encoding_that_cannot_be_identified_runs_uncached(
    cache: str, image_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An open generator has no state to compare: no features are stored, and the run says why."""
    task = replace(PLAIN, encode=lambda rows, processor, *_: rows.with_transform(Unreadable(processor, iter([0]))))
    if cache == "on":
        with pytest.raises(Exception, match="whose state cannot be read") as found:
            run_with(task, tmp_path, "out", **image_settings, cache=cache)
        assert type(found.value).__name__ == "UserError"
        return
    run, _ = run_with(task, tmp_path, "out", **image_settings, cache=cache, max_steps=2)
    assert run.stages[0].cache is None
    assert "state cannot be read" in capsys.readouterr().out + run.stages[0].uncached


class Unreadable(Negative):
    """Holds what has no state to compare."""

    def __init__(self, processor: Any, numbers: Any) -> None:
        super().__init__(processor)
        self.numbers = numbers


def scaled(factor: float) -> Any:
    """A closure over a number."""
    return lambda value: value * factor


def test_identity_is_that_of_what_is_done() -> None:
    """Closures, objects and partials count with their state; equal ones are equal, in whatever order they are made."""
    assert identify(scaled(1.0)) == identify(scaled(1.0)) != identify(scaled(2.0))
    assert identify(torch.nn.Linear(2, 2)) != identify(torch.nn.Linear(2, 2))  # other weights
    assert identify(Negative(1)) == identify(Negative(1)) != identify(Negative(2))
    with pytest.raises(Unidentifiable):
        identify(iter([1]))
    with pytest.raises(Unidentifiable):
        identify(Path(__file__).open())  # noqa: SIM115


# --- Callbacks, losses, collators, transforms and metrics, as a user writes them --------------------------------------


class Mixup:
    """Batches whose images and labels are mixed in pairs (https://arxiv.org/abs/1710.09412)."""

    def __init__(self, classes: int, alpha: float = 0.4) -> None:
        self.classes, self.alpha = classes, alpha

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([row["pixel_values"] for row in rows])
        labels = one_hot(torch.tensor([row["labels"] for row in rows]), self.classes).float()
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        order = torch.randperm(len(rows))
        return {
            "pixel_values": share * pixels + (1 - share) * pixels[order],
            "labels": share * labels + (1 - share) * labels[order],
        }


class ExponentialAverage(TrainerCallback):
    """The average of the weights over the last steps, in the model when training ends."""

    def __init__(self, decay: float = 0.9) -> None:
        self.decay, self.steps = decay, 0
        self.average: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Move the average towards the weights."""
        self.steps += 1
        for name, value in model.named_parameters():
            if value.requires_grad:
                average = self.average.setdefault(name, value.detach().clone())
                average.lerp_(value.detach(), 1 - self.decay)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Put the average in place of the weights."""
        model.load_state_dict(self.average, strict=False)


def trained(tmp_path: Path, settings: dict[str, Any], **extensions: Any) -> dict[str, Any]:
    """The record of a run with extensions."""
    settings = {"load_back_proof": False, "max_steps": 6, "per_device_train_batch_size": 8, **settings}
    return finetune(**settings, output_dir=str(tmp_path / "out"), **extensions).record


def test_a_mixup_collator_from_outside(
    image_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It makes the batches of training alone; features are not cached and the head is not solved, and both are said."""
    record = trained(tmp_path, image_settings, data_collator=Mixup(3))
    (stage,) = record["stages"]
    assert (stage["steps"], stage["cache"], stage["solver"]) == (6, None, None)
    assert "mix" in stage["uncached"]
    assert record["extensions"] == {"data_collator": "Mixup"}
    losses = [entry["eval_loss"] for entry in stage["history"] if "eval_loss" in entry]
    assert losses
    assert all(0 < loss < 5 for loss in losses)
    assert "Mixup" in (tmp_path / "out/README.md").read_text()


def test_shares_of_labels_weigh_as_labels_do(image_settings: dict[str, Any], tmp_path: Path) -> None:
    """A collator that mixes nothing trains as the built-in one: `Trainer` counts shares as items."""
    settings = image_settings | {"method": "full", "augment": "none", "load_back_proof": False, "max_steps": 2}
    runs = []
    for name, collator in (("plain", None), ("shares", one_hot_collator)):
        found = finetune(**settings, output_dir=str(tmp_path / name), data_collator=collator)
        runs.append([entry["loss"] for entry in found.record["stages"][0]["history"] if "loss" in entry])
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def one_hot_collator(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Labels as shares, none of them mixed."""
    labels = one_hot(torch.tensor([row["labels"] for row in rows]), 3).float()
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}


def test_an_average_of_weights_from_outside(image_settings: dict[str, Any], tmp_path: Path) -> None:
    """The weights that a callback leaves at the end of training are those of the result, and it sees every step."""
    average = ExponentialAverage()
    settings = image_settings | {"method": "full", "augment": "none"}
    record = trained(tmp_path, settings, callbacks=[average])
    assert average.steps == 6
    saved = load_file(tmp_path / "out/model.safetensors")
    shapes = {name: value for name, value in average.average.items() if "running" not in name}
    assert sum(any(torch.equal(value, other) for other in saved.values()) for value in shapes.values()) == len(shapes)
    assert record["extensions"]["callbacks"] == ["ExponentialAverage"]


def test_callbacks_of_a_solved_head(
    image_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head that is solved makes no steps, which the run says; it is solved all the same."""
    average = ExponentialAverage()
    settings = image_settings | {"load_back_proof": False, "output_dir": str(tmp_path / "out")}
    record = finetune(**settings, callbacks=[average]).record
    assert record["stages"][0]["solver"]
    assert average.steps == 0
    assert "callbacks" in capsys.readouterr().out


def test_a_loss_of_ones_own_is_used_everywhere_and_rules_out_the_solver(
    image_settings: dict[str, Any], tmp_path: Path
) -> None:
    """Ten times the loss is ten times the logged loss, in training and in evaluation."""
    seen: list[bool] = []

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        seen.append(torch.is_grad_enabled())
        return 10 * cross_entropy(outputs.logits, labels)

    record = trained(tmp_path, image_settings, loss=loss)
    assert record["stages"][0]["solver"] is None
    assert {True, False} <= set(seen)
    with pytest.raises(UserError) as found:
        trained(tmp_path / "other", image_settings | {"head_solver": "exact"}, loss=loss)
    assert found.value.option == "head_solver"
    with pytest.raises(UserError) as found:
        trained(tmp_path / "third", image_settings | {"class_weights": "balanced"}, loss=loss)
    assert found.value.option == "class_weights"


def test_a_transform_changes_training_images_alone(
    image_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It replaces the augmentation of the method, may return tensors, and is tried before anything is trained."""
    monkeypatch.setattr(image_cache, "LEAST", -float("inf"))
    sizes: list[Any] = []

    def grey(image: Any) -> torch.Tensor:
        sizes.append(image.size)
        return to_tensor(image).mean(0, keepdim=True).expand(3, -1, -1)

    record = trained(tmp_path, image_settings | {"method": "full"}, transform=grey)
    assert len(sizes) > 42  # in every epoch anew
    assert record["settings"]["augment"] == "none"
    assert record["stages"][0]["images"]["examples"] < 42  # validation alone is decoded once
    with pytest.raises(UserError) as found:
        trained(tmp_path / "other", image_settings, transform=lambda image: to_tensor(image) * 255)
    assert found.value.option == "transform"


def test_metrics_of_ones_own(text_model: str, regression_data: str, tmp_path: Path) -> None:
    """They are reported in every evaluation and for the result, in the units of the data."""

    def largest(prediction: Any) -> dict[str, float]:
        return {"largest_label": float(prediction.label_ids.max())}

    settings = {"task": "text_regression", "model": text_model, "dataset": regression_data, "method": "full"}
    record = trained(tmp_path, settings, compute_metrics=largest)
    history = [entry for stage in record["stages"] for entry in stage["history"] if "eval_loss" in entry]
    final = record["custom_metrics"]["validation"]["largest_label"]
    assert final > 2000
    assert [entry["eval_largest_label"] for entry in history] == pytest.approx([final] * len(history))
    assert record["extensions"] == {"compute_metrics": "test_metrics_of_ones_own.largest"}


MISTAKES = {
    "callbacks": [3, [object()], "early"],
    "loss": [3, lambda outputs: outputs],
    "data_collator": ["pad", lambda: None],
    "transform": [5],
    "compute_metrics": [7, lambda: {}],
    "head": ["mlp", lambda: None, torch.nn.Linear(2, 2)],
}


@pytest.mark.parametrize("name", MISTAKES)
def test_extensions_of_the_wrong_kind(name: str) -> None:
    """One line each, before anything is loaded."""
    for value in MISTAKES[name]:
        with pytest.raises(UserError) as found:
            read_extensions(**{name: value})
        assert found.value.option == name
        assert "\n" not in str(found.value)


def test_a_run_is_resumed_with_the_code_that_it_began_with(
    image_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another loss is refused like another setting; the same one, defined anew, goes on."""
    settings = image_settings | {"method": "full", "augment": "none", "save_steps": 2, "save_strategy": "steps"}
    monkeypatch.setenv("INTERRUPT_AT", "3")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, settings, loss=weighted_loss(2.0), callbacks=[Interrupt])
    settings["resume_from_checkpoint"] = True
    with pytest.raises(UserError) as found:
        trained(tmp_path, settings, loss=weighted_loss(3.0), callbacks=[Interrupt])
    assert found.value.option == "loss"
    monkeypatch.delenv("INTERRUPT_AT")
    assert trained(tmp_path, settings, loss=weighted_loss(2.0), callbacks=[Interrupt])["stages"][0]["steps"] == 6


class Interrupt(TrainerCallback):
    """Ends the process after some steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise what Ctrl-C raises."""
        if str(state.global_step) == os.environ.get("INTERRUPT_AT"):
            raise KeyboardInterrupt


def weighted_loss(weight: float) -> Any:
    """A closure over a weight."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return weight * cross_entropy(outputs.logits, labels)

    return loss


METRIC = '''
import datasets
import evaluate


class Share(evaluate.Metric):
    """The share of predictions that are class 1, and half of it."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"share": float(sum(predictions) / len(predictions))}
'''


def test_a_metric_of_evaluate_may_select_the_checkpoint(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Loaded from a folder, reported in each evaluation and for the result; its direction is the one it came with."""
    (tmp_path / "share").mkdir()
    (tmp_path / "share/share.py").write_text(METRIC)
    metric = load_metric(str(tmp_path / "share"), greater_is_better=False)
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "full"}
    record = trained(tmp_path, settings | {"metric_for_best_model": "share"}, compute_metrics=metric)
    (stage,) = record["stages"]
    logged = [entry["eval_share"] for entry in stage["history"] if "eval_share" in entry]
    assert stage["best_metric"] == min(logged)
    assert set(record["custom_metrics"]) == {"validation", "test"}
    assert record["extensions"] == {"compute_metrics": "share"}
    assert "accuracy" in record["metrics"]["test"]
