"""`--calibrate`: what a plain `pipeline` answers is calibrated, keeps its classes, and needs no threshold."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

from hf_ft import UserError, finetune
from hf_ft.metrics.calibration import calibration_score
from hf_ft.records import RunRecord, read_record
from hf_ft.reports.calibration import calibration_lines, calibration_table
from hf_ft.settings.merge import build
from tests.support.text_files import write_splits

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("text", {"method": "full"}),
    "solved head from the cache": ("text", {"method": "head"}),
    "merged adapters": ("text", {"method": "lora"}),
    "average of weights": ("text", {"method": "full", "ema": 0.9}),
    "soup of checkpoints": ("text", {"method": "full", "soup": 2, "eval_strategy": "steps", "eval_steps": 6}),
    "images": ("image", {"method": "full", "validation_fraction": 0.4}),
}


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Opinions of which every fifth has the wrong label: a model that fits them is too sure."""
    random = np.random.default_rng(0)

    def example(split: str, i: int) -> tuple[str, str]:
        word, label = (("awful", "negative"), ("lovely", "positive"))[i % 2]
        told = label if random.random() < 0.8 else {"negative": "positive", "positive": "negative"}[label]
        return f"a {word} film {split} {i}", told

    counts = {"train": 40, "validation": 30, "test": 40}
    splits = {split: [example(split, i) for i in range(count)] for split, count in counts.items()}
    return write_splits(tmp_path_factory.mktemp("data") / "noisy", splits)


def settings(kind: str, request: pytest.FixtureRequest, out: Path, **own: Any) -> dict[str, Any]:
    modality = "image" if kind == "image" else "text"
    found = {
        "task": f"{modality}_classification",
        "model": request.getfixturevalue(f"{modality}_model"),
        "dataset": request.getfixturevalue("opinions" if kind == "text" else f"{kind}_data"),
        "learning_rate": 5e-3,
        "max_steps": 18,
        "per_device_train_batch_size": 8,
        "output_dir": str(out),
        "seed": 1,
    }
    if own.get("method") == "head":
        del found["learning_rate"], found["max_steps"]
    if "soup" in own:
        found |= {"save_strategy": "steps", "save_steps": 6}
    return found | own


def raw(kind: str, dataset: str) -> tuple[list[str], list[str]]:
    """Inputs and labels of the test split as a user has them."""
    if kind == "image":
        paths = sorted((Path(dataset) / "test").glob("*/*.png"))
        return [str(path) for path in paths], [path.parent.name for path in paths]
    with (Path(dataset) / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def plainly(folder: Path, kind: str, inputs: list[str], labels: list[str], **options: Any) -> np.ndarray:
    """The probabilities that the plain pipeline gives, `(examples, labels)`."""
    task: Any = f"{'image' if kind == 'image' else 'text'}-classification"
    classify: Any = pipeline(task, model=str(folder))
    answers = classify(inputs, top_k=len(labels), **options)
    return np.array([[{one["label"]: one["score"] for one in answer}[label] for label in labels] for answer in answers])


@pytest.mark.parametrize("case", CASES)
def test_a_plain_pipeline_is_calibrated(
    case: str, request: pytest.FixtureRequest, tmp_path: Path, quick_proof: None
) -> None:
    """Its log loss and calibration error on test are those in run.json, and its classes those before."""
    kind, own = CASES[case]
    finetune(**settings(kind, request, tmp_path / "out", **own, calibrate=True))
    record = read_record(tmp_path / "out", RunRecord)
    found = record.calibration
    assert found is not None
    assert found.examples == record.data.sizes["validation"]
    assert (found.bias, found.moved, found.threshold) == ([], [], None)
    assert abs(found.temperature - 1) > 1e-3
    inputs, truth = raw(kind, settings(kind, request, tmp_path)["dataset"])
    references = np.array([record.data.labels.index(label) for label in truth])
    odds = np.log(plainly(tmp_path / "out", kind, inputs, record.data.labels).clip(1e-12))
    test = found.splits["test"]
    assert test.changed == 0
    for logits, told in ((odds * found.temperature, test.before), (odds, test.after)):
        scored = calibration_score(logits, references, "single_label_classification")
        assert scored.log_loss == pytest.approx(told.log_loss, abs=1e-3)
        assert scored.brier == pytest.approx(told.brier, abs=1e-3)
    assert record.metrics["test"]["log_loss"].value == pytest.approx(test.after.log_loss, abs=1e-6)
    assert record.metrics["test"]["ece"].value == pytest.approx(test.after.ece, abs=1e-6)
    before, after = found.splits["validation"].before, found.splits["validation"].after
    if kind == "text":  # where there are mistakes to fit to
        assert after.log_loss < before.log_loss + 1e-3, "the smoothing of targets may cost a little"
    assert (tmp_path / "out/figures/reliability.png").is_file()
    adapter = tmp_path / "out/adapter"
    assert adapter.is_dir() == (own["method"] == "lora")
    if adapter.is_dir():
        check_adapter(adapter, tmp_path / "out", request.getfixturevalue("text_model"))


def check_adapter(adapter: Path, folder: Path, base: str) -> None:
    """On the unchanged base model it gives the logits of the merged one."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    adapted = PeftModel.from_pretrained(plain, str(adapter)).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(["a good film", "awful"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(adapted(**inputs).logits, merged(**inputs).logits, atol=1e-4)


def test_classes_and_their_scores_are_those_without_it(
    request: pytest.FixtureRequest, tmp_path: Path, quick_proof: None
) -> None:
    """The same training without the option gives the same class for every text; nothing else is written."""
    folders = {name: tmp_path / name for name in ("plain", "calibrated")}
    records = {
        name: finetune(**settings("text", request, folder, method="full", calibrate=name == "calibrated")).record
        for name, folder in folders.items()
    }
    inputs, _ = raw("text", request.getfixturevalue("opinions"))
    labels = records["plain"]["data"]["labels"]
    plain, calibrated = (plainly(folder, "text", inputs, labels) for folder in folders.values())
    assert (plain.argmax(1) == calibrated.argmax(1)).all()
    assert np.abs(plain - calibrated).max() > 1e-3
    odds = [np.log(shares[:, 0] / shares[:, 1]) for shares in (plain, calibrated)]
    assert odds[0] / records["calibrated"]["calibration"]["temperature"] == pytest.approx(odds[1], rel=1e-3, abs=1e-3)
    assert records["plain"]["calibration"] is None
    assert not (folders["plain"] / "figures/reliability.png").exists()
    for metric in ("accuracy", "f1_macro", "mcc"):
        told = [record["metrics"]["test"][metric]["value"] for record in records.values()]
        assert told[0] == told[1]


def test_several_labels_have_the_threshold_one_half(
    request: pytest.FixtureRequest, tmp_path: Path, quick_proof: None
) -> None:
    """A plain pipeline with 0.5 scores what run.json says; what the threshold shifted is told apart."""
    record_of = finetune(**settings("multi_label", request, tmp_path / "out", method="full", calibrate=True))
    record = read_record(record_of.output_dir, RunRecord)
    found = record.calibration
    assert found is not None
    assert found.threshold is not None
    assert record.threshold == 0.5
    labels = record.data.labels
    assert len(found.bias) == len(found.moved) == len(labels)
    assert len(set(found.moved)) == 1
    lines = (Path(request.getfixturevalue("multi_label_data")) / "test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    shares = plainly(tmp_path / "out", "text", [row["text"] for row in rows], labels, function_to_apply="sigmoid")
    actual = np.array([[label in row["labels"] for label in labels] for row in rows])
    predicted = shares >= 0.5
    right = (predicted & actual).sum()
    f1 = 2 * right / (predicted.sum() + actual.sum())
    assert f1 == pytest.approx(record.metrics["test"]["f1_micro"].value, abs=1e-6)
    test = found.splits["test"]
    assert test.unmoved is not None
    assert test.changed is None
    odds = np.log(shares.clip(1e-7, 1 - 1e-7)) - np.log1p(-shares.clip(1e-7, 1 - 1e-7)) - found.moved
    unmoved = calibration_score(odds, actual.astype(int), "multi_label_classification")
    assert unmoved.log_loss == pytest.approx(test.unmoved.log_loss, abs=1e-3)
    header, table = calibration_table(found)
    assert len(header) == 4
    assert len(table) == 2 * 4
    assert any("0.5" in line for line in calibration_lines(record))


@pytest.mark.parametrize("threshold", ["auto", 0.2])
def test_a_threshold_of_two_classes_becomes_the_more_probable_class(
    threshold: Any, request: pytest.FixtureRequest, tmp_path: Path, quick_proof: None
) -> None:
    """The plain pipeline decides as the threshold does for the probabilities before it moved."""
    options = {"method": "head", "calibrate": True, "threshold": threshold}
    finetune(**settings("text", request, tmp_path / "out", **options))
    record = read_record(tmp_path / "out", RunRecord)
    found = record.calibration
    assert found is not None
    assert record.rare_class is None
    assert found.label in record.data.labels
    assert found.threshold is not None
    assert threshold == "auto" or found.threshold == threshold
    inputs, _ = raw("text", request.getfixturevalue("opinions"))
    shares = plainly(tmp_path / "out", "text", inputs, record.data.labels)
    place = record.data.labels.index(found.label)
    unmoved = np.log(shares) - found.moved
    probability = np.exp(unmoved[:, place]) / np.exp(unmoved).sum(axis=1)
    assert ((shares.argmax(1) == place) == (probability >= found.threshold)).all()


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "tags": ("token", {"task": "token_classification"}),
    "numbers": ("regression", {"task": "text_regression", "label_column": "price"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_calibrated_is_refused(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One error, before anything is trained where the options show it."""
    kind, own = REFUSED[case]
    with pytest.raises(UserError, match="calibrate"):
        finetune(**settings(kind, request, tmp_path / "out", calibrate=True, **own))


def test_a_head_that_cannot_hold_it_is_refused_before_training(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Decoders have no bias, which several labels need; one label does without."""
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    folder = tmp_path / "gpt2"
    config = GPT2Config(
        n_embd=32, n_layer=1, n_head=2, vocab_size=30522, n_positions=64, bos_token_id=101, eos_token_id=102
    )
    GPT2Model(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(request.getfixturevalue("minilm")).save_pretrained(folder)
    own = {"model": str(folder), "method": "full", "max_steps": 1, "calibrate": True, "load_back_proof": False}
    with pytest.raises(UserError, match="no bias") as refusal:
        finetune(**settings("multi_label", request, tmp_path / "several", **own))
    assert refusal.value.option == "calibrate"
    assert not (tmp_path / "several").exists()
    assert finetune(**settings("text", request, tmp_path / "one", **own)).record["calibration"]


@pytest.mark.parametrize("command", ["compare", "depth"])
def test_experiments_refuse_it(command: str, text_model: str, text_data: str, tmp_path: Path) -> None:
    """Their trials are not calibrated, so the option would be ignored."""
    from hf_ft import compare, depth

    usual = {"task": "text_classification", "model": text_model, "dataset": text_data, "output_dir": str(tmp_path)}
    with pytest.raises(UserError) as refusal:
        {"compare": compare, "depth": depth}[command](**usual, calibrate=True)
    assert refusal.value.option == "calibrate"


def test_it_is_off_by_default() -> None:
    config = build(("a test", {"task": "text_classification", "model": "m/m", "dataset": "d/d", "output_dir": "o"}))
    assert config.config.calibrate is False
