"""Numbers as targets: read strictly, scored as scikit-learn and SciPy do, and answered in the user's own units."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_ft import Config, UserError, finetune
from hf_ft.cli.app import main
from hf_ft.data.load import load_splits
from hf_ft.models.head_scale import find_scale
from hf_ft.settings.merge import build
from hf_ft.tasks.class_options import CLASS_OPTIONS
from hf_ft.tasks.text_regression import NUMBER, number

# --- Reading --------------------------------------------------------------------------------------------------------


def read(tmp_path: Path, cells: list[Any], **settings: Any) -> Any:
    rows = {"text": [f"text {i}" for i in range(len(cells))], "label": cells}
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    return load_splits(Config(task="text_regression", dataset=str(tmp_path), explicit=frozenset(settings), **settings))


def test_cells_are_numbers() -> None:
    assert [number(cell) for cell in (3, 2.5, "1e3", " -4 ", True)] == [3, 2.5, 1000, -4, 1]
    assert np.isnan([number(cell) for cell in (None, "", " ", float("nan"))]).all()
    assert np.isinf([number(cell) for cell in ("x", "nan", "inf", float("inf"), "1,5")]).all()


def test_numbers_stay_as_they_are_and_validation_is_drawn_at_random(tmp_path: Path) -> None:
    cells = [1000.5 + i for i in range(20)]
    splits = read(tmp_path, cells, max_train_examples=9)
    assert splits.labels == ("label",)
    assert splits.problem_type == "regression"
    assert (len(splits.train), len(splits.validation)) == (9, 2)
    for split in (splits.train, splits.validation):
        assert [cells[int(text.split()[1])] for text in split["text"]] == split["labels"][:]
    assert "validation: 2 of train's 20 examples, at random, seed 0." in splits.notes


def test_pairs_of_texts(tmp_path: Path) -> None:
    """Columns as sets of likeness of sentences have them."""
    rows = {"sentence1": list("abcd"), "sentence2": list("wxyz"), "score": [0.2, 1.4, 3.0, 5.0]}
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    splits = load_splits(Config(task="text_regression", dataset=str(tmp_path)))
    assert splits.labels == ("score",)
    assert {"text", "text_pair", "labels"} == set(splits.train.column_names)
    pairs = {row["text"]: (row["text_pair"], row["labels"]) for row in splits.train}
    assert len(pairs) == 3
    assert all(pair == ("wxyz"["abcd".index(text)], rows["score"]["abcd".index(text)]) for text, pair in pairs.items())


BAD_CELLS = {
    "missing": ([1, 2, None, 3], r"train: 1 of 4 examples has no number \(rows 3, counted from 1\)"),
    "text": ([1, 2, "three", 3], r"train: 1 of 4 examples has a label that is not a finite number \(rows 3, counted"),
    "infinite": (
        [1, 2, 3, "-inf"],
        r"train: 1 of 4 examples has a label that is not a finite number \(rows 4, count",
    ),
    "NaN": (
        [1, "NaN", 3, "nan"],
        r"train: 2 of 4 examples have a label that is not a finite number \(rows 2, 4, c",
    ),
}


@pytest.mark.parametrize("mistake", BAD_CELLS)
def test_what_is_no_number_is_told_or_left_out(mistake: str, tmp_path: Path) -> None:
    cells, message = BAD_CELLS[mistake]
    with pytest.raises(UserError, match=message):
        read(tmp_path, cells)
    splits = read(tmp_path, cells * 3, bad_examples="skip")
    assert np.isfinite(splits.train["labels"][:]).all()
    assert len(splits.train) + len(splits.validation) == 3 * sum(isinstance(cell, int) for cell in cells)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["good", "bad"] * 3,
            r"Column 'label' holds no number \(good, bad, good\)\. For classes use --task text_class",
        ),
        ([3] * 6, r"All examples of train have the number 3: regression needs"),
    ],
)
def test_columns_that_cannot_be_learnt(cells: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, cells)


def test_options_about_classes_are_refused(text_model: str, regression_data: str, tmp_path: Path) -> None:
    """Before torch is imported, and each by name."""
    given = {"class_weights": "balanced", "label_smoothing_factor": 0.1, "label_separator": "|"}
    given |= {"examples_per_class": 3, "val_examples_per_class": 3}
    given |= {"sampler": "balanced", "loss": "focal", "threshold": 0.3, "calibrate": True}
    assert set(given) == set(CLASS_OPTIONS)
    base = {"task": "text_regression", "model": text_model, "dataset": regression_data, "output_dir": str(tmp_path)}
    for option, value in given.items():
        with pytest.raises(UserError, match=rf"^{option} applies to classes, and text_regression predicts numbers\."):
            build(("here", base | {option: value}))
    build(("here", base))


# --- Units ----------------------------------------------------------------------------------------------------------

TINY = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"Bert": (2000.0, 500.0), "Roberta": (2000.0, 500.0), "Llama": (0.0, np.sqrt(2000.0**2 + 500.0**2))}
"""Architecture -> what its last layer can hold: Llama's has no bias, so nothing can be taken off."""


@pytest.mark.parametrize("kind", HEADS)
def test_scale_is_folded_into_any_linear_head(kind: str) -> None:
    """The folded model answers in the data's units, only the last layer differs, and folding back restores it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TINY, vocab_size=120, num_labels=1, pad_token_id=0)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scale = find_scale(model, np.array([1500.0, 2500.0]))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (scale.shift, scale.unit) == pytest.approx(HEADS[kind])
    ids = torch.arange(3, 11).unsqueeze(0)
    with torch.no_grad():
        standard = model(ids).logits
        scale.fold(model)
        assert torch.allclose(model(ids).logits, standard * scale.unit + scale.shift, rtol=1e-4)
    changed = {name for name, tensor in model.state_dict().items() if not torch.allclose(before[name], tensor)}
    assert changed == scale.last
    scale.fold(model, back=True)
    assert all(torch.allclose(before[name], tensor, atol=1e-4) for name, tensor in model.state_dict().items())


def test_loss_is_the_squared_error_however_batches_fall(text_model: str) -> None:
    """Trap: models ignore `num_items_in_batch`, so that accumulated gradients would be too large by their number."""
    model = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=1)
    config, args = SimpleNamespace(keep_head=False), SimpleNamespace()
    split = Dataset.from_dict({"text": list("abc"), "labels": [10.0, 20.0, 30.0]})
    learning = NUMBER.learning(partial(find_scale, model), split, ("price",), config, args)  # type: ignore[arg-type]
    labels = torch.tensor(learning.prepare(split)["labels"][:], dtype=torch.float32)
    assert labels.mean().item() == pytest.approx(0, abs=1e-6)
    assert labels.std(correction=0).item() == pytest.approx(1)
    logits = torch.tensor([[0.5], [1.0], [-2.0]])
    expected = ((logits[:, 0] - labels) ** 2).mean()
    assert learning.loss is not None
    parts = [learning.loss(SimpleNamespace(logits=logits[a:b]), labels[a:b], 3) for a, b in ((0, 2), (2, 3))]
    assert torch.allclose(sum(parts), expected)
    assert torch.allclose(learning.loss(SimpleNamespace(logits=logits), labels), expected)


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    settings = {"method": "full", "learning_rate": 1e-2, "max_steps": 60, "load_back_proof": False, **settings}
    common = {"per_device_train_batch_size": 8, "output_dir": str(out)}
    return finetune(task="text_regression", model=model, dataset=data, **common, **settings).record


@pytest.fixture(scope="module")
def trained(text_model: str, regression_data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("runs") / "prices"
    return out, train(text_model, regression_data, out)


def test_plain_model_answers_in_the_users_units(trained: tuple[Path, Any], regression_data: str) -> None:
    """`pipeline`, which knows nothing of us, gives the error that run.json states, and it is less than the mean's."""
    out, record = trained
    test = pd.read_csv(Path(regression_data) / "test.csv")
    found = pipeline("text-classification", model=str(out))(test.text.tolist())
    assert {answer["label"] for answer in found} == {"price"}
    predicted = np.array([answer["score"] for answer in found])
    stated = record["metrics"]["test"]
    assert np.mean((predicted - test.price) ** 2) == pytest.approx(stated["mse"]["value"], rel=1e-3)
    assert stated["mse"]["value"] < 0.7 * record["baseline"]["test"]["mse"]
    assert 1500 < predicted.mean() < 3500
    assert record["baseline"]["test"].keys() == {"mse", "mae", "r2"}
    assert min(stage["best_metric"] for stage in record["stages"]) == pytest.approx(
        record["metrics"]["validation"]["mse"]["value"], rel=1e-3
    )


def test_adapter_and_base_answer_in_the_users_units(text_model: str, regression_data: str, tmp_path: Path) -> None:
    """The adapter is saved after the scale was folded into its head."""
    from peft import PeftModel

    train(text_model, regression_data, tmp_path / "out", method="lora", max_steps=6)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    base = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=1)
    adapted = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    batch = AutoTokenizer.from_pretrained(text_model)(["great and lovely"], return_tensors="pt")
    with torch.no_grad():
        assert merged(**batch).logits.item() == pytest.approx(adapted(**batch).logits.item(), rel=1e-4)
        assert merged(**batch).logits.item() > 1000


def test_kept_head_goes_on_in_its_units(trained: tuple[Path, Any], regression_data: str, tmp_path: Path) -> None:
    """With --keep_head and next to no training, the scores of the checkpoint are found again."""
    out, record = trained
    again = train(str(out), regression_data, tmp_path / "out", keep_head=True, learning_rate=1e-9, max_steps=1)
    value = record["metrics"]["test"]["mse"]["value"]
    assert again["metrics"]["test"]["mse"]["value"] == pytest.approx(value, rel=1e-2)


def test_predict_and_evaluate(
    trained: tuple[Path, Any], regression_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, record = trained
    capsys.readouterr()
    assert main(["predict", str(out), str(Path(regression_data) / "test.csv")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    actual = pd.read_csv(Path(regression_data) / "test.csv").price
    assert [list(row) for row in rows] == [["input", "prediction"]] * 16
    mse = np.mean((np.array([float(row["prediction"]) for row in rows]) - actual) ** 2)
    assert mse == pytest.approx(record["metrics"]["test"]["mse"]["value"], rel=1e-3)
    assert main(["evaluate", str(out), "--dataset", regression_data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found.keys() == record["metrics"]["test"].keys()
    assert found["spearman"]["value"] == pytest.approx(record["metrics"]["test"]["spearman"]["value"], abs=1e-6)


def test_card_speaks_of_numbers(trained: tuple[Path, Any]) -> None:
    card = (trained[0] / "README.md").read_text()
    assert "Task: text regression, a number (price)." in card
    assert "`mean` always answers with the mean of the training data" in card
    assert "classes" not in card
    assert not (trained[0] / "figures/confusion_matrix.png").exists()


def test_a_kept_head_answers_as_before(text_model: str, regression_data: str, tmp_path: Path) -> None:
    """With `keep_head` and steps that change next to nothing, the result is the model that it began with."""
    common: dict[str, Any] = {
        "task": "text_regression",
        "dataset": regression_data,
        "label_column": "price",
        "load_back_proof": False,
    }
    first = finetune(
        model=text_model, method="full", num_train_epochs=4, output_dir=tmp_path / "first", **common
    ).record
    options = {"method": "head", "head_solver": "sgd", "learning_rate": 1e-12, "num_train_epochs": 1}
    model = tmp_path / "first"
    again = finetune(model=model, keep_head=True, output_dir=tmp_path / "again", **options, **common).record
    before, after = (record["metrics"]["test"]["mae"]["value"] for record in (first, again))
    assert after == pytest.approx(before, rel=1e-3)
