"""Data in memory: the same splits, labels and fingerprints as from files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from PIL import Image

from hf_ft import UserError, finetune
from hf_ft.data.load import load_splits
from hf_ft.data.readers.memory import read_memory
from hf_ft.data.splits import Splits
from hf_ft.settings.schema import Config


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def of_texts(data: Any) -> Splits:
    """The splits of texts in memory."""
    return load_splits(Config(task="text_classification", model="x", dataset="in memory"), data=data)


KINDS: dict[str, Callable[[list[dict[str, str]]], Any]] = {
    "list": list,
    "generator": lambda rows: (dict(row) for row in rows),
    "frame": pd.DataFrame,
    "categories": lambda rows: pd.DataFrame(rows).astype({"label": "category"}),
    "dataset": Dataset.from_list,
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data_are_the_same_data(kind: str, text_data: str) -> None:
    """Each kind gives the splits of the files, with their fingerprint."""
    files = {name: rows_of(Path(text_data, f"{name}.csv")) for name in ("train", "test")}
    splits = of_texts({name: KINDS[kind](rows) for name, rows in files.items()})
    expected = load_splits(Config(task="text_classification", model="x", dataset=text_data))
    assert splits.fingerprint == expected.fingerprint
    assert splits.labels == expected.labels
    assert [len(part) for part in (splits.train, splits.validation)] == [
        len(part) for part in (expected.train, expected.validation)
    ]


def test_one_table_is_the_training_split() -> None:
    """Without splits, a validation split is held out, as of a single file."""
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(40)]
    splits = of_texts(rows)
    assert (len(splits.train), len(splits.validation), splits.test) == (36, 4, None)
    assert of_texts(DatasetDict(train=Dataset.from_list(rows))).fingerprint == splits.fingerprint
    assert of_texts([*rows[1:], {"text": "another", "label": 0}]).fingerprint != splits.fingerprint


def test_images_keep_their_pixels(image_data: str) -> None:
    """PIL images, in lists and in frames, are the pictures of their files."""
    config = Config(task="image_classification", model="x", dataset=image_data)
    found = load_dataset("imagefolder", data_dir=image_data)
    names = found["train"].features["label"].names
    rows = {
        split: [{"image": row["image"].copy(), "label": names[row["label"]]} for row in part]
        for split, part in found.items()
    }
    expected = load_splits(config).train
    for data in (rows, {split: pd.DataFrame(part) for split, part in rows.items()}):
        splits = load_splits(config, data=data)
        assert len(splits.train) == len(expected)
        pixels = {one["image"].convert("RGB").tobytes() for one in splits.train}
        assert pixels == {one["image"].convert("RGB").tobytes() for one in expected}


def test_missing_cells_are_missing_labels() -> None:
    """A row without a key, and NaN in a frame, have no label, as an empty cell of a file."""
    rows: list[dict[str, Any]] = [{"text": f"film {i}", "label": i % 2} for i in range(20)]
    del rows[3]["label"]
    for data in (rows, pd.DataFrame(rows)):
        with pytest.raises(UserError, match="no label"):
            of_texts(data)


def numbers() -> Iterator[int]:
    """Rows that are no dictionaries."""
    yield 1


WRONG = [3, object(), numbers, [1, 2], {}, {"train": 5}, numbers(), b"text", Image.new("RGB", (2, 2))]


@pytest.mark.parametrize("data", WRONG, ids=lambda data: type(data).__name__)
def test_data_of_another_kind(data: Any) -> None:
    """One line that says what is taken."""
    with pytest.raises(UserError) as found:
        read_memory(data)
    assert found.value.option == "dataset"
    assert "\n" not in str(found.value)


def test_columns_of_mixed_types() -> None:
    """What Arrow cannot hold in one column is the user's to mend."""
    with pytest.raises(UserError) as found:
        read_memory([{"text": "a", "label": 1}, {"text": 2.5, "label": "x"}])
    assert found.value.option == "dataset"


def test_a_run_on_data_in_memory(text_model: str, tmp_path: Path) -> None:
    """`run.json` says where the data were, and no path or Hub id stands for them; a resumed run knows them again."""
    frame = pd.DataFrame([{"text": f"{('dull', 'lovely')[i % 2]} film {i}", "label": i % 2} for i in range(40)])
    settings: dict[str, Any] = {"task": "text_classification", "model": text_model, "method": "full", "max_steps": 2}
    settings |= {"output_dir": str(tmp_path / "out"), "load_back_proof": False}
    record = finetune(dataset=frame, **settings).record
    assert (record["data"]["name"], record["data"]["hub_id"]) == ("in memory", None)
    assert record["settings"]["dataset"] == "in memory"
    with pytest.raises(UserError) as found:
        finetune(dataset=3, **settings)
    assert found.value.option == "dataset"
