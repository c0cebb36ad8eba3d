"""Texts longer than the model reads are counted and told; pairs and single texts are not taken for each other."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, pipeline

from hf_ft.cli.app import main
from hf_ft.data.load import load_splits
from hf_ft.data.truncation import Truncation, count_truncated, with_truncation
from hf_ft.settings.schema import Config
from hf_ft.tasks.registry import get_task

WORDS = ["film", "good", "bad", "long", "play", "music"]


def table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def text(i: int, words: int) -> str:
    return " ".join([f"{i}", *(WORDS[(i + k) % len(WORDS)] for k in range(words - 1))])


def write(folder: Path, long: dict[str, int], words: int, pairs: bool = False) -> Path:
    """16 short texts in each split, of which so many are `words` long; every word and number is one token."""
    folder.mkdir(exist_ok=True)
    for split, count in long.items():
        rows = []
        for i in range(16):
            row = {"text": text(i, words if i < count else 5)}
            row |= {"text_pair": text(i + 1, 4)} if pairs else {}
            rows.append(row | {"label": "ab"[i % 2]})
        table(folder / f"{split}.csv", rows)
    return folder


def train(data: Path, model: str, out: Path, **settings: Any) -> dict[str, Any]:
    options = {"method": "head", "load_back_proof": "false", **settings}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    given = ["--task", "text_classification", "--model", model, "--dataset", str(data), "--output_dir", str(out)]
    assert main(["train", *given, *words]) == 0
    record: dict[str, Any] = json.loads((out / "run.json").read_text())
    return record


def test_cut_texts_are_counted(text_model: str, tmp_path: Path) -> None:
    """Of 40 words and two special tokens, 32 tokens are read: 10 are lost of each long text."""
    data = write(tmp_path, {"train": 3, "validation": 0, "test": 1}, words=40)
    config = Config(task="text_classification", dataset=str(data), model="x", max_length=32)
    task, tokenizer = get_task("text_classification"), AutoTokenizer.from_pretrained(text_model)
    splits = load_splits(config)
    found = with_truncation(splits, task, tokenizer, config)
    short = 5 + 2
    assert found.truncation == (
        Truncation("train", 3, 16, 30, 3 * 42 + 13 * short, 32),
        Truncation("test", 1, 16, 10, 42 + 15 * short, 32),
    )
    (test,) = (note for note in found.notes if note.startswith("test: 1 of 16 texts"))
    assert re.search(r"32 tokens .* loses 6.8 % of all tokens. Raise --max_length \(the model takes 512\)", test)
    assert not any(note.startswith("validation") and "longer than" in note for note in found.notes)
    assert with_truncation(found, task, tokenizer, config) is found
    exactly = Config(task="text_classification", dataset=str(data), model="x", max_length=42)
    assert with_truncation(splits, task, tokenizer, exactly).truncation == ()
    assert with_truncation(splits, task, tokenizer, exactly).notes == splits.notes


def test_cut_pairs_are_counted_as_pairs(text_model: str, tmp_path: Path) -> None:
    data = write(tmp_path, {"train": 2, "validation": 0}, words=30, pairs=True)
    config = Config(task="text_classification", dataset=str(data), model="x", max_length=34)
    rows = load_splits(config).train
    found = count_truncated(
        "train", rows, get_task("text_classification"), AutoTokenizer.from_pretrained(text_model), config
    )
    assert found == Truncation("train", 2, 16, 2 * (30 + 4 + 3 - 34), 2 * 37 + 14 * 12, 34)


def test_cut_texts_are_told(text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts of 1,500 words: output, record, card, `evaluate` and `predict` say it, and what the card shows works."""
    data = write(tmp_path / "data", {"train": 2, "validation": 0, "test": 4}, words=1500)
    out = tmp_path / "out"
    record = train(data, text_model, out)
    told, card = " ".join(capsys.readouterr().out.split()), (out / "README.md").read_text()
    assert [(cut["split"], cut["examples"], cut["limit"]) for cut in record["data"]["truncation"]] == [
        ("train", 2, 512),
        ("test", 4, 512),
    ]
    for page in (told, card):
        assert "test: 4 of 16 texts are longer than 512 tokens" in page
        assert "The model takes no more" in page
    (usage,) = re.findall(r"^classify\(.*\)$", card, re.MULTILINE)
    classify = pipeline("text-classification", model=str(out))
    assert eval(usage.replace('"some text"', "long"), {"classify": classify, "long": text(0, 1500)})[0]["label"] in "ab"
    assert main(["evaluate", str(out), "--dataset", str(data), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert (scored["truncation"]["examples"], scored["truncation"]["limit"]) == (4, 512)
    assert main(["predict", str(out), text(0, 1500), text(1, 9)]) == 0
    assert "1 of 2 texts is longer than 512 tokens" in capsys.readouterr().err
    assert main(["predict", str(out), text(1, 9)]) == 0
    assert "longer" not in capsys.readouterr().err


def test_nothing_is_said_of_texts_that_fit(text_model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"train": 0, "test": 0}, words=5)
    record = train(data, text_model, tmp_path / "out")
    assert record["data"]["truncation"] == []
    assert record["data"]["inputs"] == ["text"]
    assert "longer than" not in (tmp_path / "out" / "README.md").read_text()
    assert "truncation" not in record["usage"]


@pytest.fixture(scope="module")
def of_pairs(text_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of pairs, and its data."""
    folder = tmp_path_factory.mktemp("pairs")
    data = write(folder / "data", {"train": 0, "test": 0}, words=5, pairs=True)
    train(data, text_model, folder / "out")
    return folder / "out", data


@pytest.fixture(scope="module")
def of_texts(text_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of single texts, and its data."""
    folder = tmp_path_factory.mktemp("texts")
    data = write(folder / "data", {"train": 0, "test": 0}, words=5)
    train(data, text_model, folder / "out")
    return folder / "out", data


def test_card_of_pairs_shows_a_pair(of_pairs: tuple[Path, Path]) -> None:
    """What the card shows runs, and answers as `pipeline` does on that pair."""
    out, _ = of_pairs
    (usage,) = re.findall(r"^classify\(.*\)$", (out / "README.md").read_text(), re.MULTILINE)
    assert "text_pair" in usage
    classify: Any = pipeline("text-classification", model=str(out))
    answer: Any = eval(usage, {"classify": classify})
    assert answer["score"] == pytest.approx(classify({"text": "some text", "text_pair": "another text"})["score"])
    assert json.loads((out / "run.json").read_text())["data"]["inputs"] == ["text", "text_pair"]


def test_pairs_and_single_texts_are_not_taken_for_each_other(
    of_pairs: tuple[Path, Path], of_texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pair_model, pairs), (text_only, texts) = of_pairs, of_texts
    (tmp_path / "lines.txt").write_text("one text\nanother\n")
    wrong = [
        ["predict", pair_model, "one text"],
        ["predict", pair_model, tmp_path / "lines.txt"],
        ["predict", pair_model, texts / "test.csv"],
        ["predict", pair_model, pairs / "test.csv", "one text"],
        ["evaluate", pair_model, "--dataset", texts],
        ["predict", text_only, pairs / "test.csv"],
        ["evaluate", text_only, "--dataset", pairs],
    ]
    for words in wrong:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2, words
        error = capsys.readouterr().err
        assert "pair" in error, words
        assert error.count("\n") == 1, words
    for model, data in (of_pairs, of_texts):
        assert main(["predict", str(model), str(data / "test.csv")]) == 0
        assert main(["evaluate", str(model), "--dataset", str(data)]) == 0


def test_a_column_that_was_named_is_read_alone(
    text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on one of two columns, the model reads that one of a table again, and no pair."""
    data = write(tmp_path / "data", {"train": 0, "test": 0}, words=5, pairs=True)
    record = train(data, text_model, tmp_path / "out", text_column="text")
    assert record["data"]["inputs"] == ["text"]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "out"), str(data / "test.csv")]) == 0
    assert [row["input"] for row in csv.DictReader(capsys.readouterr().out.splitlines())] == [
        text(i, 5) for i in range(16)
    ]
    assert main(["evaluate", str(tmp_path / "out"), "--dataset", str(data)]) == 0
