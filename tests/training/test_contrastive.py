"""Method `contrastive`: its loss against a plain loop, pairs in batches, and runs whose result is a plain model."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from hf_ft import UserError, depth_groups, finetune
from hf_ft.cli.app import main
from hf_ft.models import features_as_logits
from hf_ft.models.head_features import head_features
from hf_ft.training.contrastive import TEMPERATURE, contrastive_loss, in_pairs


@pytest.fixture(scope="module")
def sentence_model(text_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny BERT as a sentence encoder with mean pooling."""
    folder = tmp_path_factory.mktemp("models") / "sentences"
    shutil.copytree(text_model, folder)
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return str(folder)


# --- The loss -------------------------------------------------------------------------------------------------------


def by_hand(features: Tensor, labels: list[int]) -> list[float]:
    """The loss of each anchor, pair by pair."""
    unit = [row / row.norm() for row in features]
    found = []
    for i, label in enumerate(labels):
        alike = [j for j in range(len(labels)) if j != i and labels[j] == label]
        if alike:
            total = sum(torch.exp(unit[i] @ unit[k] / TEMPERATURE) for k in range(len(labels)) if k != i)
            each = [-torch.log(torch.exp(unit[i] @ unit[j] / TEMPERATURE) / total).item() for j in alike]
            found.append(sum(each) / len(each))
    return found


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2], [0, 0, 0, 1, 1], [3, 3, 3]], ids=str)
def test_loss_is_that_of_the_definition(labels: list[int]) -> None:
    """The mean over anchors that have a partner; the names of the classes do not matter."""
    torch.manual_seed(0)
    features = torch.randn(len(labels), 6)
    outputs = SimpleNamespace(logits=features)
    expected = by_hand(features, labels)
    loss = contrastive_loss(outputs, torch.tensor(labels))
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert contrastive_loss(outputs, 7 - torch.tensor(labels)).item() == pytest.approx(loss.item())
    half = contrastive_loss(outputs, torch.tensor(labels), num_items_in_batch=2 * len(labels))
    assert half.item() == pytest.approx(loss.item() / 2)


def test_loss_without_pairs_is_zero_and_has_a_gradient() -> None:
    """A batch of one example of each class teaches nothing, and stops nothing."""
    features = torch.randn(3, 4, requires_grad=True)
    loss = contrastive_loss(SimpleNamespace(logits=features), torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_loss_brings_a_class_together() -> None:
    """Steps against the gradient raise cosines within a class and lower those between classes."""
    torch.manual_seed(0)
    features, labels = torch.randn(8, 5, requires_grad=True), torch.tensor([0, 1] * 4)
    for _ in range(300):
        (slope,) = torch.autograd.grad(contrastive_loss(SimpleNamespace(logits=features), labels), features)
        features = normalize(features - 0.1 * slope, dim=1).detach().requires_grad_()
    unit = features.detach()
    same = labels[:, None] == labels[None]
    cosines = unit @ unit.T
    assert cosines[same].min() > cosines[~same].max() + 0.5


def test_rows_of_a_class_come_in_pairs() -> None:
    """Each epoch reads every row once; two of a class stand together until classes of odd size have one left."""
    labels = [0] * 6 + [1] * 5 + [2]
    order = in_pairs(labels)
    first, again, other = (order(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert sorted(first) == list(range(12))
    assert first == again != other
    pairs = [(labels[first[i]], labels[first[i + 1]]) for i in range(0, 10, 2)]
    assert all(a == b for a, b in pairs)
    assert len({a for a, _ in pairs}) == 2
    assert len({labels[row] for row in first[10:]}) == 2


# --- Features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text_model", "image_model"])
def test_features_are_what_the_last_layer_reads(kind: str, request: pytest.FixtureRequest) -> None:
    """The last layer on the features gives the logits; afterwards the model is as before."""
    from transformers import AutoModelForImageClassification

    auto = {"text_model": AutoModelForSequenceClassification, "image_model": AutoModelForImageClassification}[kind]
    model = auto.from_pretrained(request.getfixturevalue(kind)).eval()
    groups = depth_groups(model)
    torch.manual_seed(0)
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    if kind == "text_model":
        batch = {"input_ids": torch.randint(5, 99, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    with torch.no_grad():
        logits = model(**batch).logits
        with features_as_logits(model, groups):
            features = head_features(model, batch)
        weight, bias = (model.get_parameter(name) for name in groups.of_role("head")[0].label_sized)
        torch.testing.assert_close(features @ weight.T + bias, logits)
        torch.testing.assert_close(model(**batch).logits, logits, rtol=0, atol=0)
    assert features.shape[1] != logits.shape[1]


def test_features_of_a_decoder_are_those_of_its_last_token() -> None:
    """A decoder scores every token and picks one of them."""
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 99}
    config = GPT2Config(**sizes, num_labels=3, pad_token_id=0, bos_token_id=1, eos_token_id=1)
    model = GPT2ForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(1, 99, (2, 7))}
    batch["input_ids"][1, 5:] = 0
    with torch.no_grad():
        logits = model(**batch).logits
        with features_as_logits(model, depth_groups(model)):
            features = head_features(model, batch)
        torch.testing.assert_close(features @ model.score.weight.T, logits)


# --- Runs -----------------------------------------------------------------------------------------------------------


def options(model: str, data: str, out: Path, **more: Any) -> dict[str, Any]:
    settings = {"method": "contrastive", "per_device_train_batch_size": 8, "num_train_epochs": 8, "seed": 1}
    return {"task": "text_classification", "model": model, "dataset": data, "output_dir": str(out), **settings, **more}


def test_few_examples_by_the_command_line(sentence_model: str, text_data: str, tmp_path: Path) -> None:
    """Texts of a class come together, the head is solved, the last state is kept, and a plain pipeline agrees."""
    from transformers import pipeline

    out = tmp_path / "out"
    few = {"examples_per_class": 4, "val_examples_per_class": 2}
    given = options(sentence_model, text_data, out, **few, learning_rate=3e-3, num_train_epochs=60)
    assert main(["train", *(f"--{name}={value}" for name, value in given.items())]) == 0
    record = json.loads((out / "run.json").read_text())
    first, second = record["stages"]
    assert [stage["name"] for stage in record["stages"]] == ["contrastive", "head"]
    assert [stage["objective"] for stage in record["plan"]["stages"]] == ["contrastive", None]
    assert first["best_metric"] is None
    assert first["frozen_checked"] == 2
    assert (first["steps"], second["steps"]) == (30, 0)
    assert second["solver"]["penalty"] == pytest.approx(0.1)
    assert len(second["solver"]["path"]) == 1
    assert not second["notes"]
    assert record["proofs"]["load_back"]["passed"]
    assert any("averages the tokens" in note for note in record["model"]["notes"])
    classify = pipeline("text-classification", model=str(out))
    assert classify.model.config.num_hidden_layers == 4
    rows = list(csv.DictReader((Path(text_data) / "test.csv").open()))
    right = sum(classify(row["text"])[0]["label"] == row["label"] for row in rows)
    assert right / len(rows) == pytest.approx(record["metrics"]["test"]["accuracy"]["value"])
    before, after = (cosine_gap(folder, text_data) for folder in (sentence_model, str(out)))
    assert after > before + 0.2


def cosine_gap(folder: str, data: str) -> float:
    """Mean cosine within classes minus that between them, on the test texts."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = list(csv.DictReader((Path(data) / "test.csv").open()))
    batch = AutoTokenizer.from_pretrained(folder)([row["text"] for row in rows], padding=True, return_tensors="pt")
    with features_as_logits(model, depth_groups(model)):
        features = head_features(model, {name: batch[name] for name in ("input_ids", "attention_mask")})
    unit = normalize(features, dim=1)
    same = torch.tensor([[one["label"] == other["label"] for one in rows] for other in rows])
    return float((unit @ unit.T)[same].mean() - (unit @ unit.T)[~same].mean())


def test_a_plan_with_a_contrastive_stage(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Part of the layers is contrasted, on cached features of the rest; early stopping concerns the other stages."""
    stages = [
        {"name": "pairs", "trains": "last_n:1", "objective": "contrastive"},
        {"name": "full", "trains": "all", "learning_rate": 1e-3},
    ]
    more = {"plan": {"stages": stages}, "early_stopping_patience": 2, "cache": "on", "load_back_proof": False}
    given = options(text_model, text_data, tmp_path / "out", **more)
    del given["method"]
    record = finetune(**given).record
    settings = [setting["mode"] for setting in record["plan"]["stages"][0]["settings"]]
    assert settings == ["frozen", "frozen", "frozen", "train", "train", "frozen"]
    assert record["stages"][0]["cache"] is not None
    assert record["stages"][0]["best_metric"] is None
    assert record["stages"][1]["best_metric"] is not None
    assert not any("averages the tokens" in note for note in record["model"]["notes"])


def test_an_objective_that_does_not_exist(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The nearest one is named, before anything is loaded."""
    plan = {"stages": [{"name": "pairs", "trains": "all", "objective": "contrastiv"}]}
    with pytest.raises(UserError) as raised:
        finetune(**options(text_model, text_data, tmp_path / "out", plan=plan, method=None))
    assert raised.value.value == "contrastiv"
    assert "contrastive" in str(raised.value)


def test_a_contrastive_stage_alone_trains_no_head(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The last layer of the head would stay random."""
    plan = {"stages": [{"name": "pairs", "trains": "all", "objective": "contrastive"}]}
    with pytest.raises(UserError, match="No stage trains the head"):
        finetune(**options(text_model, text_data, tmp_path / "out", plan=plan, method=None))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("text_classification", "multi_label"),
        ("text_regression", "regression"),
        ("token_classification", "token"),
    ],
)
def test_labels_that_make_no_pairs(
    task: str, kind: str, text_model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Refused before anything is trained or written."""
    data = request.getfixturevalue(f"{kind}_data")
    with pytest.raises(UserError, match="one class for each example") as raised:
        finetune(**options(text_model, data, tmp_path / "out", task=task))
    assert raised.value.option == "method"
    assert not (tmp_path / "out").exists()


SLOW = """
import sys, time
import hf_ft.training.stage_runner as training
class Slow(training.Lines):
    def on_step_end(self, *args, **kwargs):
        time.sleep(0.1)
training.Lines = Slow
from hf_ft.cli import main
main(sys.argv[1:])
"""


def test_killed_in_the_contrastive_stage(sentence_model: str, text_data: str, tmp_path: Path) -> None:
    """It continues from the last checkpoint; the tensors are those of a whole run."""
    import os
    import time

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    saves = ["--save_strategy=steps", "--save_steps=3"]
    more = {"learning_rate": 1e-3, "load_back_proof": "false", "num_train_epochs": 6}
    words = ["train", *(f"--{k}={v}" for k, v in options(sentence_model, text_data, whole, **more).items()), *saves]
    assert main(words) == 0
    words = [word.replace(str(whole), str(killed)) for word in words]
    command = [sys.executable, "-c", SLOW, *words]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}, **quiet)
    wanted = "checkpoints/1-contrastive/checkpoint-*/trainer_state.json"
    deadline = time.monotonic() + 120
    while not list(killed.glob(wanted)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "run.json").exists()
    assert main([*words, "--resume"]) == 0
    one, other = (load_file(folder / "model.safetensors") for folder in (killed, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)
