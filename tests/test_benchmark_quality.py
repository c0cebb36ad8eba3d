"""The comparison with other tools: its data, its requests and its tables; one whole run beside a plain `Trainer`."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hf_ft import UserError

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("quality")


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of its data sets."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("quality_data")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that other tools run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("quality_peers")


def options(quality: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Any:
    """The options of a command line."""
    monkeypatch.setattr(sys, "argv", ["quality.py", "--data", "DATA", *map(str, arguments)])
    return quality.parse()


# --- Data -------------------------------------------------------------------------------------------------------------


def test_images_are_written_once(data: ModuleType, image_data: str, tmp_path: Path) -> None:
    """Class folders and a table in the order in which hf_ft reads them; a second call changes nothing."""
    colours = data.DataSet("squares", "image_classification")
    facts = data.prepare(colours, Path(image_data), 4, 0, 6, tmp_path / "case")
    files = tmp_path / "case" / data.FILES
    rows = [line.split(",") for line in (files / "splits.csv").read_text().splitlines()]
    assert rows[0] == ["file", "split", "label"]
    assert rows[1:] == sorted(rows[1:])
    assert all((files / row[0]).is_file() for row in rows[1:])
    labels = {split: [label for _, of, label in rows[1:] if of == split] for split in ("train", "validation", "test")}
    assert {label: labels["train"].count(label) for label in facts["labels"]} == dict.fromkeys(facts["labels"], 4)
    assert [facts["labels"][number] for number in facts["references"]] == labels["test"]
    assert facts["examples"] == {split: len(found) for split, found in labels.items()}
    changed = files / rows[1][0]
    changed.write_bytes(b"")
    assert data.prepare(colours, Path(image_data), 4, 0, 6, tmp_path / "case") == facts
    assert changed.read_bytes() == b""


def test_test_split_is_the_same_for_every_size_and_seed(data: ModuleType, text_data: str, tmp_path: Path) -> None:
    """Training examples differ by seed, those that are scored do not; the seed's own validation is not in train."""
    opinions = data.DataSet("opinions", "text_classification")
    texts = []
    for size, seed in ((4, 0), (8, 0), (4, 1)):
        folder = tmp_path / f"{size}-{seed}"
        data.prepare(opinions, Path(text_data), size, seed, 10, folder)
        texts.append({split: (folder / data.FILES / f"{split}.jsonl").read_text() for split in ("train", "test")})
        validation = (folder / data.FILES / "validation.jsonl").read_text().splitlines()
        assert validation
        assert not set(validation) & set(texts[-1]["train"].splitlines())
    assert texts[0]["test"] == texts[1]["test"] == texts[2]["test"]
    assert len(texts[0]["test"].splitlines()) == 10
    assert texts[0]["train"] != texts[2]["train"]


def test_labels_are_written_by_name(data: ModuleType, multi_label_data: str, token_data: str, tmp_path: Path) -> None:
    """Several labels as a list of names, tags by word; the references are their numbers."""
    for name, source, task, column in (
        ("topics", multi_label_data, "text_classification", "labels"),
        ("names", token_data, "token_classification", "ner_tags"),
    ):
        facts = data.prepare(data.DataSet(name, task, unequal=3), Path(source), 10, 0, 8, tmp_path / name)
        lines = (tmp_path / name / data.FILES / "test.jsonl").read_text().splitlines()
        written = [json.loads(line)[column] for line in lines]
        assert data.numbered(written, facts) == facts["references"]
        assert facts["examples"]["train"] == 30
        value, draws, (low, high) = data.score(facts, facts["references"])
        assert value == 1
        assert np.all(draws == 1)
        assert low < high == 1  # the interval of a proportion, not of equal resamples


def test_data_that_are_too_small(data: ModuleType, text_data: str, tmp_path: Path) -> None:
    """An error, and no folder that a second call would take for data."""
    with pytest.raises(UserError, match="examples_per_class 100"):
        data.prepare(data.DataSet("o", "text_classification"), Path(text_data), 100, 0, 10, tmp_path / "case")
    assert not (tmp_path / "case").exists()


FACTS: dict[str, Any] = {
    "set": "a",
    "task": "image_classification",
    "size": 10,
    "kind": "single_label_classification",
    "labels": ["ant", "bee"],
    "metric": "accuracy",
    "references": [0, 1] * 50,
}


def test_scores(data: ModuleType) -> None:
    """Accuracy of one label, micro F1 of several, F1 of entities."""
    value, draws, (low, high) = data.score(FACTS, [0] * 100)
    assert (value, len(draws)) == (0.5, 1000)
    assert low < 0.5 < high
    several = FACTS | {"kind": "multi_label_classification", "metric": "f1_micro", "references": [[0], [0, 1], []]}
    assert data.score(several, [[0], [0], []])[0] == pytest.approx(0.8)
    tags = {"kind": "token_classification", "metric": "f1", "labels": ["O", "B-X", "I-X"]}
    entities = FACTS | tags | {"references": [[1, 2, 0], [0, 1]]}
    assert data.score(entities, [[1, 2, 0], [0, 0]])[0] == pytest.approx(2 / 3)


def test_predictions_that_do_not_fit(data: ModuleType) -> None:
    """Another number of them, or an unknown name, is never scored."""
    assert data.numbered(["bee"] * 100, FACTS) == [1] * 100
    with pytest.raises(ValueError, match="3 predictions for 100 test examples"):
        data.numbered(["bee"] * 3, FACTS)
    with pytest.raises(ValueError, match="wasp"):
        data.numbered(["wasp"] * 100, FACTS)


# --- Sides ------------------------------------------------------------------------------------------------------------


def test_sides_without_an_interpreter_are_named(quality: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tool needs its option; `--only` chooses by words; SetFit and the tools of timm models have limits."""
    sides, left_out = quality.sides_of(options(quality, monkeypatch, "--setfit", sys.executable))
    names = [side.name for side in sides]
    assert names == [*quality.METHODS, "Trainer", "Trainer, 2e-5", "SetFit"]
    assert left_out == ["--fastai", "--timm", "--autogluon"]
    only, _ = quality.sides_of(options(quality, monkeypatch, "--only", "lp_ft"))
    assert [side.name for side in only] == ["lp_ft", "lp_ft --ema auto"]
    texts, lite = FACTS | {"task": "text_classification"}, {"architecture": "tf_efficientnet_lite0"}
    (setfit,) = (side for side in sides if side.name == "SetFit")
    assert setfit.applies(texts, lite)
    assert not setfit.applies(FACTS, lite)
    assert not setfit.applies(texts | {"size": 100}, lite)
    assert not setfit.applies(texts | {"size": None}, lite)
    assert not setfit.applies(texts | {"kind": "multi_label_classification"}, lite)
    sides, _ = quality.sides_of(options(quality, monkeypatch, "--fastai", sys.executable))
    assert sides[-1].applies(FACTS, lite)
    assert not sides[-1].applies(FACTS, {"architecture": None})


def test_mistakes_in_options(quality: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No such program, no `train.py`, no such data set: exit code 2."""
    for wrong in (("--fastai", "no/such/python"), ("--timm", tmp_path), ("--sets", "imagenet")):
        with pytest.raises(SystemExit) as ended:
            options(quality, monkeypatch, *wrong)
        assert ended.value.code == 2


def test_command_of_hf_ft(quality: ModuleType) -> None:
    """The options behind a method are passed on; the label column is named where the data are tables."""
    side, model = quality.Side("lp_ft --ema auto", "hf_ft"), {"name": "builtin:minilm"}
    texts = FACTS | {"task": "text_classification"}
    command = quality.command_of(side, texts, Path("files"), model, 3, Path("run/out"))
    assert command[-4:] == ["--method", "lp_ft", "--ema", "auto"]
    pairs = dict(zip(command[4:-4:2], command[5:-4:2], strict=True))
    assert pairs["--seed"] == "3"
    assert pairs["--label_column"] == "label"
    assert Path(pairs["--cache_dir"]) == Path("run/cache")
    assert "--label_column" not in quality.command_of(side, FACTS, Path("files"), model, 3, Path("run/out"))


def test_peers_import_nothing_of_hf_ft() -> None:
    """Their Python need not have it, and seconds are those of the tool alone."""
    tree = ast.parse((FOLDER / "quality_peers.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {name.name for node in imports for name in node.names} | {getattr(node, "module", "") for node in imports}
    assert not [name for name in modules if name.startswith(("hf_ft", "quality", "side_by_side"))]


def test_batches_of_few_examples(peers: ModuleType) -> None:
    """A loader that drops incomplete batches has at least four, but of two examples at least."""
    assert [peers.batch_of(64, examples) for examples in (1000, 256, 255, 20, 4)] == [64, 64, 32, 4, 2]


def test_words_beyond_the_last_token(peers: ModuleType, tmp_path: Path) -> None:
    """Every word has a tag, also those that the tokenizer cut off."""
    (tmp_path / "test.jsonl").write_text(json.dumps({"tokens": ["a", "b", "c"], "ner_tags": ["O"] * 3}))
    request = {"task": "token_classification", "kind": "token_classification", "labels": ["O", "B-X"]}
    logits, labels = np.array([[[0, 1], [0, 1], [1, 0]]]), np.array([[-100, 0, 0]])
    assert peers._named(request | {"data": str(tmp_path)}, logits, labels) == [["B-X", "O", "O"]]


# --- Runs and tables --------------------------------------------------------------------------------------------------


def line(side: str, seed: int, wrong: int, seconds: float, size: int | None = 10) -> dict[str, Any]:
    """A run as it is written: so many wrong predictions, the same ones for every side."""
    predicted = [1 - one if place < wrong else one for place, one in enumerate(FACTS["references"])]
    key = {"model": "m", "set": "a", "size": size, "scored": 100, "seed": seed, "side": side}
    took = {
        "training_seconds": seconds / 2,
        "seconds": seconds,
        "processor_seconds": seconds + 1,
        "versions": {"fastai": "2.8", "torch": "2"},
    }
    return key | took | {"predicted": predicted}


RUNS = [
    *(line("head", seed, 12, 4.0) for seed in range(3)),
    *(line("lp_ft", seed, 10, 30.0) for seed in range(3)),
    *(line("fastai", seed, 9, 20.0) for seed in range(3)),
    *(line("Trainer", seed, 45, 60.0) for seed in range(3)),
]


def test_rows(quality: ModuleType) -> None:
    """The best and what is indistinguishable from it are bold; a side that is far behind is not."""
    names = ["head", "lp_ft", "fastai", "Trainer", "timm train.py"]
    (row,) = quality.rows_of(RUNS, [FACTS, FACTS | {"size": 100}], names)
    assert (row.best, row.best_peer(["head", "lp_ft"])) == ("fastai", "fastai")
    header, _, cells = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in quality.table([row], names).splitlines()
    )
    assert header == ["data", "metric", "per class", "head", "`lp_ft` (default)", "fastai", "Trainer"]
    assert cells[:3] == ["a", "accuracy", "10"]
    assert cells[4].startswith("**0.900** ")
    assert cells[4].endswith("(15, 30 s)")
    assert cells[5].startswith("**0.910** ")
    assert cells[6].startswith("0.550 ")
    assert "| lp_ft | 1 of 1 | 0.0100 | 30 |" in quality.summary([row], names)
    assert "| Trainer | 0 of 1 | 0.3600 | 60 |" in quality.summary([row], names)


def test_processor_seconds(quality: ModuleType) -> None:
    """On a busy machine the tables show the seconds of processors alone."""
    (row,) = quality.rows_of(RUNS, [FACTS], ["lp_ft", "fastai"], "processor")
    assert quality.table([row], ["lp_ft", "fastai"]).splitlines()[-1].count("(31 s)") == 1
    assert "| fastai | 1 of 1 | 0.0000 | 21 |" in quality.summary([row], ["lp_ft", "fastai"])


def test_goals(quality: ModuleType) -> None:
    """Where the default is slower than the best other tool, or below the best beyond noise; else one sentence."""
    ours = ["head", "lp_ft"]
    (row,) = quality.rows_of(RUNS, [FACTS], ["head", "lp_ft", "fastai"])
    assert quality.goals([row], ours) == ["a, 10: lp_ft takes 30 s, fastai, the best other tool, 20 s."]
    (row,) = quality.rows_of(RUNS, [FACTS], ["head", "lp_ft", "Trainer"])
    (met,) = quality.goals([row], ours)
    assert "nowhere below" in met
    worse = [line("lp_ft", seed, 60, 30.0) for seed in range(3)] + [one for one in RUNS if one["side"] == "head"]
    (row,) = quality.rows_of(worse, [FACTS], ours)
    assert quality.goals([row], ours) == ["a, 10: lp_ft is below head (0.400 and 0.880)."]


def test_a_lucky_seed_is_not_the_best(quality: ModuleType) -> None:
    """A side with fewer seeds than others is compared by those it has, and is not called the best."""
    runs = [*RUNS, line("full", 1, 0, 10.0)]
    (row,) = quality.rows_of(runs, [FACTS], ["lp_ft", "full"])
    assert row.best == "lp_ft"
    assert len(row.cells["full"].seeds) == 1


def test_full_size_is_shown_by_seed(quality: ModuleType) -> None:
    """Only sets with all their examples, `head` and the default."""
    runs = [line(side, seed, seed, 8.0, None) for side in ("head", "lp_ft", "full") for seed in range(2)]
    rows = quality.rows_of([*RUNS, *runs], [FACTS, FACTS | {"size": None}], ["head", "lp_ft", "full"])
    found = quality.by_seed(rows, ["head", "lp_ft", "full"]).splitlines()[2:]
    assert found[0] == "| a | head | 1.000, 0.990 | 0.995 | 4.0, 4.0 | 8.0, 8.0 |"
    assert [row.split("|")[2].strip() for row in found] == ["head", "lp_ft"]


def test_finished_runs_are_not_repeated(
    quality: ModuleType, monkeypatch: pytest.MonkeyPatch, text_data: str, tmp_path: Path
) -> None:
    """A failed run is repeated and ends nothing; a size that the data do not have is left out."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sst2").symlink_to(text_data)
    given = options(quality, monkeypatch, "--sets", "sst2", "--sizes", 4, 500, "--seeds", 0, "--scored", 10)
    given.data, given.output_dir = tmp_path / "data", tmp_path
    asked, broken = [], ["head"]

    def run(side: Any, facts: Mapping[str, Any], *_: Any) -> dict[str, Any]:
        asked.append(side.name)
        if side.name in broken:
            raise quality.Failed("no memory")
        return quality.answer(facts["references"], 1.0, {"seconds": 2.0, "processor_seconds": 1.5}, {})

    monkeypatch.setattr(quality, "run", run)
    monkeypatch.setattr(quality, "backbone", lambda *_: {"folder": "x", "architecture": None})
    sides = [quality.Side(name, "hf_ft") for name in ("head", "lp_ft")]
    runs: list[dict[str, Any]] = []
    quality.measure(given, sides, runs)
    assert asked == ["head", "lp_ft"]
    assert [one["side"] for one in runs] == ["lp_ft"]
    broken.clear()
    quality.measure(given, sides, runs)
    assert asked == ["head", "lp_ft", "head"]
    written = [json.loads(text) for text in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert written == runs
    assert [one["side"] for one in runs] == ["lp_ft", "head"]
    assert "Left out, since their options were not given: --timm" in quality.report(given, runs, ["--timm"])


def test_beside_a_trainer(text_data: str, text_model: str, image_model: str, tmp_path: Path) -> None:
    """One whole run: both sides predict the same examples, and the table has both."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sst2").symlink_to(text_data)
    command = [sys.executable, str(FOLDER / "quality.py"), "--data", str(tmp_path / "data"), "--sets", "sst2", "--full"]
    command += ["--models", image_model, text_model, "--sizes", "8", "--seeds", "0", "--scored", "12"]
    command += ["--only", "head", "Trainer, 2e-5", "--output_dir", str(tmp_path / "out"), "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(text) for text in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [run["side"] for run in runs] == ["head", "Trainer, 2e-5"]
    assert all(len(run["predicted"]) == 12 and 0 < run["training_seconds"] < run["seconds"] for run in runs)
    assert all(run["processor_seconds"] > 0 for run in runs)
    assert {run["model"] for run in runs} == {"tiny-bert"}
    assert "| data | metric | per class | head | Trainer, 2e-5 |" in done.stdout
    assert str(tmp_path) not in (tmp_path / "out" / "runs.jsonl").read_text()
