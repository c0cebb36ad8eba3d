"""Copies of examples: counted between and within splits, told, kept on one side of a hold-out, and scored without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_ft.cli.app import main
from hf_ft.data.duplicates import Overlap
from hf_ft.data.load import load_splits
from hf_ft.data.sampling import sample_strata
from hf_ft.data.splits import Splits
from hf_ft.settings.schema import Config


def load(folder: Path, task: str = "text_classification", seed: int = 0, **settings: Any) -> Splits:
    return load_splits(Config(task=task, dataset=str(folder), explicit=frozenset(settings), **settings), seed)


def write(folder: Path, **splits: list[tuple[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(folder / f"{split}.csv", index=False)
    return folder


def rows_of(split: str, count: int = 10) -> list[tuple[str, str]]:
    return [(f"{split} {i}", "ab"[i % 2]) for i in range(count)]


def test_copies_between_and_within_splits_are_counted(tmp_path: Path) -> None:
    train = [*rows_of("train"), ("train 0", "a"), ("train 1", "a")]
    validation = [*rows_of("validation"), (" train 0 ", "a")]
    test = [*rows_of("test"), ("train 1\n", "b"), ("train 2", "b"), ("train 3", "a"), ("validation 4", "a")]
    splits = load(write(tmp_path, train=train, validation=validation, test=test))
    assert set(splits.duplicates.overlaps) == {
        Overlap("train", "train", 2, 1),
        Overlap("validation", "train", 1, 0),
        Overlap("test", "train", 3, 2),  # "train 1" stands in train under both labels
        Overlap("test", "validation", 1, 0),
    }
    assert np.flatnonzero(splits.duplicates.in_train["test"]).tolist() == [10, 11, 12]
    assert np.flatnonzero(splits.duplicates.in_train["validation"]).tolist() == [10]
    told = [note for note in splits.notes if "exact dup" in note]
    assert len(told) == 4
    assert any(note.startswith("test: 3 of 14 examples") and "2 of them under another label" in note for note in told)


def test_nothing_is_said_where_there_are_no_copies(tmp_path: Path) -> None:
    splits = load(write(tmp_path, train=rows_of("train"), validation=rows_of("v"), test=rows_of("test")))
    assert splits.duplicates.overlaps == ()
    assert not splits.duplicates.in_train
    assert splits.notes == ()


def test_pairs_are_copies_as_pairs(tmp_path: Path) -> None:
    def table(split: str, pairs: list[tuple[str, str]]) -> None:
        frame = pd.DataFrame(pairs, columns=["sentence1", "sentence2"])
        frame["label"] = [("a", "b")[i % 2] for i in range(len(pairs))]
        frame.to_csv(tmp_path / f"{split}.csv", index=False)

    table("train", [(f"one {i}", f"two {i}") for i in range(8)])
    table("validation", [(f"one {i}", f"other {i}") for i in range(8)])
    table("test", [(f"two {i}", f"one {i}") for i in range(8)] + [("one 0", "two 0")])
    assert load(tmp_path).duplicates.overlaps == (Overlap("test", "train", 1, 0),)


def test_word_lists_are_copies_word_by_word(tmp_path: Path) -> None:
    def sentences(split: str, lists: list[list[str]]) -> None:
        rows = [{"tokens": words, "ner_tags": ["B-X", *["O"] * (len(words) - 1)]} for words in lists]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    sentences("train", [["Ada", "ran", str(i)] for i in range(6)])
    sentences("validation", [["Ada ran", str(i)] for i in range(6)])
    sentences("test", [["Ada", "ran", "3"], ["Ada", "sat", "3"]])
    assert load(tmp_path, "token_classification").duplicates.overlaps == (Overlap("test", "train", 1, 0),)


def test_images_are_copies_by_their_pixels(tmp_path: Path) -> None:
    """The same picture as PNG and as BMP, and under another label; one pixel more or less is another picture."""
    random = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(random.integers(0, 256, (8, 9, 3), np.uint8)).save(tmp_path / split / name / f"{i}.png")
    first = Image.open(tmp_path / "train/ant/0.png")
    first.save(tmp_path / "test/ant/copy.bmp")
    first.save(tmp_path / "test/bee/copy.bmp")
    first.putpixel((0, 0), (1, 2, 3))
    first.save(tmp_path / "test/ant/near.png")
    overlaps = load(tmp_path, "image_classification").duplicates.overlaps
    assert set(overlaps) == {Overlap("test", "train", 2, 1), Overlap("test", "test", 1, 1)}


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("seed", range(3))
def test_held_out_validation_shares_no_example_with_train(kind: str, seed: int, tmp_path: Path) -> None:
    """Sixty different examples, each of them once to five times: copies stay together, and the size is as asked."""
    random = np.random.default_rng(0)
    times = random.integers(1, 6, 60)
    if kind == "text":
        write(tmp_path, train=[(f"text {i}", "ab"[i % 2]) for i, count in enumerate(times) for _ in range(count)])
        splits = load(tmp_path, seed=seed, validation_fraction=0.2)
    else:
        for i, count in enumerate(times):
            picture = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
            for k in range(count):
                (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
                picture.save(tmp_path / "ab"[i % 2] / f"{i}-{k}.png")
        splits = load(tmp_path, "image_classification", seed, validation_fraction=0.2)
    assert [found for found in splits.duplicates.overlaps if found.split != found.of] == []
    assert any("Duplicates stay on the same side" in note for note in splits.notes)
    assert len(splits.train) + len(splits.validation) == times.sum()
    assert 0.15 * times.sum() <= len(splits.validation) <= 0.2 * times.sum() + 1


def test_hold_out_changes_only_where_there_are_copies() -> None:
    strata, sizes = np.arange(100) % 2, np.array([10, 10])
    alone = np.arange(100)
    assert sample_strata(strata, sizes, 3, alone).tolist() == sample_strata(strata, sizes, 3).tolist()
    pairs = alone.copy()
    pairs[[1, 99]] = 1
    together = sample_strata(strata, sizes, 3, pairs)
    assert len({1, 99} & set(together)) in (0, 2)
    assert len(set(together) & set(sample_strata(strata, sizes, 3))) >= 18


def test_copies_that_cannot_stay_together_are_told(tmp_path: Path) -> None:
    """Two texts, ten times each: a validation split has to share them with train, and that is said."""
    splits = load(write(tmp_path, train=[("same", "a")] * 10 + [("other", "b")] * 10))
    assert len(splits.validation) == 2
    assert Overlap("validation", "train", 2, 0) in splits.duplicates.overlaps
    assert not any("stay together" in note for note in splits.notes)


@pytest.mark.parametrize("planted", [True, False])
def test_scores_without_copies(
    planted: bool, tmp_path: Path, text_model: str, text_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line on files: run.json, terminal and card give the score of the fresh examples as well."""
    from transformers import pipeline

    train, test = (pd.read_csv(f"{text_data}/{split}.csv") for split in ("train", "test"))
    copied = train.head(4).assign(text=train["text"].head(4) + "  ") if planted else train.head(0)
    folder = tmp_path / "data"
    folder.mkdir()
    train.to_csv(folder / "train.csv", index=False)
    pd.concat([copied, test]).to_csv(folder / "test.csv", index=False)
    out = tmp_path / "out"
    settings = ["--task", "text_classification", "--model", text_model, "--dataset", str(folder), "--method", "full"]
    assert main(["train", *settings, "--max_steps", "3", "--load_back_proof", "false", "--output_dir", str(out)]) == 0
    record, card = json.loads((out / "run.json").read_text()), (out / "README.md").read_text()
    told = "test examples that are in the training split" in " ".join(capsys.readouterr().out.split())
    assert told is ("test examples that are in the training split" in card) is planted
    overlap = {"split": "test", "of": "train", "examples": 4, "other_label": 0}
    assert (overlap in record["data"]["duplicates"]) is planted
    assert set(record["metrics_without_duplicates"]) == ({"test"} if planted else set())
    if planted:
        scores = record["metrics_without_duplicates"]["test"]
        assert set(scores) == set(record["metrics"]["test"])
        classify = pipeline("text-classification", model=str(out))
        answers = [answer["label"] for answer in classify(test["text"].tolist())]
        assert scores["accuracy"]["value"] == pytest.approx((test["label"] == answers).mean())
        assert scores["accuracy"]["n"] == len(test) == record["metrics"]["test"]["accuracy"]["n"] - 4
    evaluated = {}
    for split in ("test", "train"):
        assert main(["evaluate", str(out), "--dataset", str(folder), "--split", split, "--json"]) == 0
        evaluated[split] = json.loads(capsys.readouterr().out)
    assert evaluated["test"]["duplicates"] == (overlap if planted else None)
    assert evaluated["test"]["metrics_without_duplicates"] == record["metrics_without_duplicates"].get("test")
    assert evaluated["train"]["duplicates"]["examples"] > 0.8 * len(train)  # but for what was held out of it
    assert evaluated["train"]["metrics_without_duplicates"]["accuracy"]["n"] == record["data"]["sizes"]["validation"]
