"""`hf_ft.load` from a folder: every kind of result, every kind of raw input, and folders of strangers."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from transformers import pipeline

import hf_ft
from hf_ft import LoadedModel, UserError, finetune
from hf_ft.cli.app import main

KINDS: dict[str, dict[str, Any]] = {
    "image": {"task": "image_classification"},
    "text": {"task": "text_classification"},
    "multi_label": {"task": "text_classification"},
    "regression": {"task": "text_regression", "label_column": "price"},
    "token": {"task": "token_classification"},
}
INPUTS = {
    "text": ["a great and lovely film", "awful, dull"],
    "multi_label": ["about art and sport", "about food"],
    "regression": ["great and good and dull", "awful"],
    "token": ["Ada Hopper visited Rome .", "Alan Turing"],
}


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A result folder of each kind."""
    found = {}
    for kind, own in KINDS.items():
        out = tmp_path_factory.mktemp("runs") / kind
        model = request.getfixturevalue("image_model" if kind == "image" else "text_model")
        usual = {"model": model, "dataset": request.getfixturevalue(f"{kind}_data"), "output_dir": str(out)}
        usual |= {"method": "full", "max_steps": 30, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
        finetune(**usual, **own, load_back_proof=False)
        found[kind] = out
    return found


def photos(request: pytest.FixtureRequest) -> list[Path]:
    return sorted((Path(request.getfixturevalue("image_data")) / "test").glob("*/*.png"))[::5]


def test_it_has_all_that_predicting_takes(runs: dict[str, Path]) -> None:
    for kind, own in KINDS.items():
        model = hf_ft.load(runs[kind])
        record = json.loads((runs[kind] / "run.json").read_text())
        assert isinstance(model, LoadedModel)
        assert model.task.name == own["task"]
        assert list(model.labels) == record["data"]["labels"]
        assert model.threshold == record["threshold"]
        assert model.record is not None
        assert not model.model.training
        assert model.processor is not None
    assert hf_ft.load(str(runs["multi_label"])).threshold is not None


def test_classes_as_a_plain_pipeline_gives_them(runs: dict[str, Path], request: pytest.FixtureRequest) -> None:
    inputs = {"image": [str(path) for path in photos(request)], "text": INPUTS["text"]}
    for kind, items in inputs.items():
        model = hf_ft.load(runs[kind])
        name: Any = model.task.pipeline
        classify: Any = pipeline(name, model=str(runs[kind]))
        answers = classify(items, top_k=len(model.labels))
        for found, answer in zip(model.predict(items), answers, strict=True):
            assert found["label"] == answer[0]["label"]
            assert found["scores"] == pytest.approx({one["label"]: one["score"] for one in answer}, abs=1e-4)


def test_several_labels_numbers_and_tags(runs: dict[str, Path]) -> None:
    several = hf_ft.load(runs["multi_label"])
    for found in several.predict(INPUTS["multi_label"]):
        assert found["labels"] == [name for name, share in found["scores"].items() if share >= several.threshold]
    number = pipeline("text-classification", model=str(runs["regression"]))
    for item in INPUTS["regression"]:
        (answer,) = number([item], function_to_apply="none")
        assert hf_ft.load(runs["regression"]).predict(item)["prediction"] == pytest.approx(answer["score"], rel=1e-4)
    tags = hf_ft.load(runs["token"])
    spans = tags.predict(INPUTS["token"][0])
    assert [span["label"] for span in spans] == ["PER", "LOC"]
    assert all(span["text"] == INPUTS["token"][0][span["start"] : span["end"]] for span in spans)
    assert all(0 < span["score"] <= 1 for span in spans)
    assert tags.predict([["Ada", "Hopper", "visited", "Rome", "."]]) == [spans]


def test_one_input_and_many(runs: dict[str, Path]) -> None:
    model = hf_ft.load(runs["text"])
    both = model.predict(INPUTS["text"])
    alone = model.predict(INPUTS["text"][0])
    assert alone["label"] == both[0]["label"]
    assert alone["scores"] == pytest.approx(both[0]["scores"], abs=1e-5)
    for many in (tuple(INPUTS["text"]), iter(INPUTS["text"]), np.array(INPUTS["text"])):
        assert [one["label"] for one in model.predict(many)] == [one["label"] for one in both]
    assert model.predict([]) == []
    single = model.predict(INPUTS["text"], batch_size=1)
    assert [one["scores"] for one in single] == [pytest.approx(one["scores"], abs=1e-5) for one in both]


def test_images_in_memory(runs: dict[str, Path], request: pytest.FixtureRequest) -> None:
    """A path, an image of Pillow and an array are the same; an image that was changed is not read from its file."""
    model = hf_ft.load(runs["image"])
    path = photos(request)[0]
    opened = Image.open(path).convert("RGB")
    forms = [path, str(path), opened, np.asarray(opened), {"image": path}]
    found = [model.predict(form) for form in forms]
    assert all(one == found[0] for one in found)
    stacked = model.predict(np.stack([np.asarray(opened)] * 2))
    assert [one["scores"] for one in stacked] == [pytest.approx(found[0]["scores"], abs=1e-5)] * 2
    changed = Image.open(path)
    changed.load()
    ImageDraw.Draw(changed).rectangle((0, 0, 24, 24), fill="white")
    assert model.predict(changed) != found[0]
    turned = model.predict(path, tta=2)
    assert turned["scores"] != found[0]["scores"]


def test_rotated_photographs_are_turned_upright(runs: dict[str, Path], tmp_path: Path) -> None:
    """As in training, from a file and in memory."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 255, (20, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    model = hf_ft.load(runs["image"])
    upright = model.predict(image.transpose(Image.Transpose.ROTATE_270))
    assert model.predict(tmp_path / "turned.png") == upright
    assert model.predict(Image.open(tmp_path / "turned.png")) == upright


MISTAKES: dict[str, tuple[str, Any, str]] = {
    "no such file": ("image", ["no.png"], "no such file"),
    "a number for an image": ("image", 3, "int"),
    "an array of floats": ("image", np.zeros((8, 8, 3)), "uint8"),
    "views of texts": ("text", "good", "tta"),
    "an empty text": ("text", ["good", " "], "Input 2 is empty"),
    "a number for a text": ("text", [1], "int"),
    "a pair for a model of single texts": ("text", [("a", "b")], "single texts"),
    "a dictionary without text": ("text", [{"sentence": "a"}], "dict"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, runs: dict[str, Path]) -> None:
    kind, value, message = MISTAKES[mistake]
    model, views = hf_ft.load(runs[kind]), 2 if mistake == "views of texts" else 1
    with pytest.raises(UserError, match=message):
        model.predict(value, tta=views)


def test_texts_are_never_names_of_files(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a great and lovely film").write_text("awful")
    monkeypatch.chdir(tmp_path)
    assert hf_ft.load(runs["text"]).predict(["a great and lovely film"])[0]["label"] == "positive"


def test_a_truncated_text_is_told(runs: dict[str, Path]) -> None:
    model = hf_ft.load(runs["text"])
    with pytest.warns(UserWarning, match="truncated"):
        model.predict("a good film " * 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict("a good film")


def test_pairs_of_texts(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Dictionaries and pairs are the same, and a single text is refused."""
    with (tmp_path / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence1", "sentence2", "label"])
        rows.writerows([f"{'a' if i % 2 else 'b'} {i}", "a thing", ("other", "same")[i % 2]] for i in range(24))
    usual = {"model": request.getfixturevalue("text_model"), "method": "full", "max_steps": 2}
    finetune(
        task="text_classification",
        dataset=str(tmp_path / "train.csv"),
        output_dir=str(tmp_path / "out"),
        load_back_proof=False,
        **usual,
    )
    model = hf_ft.load(tmp_path / "out")
    assert model.predict([("a", "a thing")])[0] == model.predict({"text": "a", "text_pair": "a thing"})
    with pytest.raises(UserError, match="pairs"):
        model.predict("a")


# --- Models that hf_ft did not train, and folders of strangers ------------------------------------------------------


def without_record(folder: Path, target: Path) -> Path:
    """A plain model, as anybody may have saved it."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("run.json", ".local", "README.md", "figures"))
    return target


def test_a_plain_model_works_where_its_config_tells_the_task(
    runs: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs: dict[str, Any] = {**INPUTS, "image": [str(path) for path in photos(request)]}
    for kind, own in KINDS.items():
        plain = hf_ft.load(without_record(runs[kind], tmp_path / kind))
        assert plain.record is None
        assert plain.task.name == own["task"]
        ours = hf_ft.load(runs[kind])
        found, known = plain.predict(inputs[kind]), ours.predict(inputs[kind])
        if kind == "multi_label":
            assert plain.threshold == 0.5
            assert [one["scores"] for one in found] == [one["scores"] for one in known]
        else:
            assert found == known
    (tmp_path / "text" / "run.json").write_text('{"loss": 1}')  # of another program
    assert hf_ft.load(tmp_path / "text").record is None
    capsys.readouterr()
    data = request.getfixturevalue("text_data")
    for folder in (runs["text"], tmp_path / "text"):
        assert main(["evaluate", str(folder), "--dataset", data, "--json"]) == 0
    first, second = capsys.readouterr().out.split("}\n{")
    assert json.loads(first + "}")["metrics"] == json.loads("{" + second)["metrics"]


def test_what_is_no_classifier_is_refused(text_model: str, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="BertModel"):
        hf_ft.load(text_model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished training run"):
        hf_ft.load(tmp_path / "empty")
    with pytest.raises(UserError, match="is a file"):
        hf_ft.load(runs["text"] / "config.json")
    with pytest.raises(UserError, match=r"Did you mean .*text"):
        hf_ft.load(runs["text"].with_name("texts"))
    with pytest.raises(UserError, match="local folder"):
        hf_ft.load(runs["text"], revision="main")
    adapter = without_record(runs["text"], tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(UserError, match="PEFT adapter"):
        hf_ft.load(adapter)


HOSTILE: dict[str, tuple[str, Any]] = {
    "a task that is none": ("task", "../../evil"),
    "a threshold where there is none": ("threshold", 0.7),
    "a kind of labels that is none": ("data.problem_type", "__class__"),
    "a column that is no text": ("settings.text_column", {"a": 1}),
    "a limit that is no number": ("settings.max_length", "many"),
    "a way to read long texts that is none": ("settings.long_text", "exec"),
    "inputs of another task": ("data.inputs", ["image"]),
    "other labels": ("data.labels", ["yes", "no"]),
    "a field that is unknown": ("settings2", {}),
    "a rare class that is none": (
        "rare_class",
        {"label": "x", "value": 0.5, "fitted": True, "metrics": {}, "by_class": {}},
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_record_of_strangers_is_data(case: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """Each value that predicting relies on is checked: one error, no traceback."""
    place, value = HOSTILE[case]
    folder = Path(shutil.copytree(runs["text"], tmp_path / "copy"))
    record = json.loads((folder / "run.json").read_text())
    inner = record
    *path, name = place.split(".")
    for part in path:
        inner = inner[part]
    inner[name] = value
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError):
        hf_ft.load(folder).predict("a text")


def test_nothing_of_a_folder_is_executed(runs: dict[str, Path], tmp_path: Path) -> None:
    """Neither code beside the model nor pickled weights: both are refused, whatever the record says."""
    marker = tmp_path / "executed"
    folder = Path(shutil.copytree(runs["text"], tmp_path / "code"))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["trust_remote_code"] = True
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="never run"):
        hf_ft.load(folder)
    assert not marker.exists()
    pickled = Path(shutil.copytree(runs["text"], tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="Cannot load the model"):
        hf_ft.load(pickled)
