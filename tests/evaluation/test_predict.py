"""`hf-ft predict` and `hf-ft evaluate` on trained models: checked against files, `pipeline` and `run.json`."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image, ImageOps
from transformers import pipeline

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.tasks.classes import MULTI as MULTI_TARGET

MULTI = "multi_label_classification"


@dataclass(frozen=True)
class Trained:
    """A result folder, the data it was trained on, and what `run.json` says."""

    folder: str
    data: Path
    record: dict[str, Any]


def train(kind: str, request: pytest.FixtureRequest, out: Path, **settings: Any) -> Trained:
    modality = "image" if kind == "image" else "text"
    settings = {
        "task": f"{modality}_classification",
        "model": request.getfixturevalue(f"{modality}_model"),
        "dataset": request.getfixturevalue(f"{kind}_data"),
        "method": "full",
        "learning_rate": 1e-2,
        "max_steps": 40,
        "per_device_train_batch_size": 8,
        "load_back_proof": False,
        "output_dir": str(out),
        **settings,
    }
    return Trained(str(out), Path(settings["dataset"]), finetune(**settings).record)


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    # With held statistics this high rate saturates the scores, so that two views could not differ.
    return train("image", request, tmp_path_factory.mktemp("trained") / "image", batch_norm="train")


@pytest.fixture(scope="module")
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train("text", request, tmp_path_factory.mktemp("trained") / "text")


@pytest.fixture(scope="module")
def multi_label(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train("multi_label", request, tmp_path_factory.mktemp("trained") / "multi_label")


def predict(capsys: pytest.CaptureFixture[str], folder: str, *words: str | Path) -> list[dict[str, str]]:
    """Run `hf-ft predict`; the rows of CSV on the screen."""
    capsys.readouterr()
    assert main(["predict", folder, *map(str, words)]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def error_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Run `hf-ft`, which must fail as for a mistake of the user's: one line, exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message


def probabilities(rows: list[dict[str, str]], record: dict[str, Any]) -> np.ndarray:
    return np.array([[float(row[label]) for label in record["data"]["labels"]] for row in rows])


def check_single(rows: list[dict[str, str]], record: dict[str, Any]) -> None:
    """Columns are the input, its label and one per class; probabilities sum to 1; the label is the likeliest."""
    labels = record["data"]["labels"]
    assert all(list(row) == ["input", "label", *labels] for row in rows)
    table = probabilities(rows, record)
    assert table.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert [row["label"] for row in rows] == [labels[place] for place in table.argmax(axis=1)]


def test_image_files_and_folders(image: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    one, folder = image.data / "test" / "red" / "0.png", image.data / "test" / "blue"
    rows = predict(capsys, image.folder, one, folder)
    assert [row["input"] for row in rows] == [str(one), *sorted(map(str, folder.iterdir()))]
    check_single(rows, image.record)


def test_images_as_pipeline_does(image: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    rows = predict(capsys, image.folder, image.data / "test")
    assert len(rows) == 18
    classify = pipeline("image-classification", model=image.folder)
    for row in rows:
        best = classify(row["input"], top_k=1)[0]
        assert best["label"] == row["label"]
        assert best["score"] == pytest.approx(float(row[row["label"]]), abs=1e-4)


def test_texts_as_pipeline_does(text: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    rows = predict(capsys, text.folder, text.data / "test.csv")
    classify = pipeline("text-classification", model=text.folder)
    for row, best in zip(rows, classify([row["input"] for row in rows]), strict=True):
        assert best["label"] == row["label"]
        assert best["score"] == pytest.approx(float(row[row["label"]]), abs=1e-4)


FILES = {
    "csv": ("new.csv", 'label,Sentence\nx,"good, lovely"\ny,awful\n'),
    "csv with semicolons": ("new.csv", "sentence;x\ngood, lovely;1\nawful;2\n"),
    "tsv": ("new.TSV", "sentence\tx\ngood, lovely\t1\nawful\t2\n"),
    "json lines": ("new.jsonl", '{"text": "good, lovely"}\n{"text": "awful"}\n'),
    "json": ("new.json", '[{"text": "good, lovely"}, {"text": "awful"}]'),
    "lines": ("new.txt", "good, lovely\n\nawful\n"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_text(text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_text(content)
    rows = predict(capsys, text.folder, tmp_path / name)
    assert [row["input"] for row in rows] == ["good, lovely", "awful"]
    check_single(rows, text.record)


def test_text_on_the_command_line_and_files_together(
    text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("awful\n")
    long = "a good film " * 200
    rows = predict(capsys, text.folder, "lovely, and good", tmp_path / "lines.txt", long)
    assert [row["input"] for row in rows] == ["lovely, and good", "awful", long]
    check_single(rows, text.record)


def test_batches_do_not_change_predictions(text: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [
        probabilities(predict(capsys, text.folder, text.data / "test.csv", "--batch_size", size), text.record)
        for size in ("1", "16")
    ]
    assert tables[0] == pytest.approx(tables[1], abs=1e-4)


def test_output_files(text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = predict(capsys, text.folder, text.data / "test.csv")
    for name in ("out.csv", "out.jsonl"):
        assert main(["predict", text.folder, str(text.data / "test.csv"), "--output", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"16 predictions are in {tmp_path / name}\n"
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == shown
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{name: str(value) for name, value in line.items()} for line in lines] == shown
    assert isinstance(lines[0][text.record["data"]["labels"][0]], float)


def test_classes_called_as_a_column_of_the_predictions(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Trap: the probability of a class `label` would stand where the label itself does."""
    rows = [f"{'lovely' if i % 2 else 'awful'} {i},{('label', 'input')[i % 2]}\n" for i in range(20)]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(rows))
    trained = train("text", request, tmp_path / "out", dataset=str(tmp_path / "train.csv"), max_steps=2)
    (row,) = predict(capsys, trained.folder, "lovely")
    assert list(row) == ["input", "label", "probability of input", "probability of label"]
    assert row["input"] == "lovely"
    assert row["label"] == max(("input", "label"), key=lambda name: float(row[f"probability of {name}"]))


def test_several_labels_by_threshold(multi_label: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    labels = multi_label.record["data"]["labels"]
    shutil.copytree(multi_label.folder, tmp_path / "model")
    seen = set()
    for threshold in (multi_label.record["threshold"], 0.0, 1.0):
        record = multi_label.record | {"threshold": threshold}
        (tmp_path / "model" / "run.json").write_text(json.dumps(record))
        rows = predict(capsys, str(tmp_path / "model"), multi_label.data / "test.jsonl")
        table = probabilities(rows, record)
        for row, values in zip(rows, table, strict=True):
            assert row["label"] == "|".join(
                label for label, value in zip(labels, values, strict=True) if value >= threshold
            )
        seen |= {row["label"] for row in rows}
    assert {"|".join(labels), ""} <= seen
    assert not np.allclose(table.sum(axis=1), 1)


MISTAKES = {
    "no such image": (
        ["predict", "IMAGE", "DATA/test/red/00.png"],
        r"No such file or folder: .* Did you mean .*0\.png",
    ),
    "folder without images": (["predict", "IMAGE", "TMP"], "No images in "),
    "no image": (["predict", "IMAGE", "TMP/notes.txt"], r"1 of 1 images cannot be read: .*notes\.txt"),
    "no such table": (["predict", "TEXT", "TMP/other.csv"], r"No such file: .*other\.csv"),
    "no text column": (["predict", "TEXT", "TMP/x.csv"], r"no column for the text: it has x, y\. Name it 'text'"),
    "empty table": (["predict", "TEXT", "TMP/empty.csv"], "holds no rows"),
    "folder for a text model": (["predict", "TEXT", "TMP"], "is a folder"),
    "output of another kind": (["predict", "TEXT", "x", "--output", "o.xlsx"], r"ends in \.csv or \.jsonl"),
    "no folder for the output": (["predict", "TEXT", "x", "--output", "TMP/no/o.csv"], "No such folder for the output"),
    "no result folder": (["predict", "TMP", "x"], "holds no finished training run"),
    "no data": (["evaluate", "TEXT", "--dataset", "TMP/no.csv"], "No such dataset"),
    "no such split": (["evaluate", "TEXT", "--dataset", "OPINIONS", "--split", "tset"], "Did you mean 'test'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(
    image: Trained, text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path, mistake: str
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "x.csv").write_text("x,y\n1,2\n")
    (tmp_path / "empty.csv").write_text("text,label\n")
    words, message = MISTAKES[mistake]
    places = {"IMAGE": image.folder, "DATA": image.data, "TEXT": text.folder, "OPINIONS": text.data, "TMP": tmp_path}
    for place, path in places.items():
        words = [re.sub(rf"^{place}\b", str(path), word) for word in words]
    assert re.search(message, error_of(capsys, *words))


def scores(capsys: pytest.CaptureFixture[str], folder: str, dataset: Path | str, *words: str) -> dict[str, Any]:
    """Run `hf-ft evaluate --json`."""
    capsys.readouterr()
    assert main(["evaluate", folder, "--dataset", str(dataset), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["image", "text", "multi_label"])
def test_evaluate_gives_what_run_json_states(
    kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: Trained = request.getfixturevalue(kind)
    found = scores(capsys, trained.folder, trained.data)
    stated = trained.record["metrics"]["test"]
    assert found["split"] == "test"
    assert found["examples"] == trained.record["data"]["sizes"]["test"]
    assert set(found["metrics"]) == set(stated)
    for name, score in stated.items():
        assert found["metrics"][name]["value"] == pytest.approx(score["value"], abs=1e-4)


def test_evaluate_prints_split_notes_and_accuracy(
    text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = (text.data / "test.csv").read_text().splitlines()
    (tmp_path / "valid.csv").write_text("".join(f"{line},{place}\n" for place, line in enumerate(lines)))
    capsys.readouterr()
    assert main(["evaluate", text.folder, "--dataset", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{tmp_path}, validation: 16 examples\nColumns not used: 0.\n\n")
    assert f"{text.record['metrics']['test']['accuracy']['value']:.4f}" in printed


def test_evaluate_another_split(text: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(capsys, text.folder, text.data, "--split", "train")
    assert (found["split"], found["examples"]) == ("train", 40)


def test_evaluate_matches_labels_by_name(text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Trap: in the file, number 0 is another label than in the model."""
    with (text.data / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = text.record["data"]["labels"][::-1]
    features = Features({"text": Value("string"), "label": ClassLabel(names=order)})
    columns = {"text": [row["text"] for row in rows], "label": [order.index(row["label"]) for row in rows]}
    DatasetDict({"test": Dataset.from_dict(columns, features=features)}).save_to_disk(tmp_path / "other order")
    assert len({row["label"] for row in predict(capsys, text.folder, text.data / "test.csv")}) == 2
    found = scores(capsys, text.folder, tmp_path / "other order")
    assert found["metrics"] == scores(capsys, text.folder, text.data)["metrics"]


def test_evaluate_names_labels_that_the_model_does_not_know(
    text: Trained, image: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "new.csv").write_text("text,label\na,positive\nb,so-so\nc,so-so\n")
    message = error_of(capsys, "evaluate", text.folder, "--dataset", tmp_path / "new.csv")
    assert "labels that the model does not know" in message
    assert "so-so (2)" in message
    for name in ("red", "violet"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / name / "1.png")
    assert "violet (1)" in error_of(capsys, "evaluate", image.folder, "--dataset", tmp_path / "pictures")


def test_columns_of_the_training_data_are_used_again(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A model trained with --text_column and --label_column takes the same columns of new data."""
    data = tmp_path / "films"
    data.mkdir()
    for split in ("train", "test"):
        with (Path(request.getfixturevalue("text_data")) / f"{split}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        with (data / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "opinion", "label", "verdict"])
            writer.writerows(["always the same", row["text"], "x", row["label"]] for row in rows)
    settings = {"dataset": str(data), "text_column": "opinion", "label_column": "verdict"}
    trained = train("text", request, tmp_path / "out", **settings)
    found = scores(capsys, trained.folder, data)
    stated = trained.record["metrics"]["test"]["accuracy"]["value"]
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(stated)
    rows = predict(capsys, trained.folder, data / "test.csv")
    assert rows[0]["input"].startswith("a ")
    assert len({row["input"] for row in rows}) == 16


def test_label_separator_of_the_training_data_is_used_again(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "topics"
    data.mkdir()
    for split, count in (("train", 30), ("test", 12)):
        rows = [f"{split} {i},{('art', 'food', 'art;food')[i % 3]}\n" for i in range(count)]
        (data / f"{split}.csv").write_text("text,label\n" + "".join(rows))
    trained = train("text", request, tmp_path / "out", dataset=str(data), label_separator=";")
    assert trained.record["data"]["problem_type"] == MULTI
    found = scores(capsys, trained.folder, data)["metrics"]
    for name, score in trained.record["metrics"]["test"].items():
        assert found[name]["value"] == pytest.approx(score["value"], abs=1e-4)


# --- Test-time augmentation -------------------------------------------------------------------------------------------


def test_predictions_over_views_are_means_of_probabilities(
    image: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two views are what a plain `pipeline` answers to the image and its mirror image; scores follow from them."""
    photos = sorted((image.data / "test").glob("*/*.png"))
    rows = predict(capsys, image.folder, *photos, "--tta")
    classify = pipeline("image-classification", image.folder, top_k=None)
    opened: list[Image.Image] = [Image.open(path) for path in photos]
    both = [opened, [ImageOps.mirror(one) for one in opened]]
    answers = [[{one["label"]: one["score"] for one in each} for each in classify(images)] for images in both]
    changed = 0
    for row, plain, mirrored in zip(rows, *answers, strict=True):
        for label, score in plain.items():
            assert float(row[label]) == pytest.approx((score + mirrored[label]) / 2, abs=1e-5)
            changed += abs(score - mirrored[label]) > 1e-6
    assert changed
    assert rows != predict(capsys, image.folder, *photos)
    found = {}
    for words in ([], ["--tta"], ["--tta", "12"]):
        assert main(["evaluate", image.folder, "--dataset", str(image.data), "--json", *words]) == 0
        found[" ".join(words)] = json.loads(capsys.readouterr().out)
    assert [one["tta"] for one in found.values()] == [1, 2, 12]
    assert len({one["metrics"]["log_loss"]["value"] for one in found.values()}) == 3
    assert [sum("--tta" in note for note in one["notes"]) for one in found.values()] == [0, 1, 1]
    truth = [path.parent.name for path in photos]
    losses = [-np.log((a[name] + b[name]) / 2) for name, a, b in zip(truth, *answers, strict=True)]
    assert found["--tta"]["metrics"]["log_loss"]["value"] == pytest.approx(np.mean(losses), abs=1e-4)


def test_means_of_several_labels() -> None:
    """Logits whose independent probabilities are the means, also where these round to 0 or 1."""
    logits = np.random.default_rng(0).normal(0, 3, (4, 5, 3))
    mean = 1 / (1 + np.exp(-np.asarray(MULTI_TARGET.mean(list(logits)))))
    assert np.allclose(mean, (1 / (1 + np.exp(-logits))).mean(0))
    assert np.isfinite(MULTI_TARGET.mean([np.full((1, 2), 200.0), np.full((1, 2), 200.0)])).all()


def test_views_are_for_images(
    image: Trained, text: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Texts have none, and their number is even and at most twelve; an input is not taken for a number."""
    photo = next((image.data / "test").glob("*/*.png"))
    assert "text" in error_of(capsys, "evaluate", text.folder, "--dataset", text.data, "--tta")
    assert "text" in error_of(capsys, "predict", text.folder, "a text", "--tta", "4")
    for number in ("3", "0", "14"):
        assert "2, 4, 6" in error_of(capsys, "predict", image.folder, photo, "--tta", number)
    assert "--tta 2" in error_of(capsys, "predict", image.folder, "--tta", photo, photo)
