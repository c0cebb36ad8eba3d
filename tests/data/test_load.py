"""Loading data: every kind of source and layout, every mistake with its message, and the traps by name.

All data are made here, small and in `tmp_path`. Colours stand for classes, so that an image tells which row it is.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image

from hf_ft.data.load import load_evaluation_split, load_splits
from hf_ft.data.sampling import allocate, sample_strata
from hf_ft.data.splits import Splits
from hf_ft.errors import UserError
from hf_ft.settings.schema import Config
from hf_ft.tasks import classes
from hf_ft.tasks.target import natural_order

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
SIZES = {"train": 20, "validation": 8, "test": 6}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def text_config(dataset: Path | str, **settings: Any) -> Config:
    return Config(task="text_classification", dataset=str(dataset), explicit=frozenset(settings), **settings)


def image_config(dataset: Path | str, **settings: Any) -> Config:
    return Config(task="image_classification", dataset=str(dataset), explicit=frozenset(settings), **settings)


def frame(split: str, size: int | None = None) -> pd.DataFrame:
    """Rows that differ within and between splits; half are "dog", half "cat"."""
    count = SIZES[split] if size is None else size
    return pd.DataFrame(
        {"text": [f"{split} text {i}" for i in range(count)], "label": [("dog", "cat")[i % 2] for i in range(count)]}
    )


def write_image(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_image_folder(root: Path, classes: Sequence[str] = ("ant", "bee"), each: int = 6, seed: int = 0) -> Path:
    for number, name in enumerate(classes):
        for i in range(each):
            write_image(root / name / f"{i}.png", (seed, number, i))
    return root


def write_csv(path: Path, rows: dict[str, list[Any]] | pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def names(splits: Splits, split: str = "train") -> list[str]:
    return [splits.labels[label] for label in getattr(splits, split)["labels"]]


def texts(rows: Dataset) -> list[str]:
    return list(rows["text"])


def colours(rows: Dataset) -> list[tuple[int, int, int]]:
    return [image.convert("RGB").getpixel((0, 0)) for image in rows["image"]]


# --- Every source and layout ----------------------------------------------------------------------------------------


def to_csv(data: pd.DataFrame, path: Path) -> None:
    data.to_csv(path, index=False)


def to_tsv(data: pd.DataFrame, path: Path) -> None:
    data.to_csv(path, index=False, sep="\t")


def to_semicolons(data: pd.DataFrame, path: Path) -> None:
    data.to_csv(path, index=False, sep=";")


def to_jsonl(data: pd.DataFrame, path: Path) -> None:
    data.to_json(path, orient="records", lines=True)


def to_json(data: pd.DataFrame, path: Path) -> None:
    data.to_json(path, orient="records")


def to_parquet(data: pd.DataFrame, path: Path) -> None:
    data.to_parquet(path)


WRITERS: dict[str, tuple[str, Callable[[pd.DataFrame, Path], None]]] = {
    "csv": (".csv", to_csv),
    "csv, upper case": (".CSV", to_csv),
    "csv with semicolons": (".csv", to_semicolons),
    "tsv": (".tsv", to_tsv),
    "json lines": (".jsonl", to_jsonl),
    "json": (".json", to_json),
    "parquet": (".parquet", to_parquet),
}

LAYOUTS = {
    "files": {"train": "train", "validation": "validation", "test": "test"},
    "other words": {"train": "training", "validation": "dev", "test": "testing"},
    "any case": {"train": "Train", "validation": "VAL", "test": "Test"},
    "shards": {split: f"data/{split}-00000-of-00001" for split in SIZES},
    "folders": {"train": "train/rows", "validation": "valid/rows", "test": "test/rows"},
    "suffixes": {"train": "train_v2", "validation": "val.1", "test": "test2"},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tables_in_every_layout(tmp_path: Path, kind: str, layout: str) -> None:
    suffix, write = WRITERS[kind]
    for split, name in LAYOUTS[layout].items():
        path = tmp_path / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(frame(split), path)
    splits = load_splits(text_config(tmp_path))
    assert splits.labels == ("cat", "dog")
    assert splits.problem_type == SINGLE
    assert splits.notes == ()
    for split in SIZES:
        assert texts(getattr(splits, split)) == list(frame(split)["text"])
        assert names(splits, split) == list(frame(split)["label"])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_single_file_is_train(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    write(frame("train"), tmp_path / f"reviews{suffix}")
    splits = load_splits(text_config(tmp_path / f"reviews{suffix}"))
    assert len(splits.train) + len(splits.validation) == 20
    assert splits.test is None
    assert splits.notes == ("validation: 2 of train's 20 examples, stratified, seed 0.",)


def test_several_shards_are_one_split(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(3):
        to_parquet(frame("train").iloc[i::3], tmp_path / "data" / f"train-0000{i}-of-00003.parquet")
    splits = load_splits(text_config(tmp_path))
    assert sorted(texts(splits.train) + texts(splits.validation)) == sorted(frame("train")["text"])


def test_files_without_a_split_name_are_train_together(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", frame("train"))
    write_csv(tmp_path / "b.csv", frame("test"))
    splits = load_splits(text_config(tmp_path))
    assert len(splits.train) + len(splits.validation) == 26


@pytest.mark.parametrize("as_dict", [True, False])
def test_saved_to_disk(tmp_path: Path, as_dict: bool) -> None:
    saved = {split: Dataset.from_pandas(frame(split)) for split in SIZES}
    (DatasetDict(saved) if as_dict else saved["train"]).save_to_disk(tmp_path / "saved")
    splits = load_splits(text_config(tmp_path / "saved"))
    assert (splits.test is not None) == as_dict
    assert len(splits.train) == (20 if as_dict else 18)


def test_nothing_is_written_into_a_saved_data_set(tmp_path: Path, cache: Path) -> None:
    """`map` puts its cache beside the first file of a data set, which must not be the user's."""
    Dataset.from_pandas(frame("train")).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    mapped = load_splits(text_config(tmp_path / "saved")).train.map(lambda row: {"length": len(row["text"])})
    assert len(mapped) == 18
    assert sorted(tmp_path.rglob("*")) == before
    assert Path(mapped.cache_files[0]["filename"]).is_relative_to(cache)


def test_a_folder_with_a_card_that_names_its_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "one.csv", frame("train"))
    write_csv(tmp_path / "two.csv", frame("test"))
    card = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: one.csv\n"
    (tmp_path / "README.md").write_text(card + "  - split: test\n    path: two.csv\n---\n# Reviews\n")
    splits = load_splits(text_config(tmp_path))
    assert splits.test is not None
    assert texts(splits.test) == list(frame("test")["text"])


def test_image_folder_with_splits(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        write_image_folder(tmp_path / split, seed=seed)
    splits = load_splits(image_config(tmp_path))
    assert splits.labels == ("ant", "bee")
    assert splits.notes == ()
    assert splits.test is not None
    assert colours(splits.train) == [(0, c, i) for c in range(2) for i in range(6)]
    assert colours(splits.validation) == [(1, c, i) for c in range(2) for i in range(6)]
    assert names(splits, "test") == ["ant"] * 6 + ["bee"] * 6
    assert set(splits.train.column_names) == {"image", "labels"}


def test_image_folder_without_splits(tmp_path: Path) -> None:
    splits = load_splits(image_config(write_image_folder(tmp_path, each=10)))
    assert classes.SINGLE.counts(splits.train, splits.labels) == [9, 9]
    assert classes.SINGLE.counts(splits.validation, splits.labels) == [1, 1]


def test_image_folder_inside_one_more_folder(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "unzipped" / "train")
    write_image_folder(tmp_path / "unzipped" / "test", seed=1)
    splits = load_splits(image_config(tmp_path))
    assert splits.labels == ("ant", "bee")
    assert splits.test is not None
    assert len(splits.test) == 12


@pytest.mark.parametrize("extension", ["jpg", "JPG", "jpeg", "png", "webp", "bmp", "gif", "tif", "TIFF"])
def test_image_extensions(tmp_path: Path, extension: str) -> None:
    for number, name in enumerate(("ant", "bee")):
        for i in range(3):
            write_image(tmp_path / name / f"{i}.{extension}", (9, number, i))
    splits = load_splits(image_config(tmp_path))
    assert len(splits.train) + len(splits.validation) == 6
    assert splits.train[0]["image"].size == (8, 8)


def test_animated_gif(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "ant" / "moving.gif", save_all=True, append_images=[second])
    splits = load_splits(image_config(tmp_path))
    assert (254, 0, 0) in colours(splits.train) or (255, 0, 0) in colours(splits.train)
    assert len(splits.train) + len(splits.validation) == 13


def test_files_that_are_no_images_are_ignored(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    for name in ("ant/Thumbs.db", "README.md", "bee/notes.txt", "ant/.DS_Store", "__MACOSX/ant/0.png", "bee/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    write_csv(tmp_path / "classes.csv", {"name": ["ant", "bee"]})
    splits = load_splits(image_config(tmp_path))
    assert splits.labels == ("ant", "bee")
    assert "Ignored, since not an image: 4 files (.csv 1, .db 1, .md 1, .txt 1)." in splits.notes
    assert len(splits.train) + len(splits.validation) == 12


def test_images_outside_class_folders_are_named(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    write_image(tmp_path / "stray.png", (1, 2, 3))
    notes = load_splits(image_config(tmp_path)).notes
    assert notes[0] == "Ignored, since outside the class folders: 1 image (stray.png)."


def test_images_in_sub_folders_of_a_class(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "ant", classes=("red", "black"))
    write_image_folder(tmp_path / "bee", classes=("wild", "honey"))
    splits = load_splits(image_config(tmp_path))
    assert splits.labels == ("ant", "bee")
    assert len(splits.train) + len(splits.validation) == 24


@pytest.mark.parametrize("column", ["image", "img", "file_name"])
def test_table_with_paths_of_images(tmp_path: Path, column: str) -> None:
    write_image_folder(tmp_path / "pictures")
    paths = [f"pictures/{name}/{i}.png" for name in ("ant", "bee") for i in range(6)]
    write_csv(tmp_path / "train.csv", {column: paths, "label": ["ant"] * 6 + ["bee"] * 6})
    splits = load_splits(image_config(tmp_path))
    assert len(splits.train) + len(splits.validation) == 12
    assert all(colour[1] == label for colour, label in zip(colours(splits.train), splits.train["labels"], strict=True))


def test_image_folder_with_metadata(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i in range(6):
            write_image(tmp_path / split / f"{i}.png", (i % 2, 0, i))
        rows = {"file_name": [f"{i}.png" for i in range(6)], "label": ["a" if i % 2 else "b" for i in range(6)]}
        write_csv(tmp_path / split / "metadata.csv", rows)
    splits = load_splits(image_config(tmp_path))
    assert splits.test is not None
    assert [splits.labels[label] for label in splits.test["labels"]] == ["b", "a"] * 3
    assert colours(splits.test) == [(i % 2, 0, i) for i in range(6)]


@pytest.mark.parametrize("typed", [True, False])
def test_images_in_parquet(tmp_path: Path, typed: bool) -> None:
    """Image bytes, with the feature type in the file or (as other libraries write it) without."""
    files = [write_image(tmp_path / "pictures" / f"{i}.png", (i, i, i)) for i in range(10)]
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    rows = Dataset.from_dict({"img": images, "label": [i % 2 for i in range(10)]})
    (tmp_path / "set").mkdir()
    (rows.cast_column("img", datasets.Image()) if typed else rows).to_parquet(tmp_path / "set" / "train.parquet")
    splits = load_splits(image_config(tmp_path / "set"))
    assert sorted(colours(splits.train) + colours(splits.validation)) == [(i, i, i) for i in range(10)]
    assert splits.train.features["image"] == datasets.Image()


def test_glob_characters_in_a_path_are_letters(tmp_path: Path) -> None:
    write_csv(tmp_path / "data [v2]*" / "train.csv", frame("train"))
    assert len(load_splits(text_config(tmp_path / "data [v2]*")).train) == 18


# --- Splits ---------------------------------------------------------------------------------------------------------


def test_the_user_names_the_splits(tmp_path: Path) -> None:
    for name, split in (("fold1", "train"), ("fold2", "validation"), ("train", "test")):
        write_csv(tmp_path / f"{name}.csv", frame(split))
    splits = load_splits(text_config(tmp_path, train_split="fold1", validation_split="fold2", test_split="train"))
    assert splits.test is not None
    assert [texts(part)[0] for part in (splits.train, splits.validation, splits.test)] == [
        "train text 0",
        "validation text 0",
        "test text 0",
    ]


def test_exact_split_name_goes_first_and_the_rest_is_named(tmp_path: Path) -> None:
    parts = {"train": "train", "train_extra": "test", "unsupervised": "validation"}
    DatasetDict({name: Dataset.from_pandas(frame(split)) for name, split in parts.items()}).save_to_disk(tmp_path)
    splits = load_splits(text_config(tmp_path))
    assert len(splits.train) == 18
    assert splits.notes[0] == "Splits not used: train_extra, unsupervised."


def test_test_split_is_never_validation(tmp_path: Path) -> None:
    """Trap: test set used as validation."""
    write_csv(tmp_path / "train.csv", frame("train"))
    write_csv(tmp_path / "test.csv", frame("test"))
    splits = load_splits(text_config(tmp_path))
    assert splits.test is not None
    assert texts(splits.test) == list(frame("test")["text"])
    assert set(texts(splits.validation)) < set(frame("train")["text"])


def test_split_folders_become_labels(tmp_path: Path) -> None:
    """Trap: without class folders, `train` and `test` would be the labels."""
    for split in ("train", "test"):
        for i in range(3):
            write_image(tmp_path / split / f"{i}.png", (i, 0, 0))
    with pytest.raises(UserError, match=r"in test, train of .* are in no class folders.*train/CLASS/\*\.jpg"):
        load_splits(image_config(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    splits = load_splits(image_config(write_image_folder(tmp_path, classes=("bus", "car", "train"))))
    assert splits.labels == ("bus", "car", "train")


def test_validation_lacks_a_class(tmp_path: Path) -> None:
    """Trap: such data must train all the same."""
    write_csv(tmp_path / "train.csv", frame("train"))
    write_csv(tmp_path / "validation.csv", {"text": ["x", "y"], "label": ["dog", "dog"]})
    splits = load_splits(text_config(tmp_path))
    assert classes.SINGLE.counts(splits.validation, splits.labels) == [0, 2]


@pytest.mark.parametrize("hidden", ["-1", "no column"])
def test_test_split_without_labels_is_left_out(tmp_path: Path, hidden: str) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    train = Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1] * 4}, features=features)
    test = Dataset.from_dict({"text": ["x", "y"], "label": [-1, -1]}, features=features)
    test = test if hidden == "-1" else test.remove_columns("label")
    DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path)
    splits = load_splits(text_config(tmp_path))
    assert splits.test is None
    assert splits.notes[0] == "test: not used, since it has no labels."
    with pytest.raises(UserError, match=r"2 of 2 examples have no label|Unknown column in test: 'label'"):
        load_splits(text_config(tmp_path, test_split="test"))


def test_unlabelled_test_images_are_left_out(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train")
    write_image(tmp_path / "test" / "1.png", (1, 1, 1))
    splits = load_splits(image_config(tmp_path))
    assert splits.test is None
    assert splits.notes[0] == "test: not used, since it has no class folders (1 image)."


def test_image_folders_of_one_split_are_read_together(tmp_path: Path) -> None:
    """Trap: `train` and `train_2` are both train; the second must not replace the first."""
    for seed, folder in enumerate(("train", "train_2")):
        write_image_folder(tmp_path / folder, seed=seed)
    write_image_folder(tmp_path / "test", seed=2)
    splits = load_splits(image_config(tmp_path))
    assert len(splits.train) + len(splits.validation) == 24


@pytest.mark.parametrize("name", ["Test/1.png", "test.png"])
def test_test_images_without_class_folders_in_any_case(tmp_path: Path, name: str) -> None:
    write_image_folder(tmp_path / "train")
    write_image(tmp_path / name, (1, 1, 1))
    splits = load_splits(image_config(tmp_path))
    assert splits.test is None
    assert "1 image" in splits.notes[0]


def test_metadata_is_no_data_set_of_texts(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", frame("train"))
    (tmp_path / "metadata.json").write_text('[{"licence": "mit"}]')
    splits = load_splits(text_config(tmp_path))
    assert len(splits.train) + len(splits.validation) == 20
    assert splits.notes[0] == "Not used, since their names say no split: metadata.json."


# --- Columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("Sentence1", "SENTENCE2")],
)
def test_two_texts_that_belong_together(tmp_path: Path, pair: tuple[str, str]) -> None:
    # The second text stands first, since the order of columns must not matter.
    rows = {pair[1]: list("abcdefgh"), pair[0]: list("ABCDEFGH"), "label": [0, 1] * 4, "idx": range(8)}
    splits = load_splits(text_config(write_csv(tmp_path / "train.csv", rows)))
    assert set(splits.train.column_names) == {"text", "text_pair", "labels"}
    assert all(a.lower() == b for a, b in zip(splits.train["text"], splits.train["text_pair"], strict=True))
    assert splits.notes[0] == "Columns not used: idx."


def test_columns_named_by_the_user(tmp_path: Path) -> None:
    rows = {"text": list("abcdefgh"), "title": list("ABCDEFGH"), "label": ["x"] * 8, "topic": ["p", "q"] * 4}
    path = write_csv(tmp_path / "train.csv", rows)
    splits = load_splits(text_config(path, text_column="title", text_pair_column="text", label_column="topic"))
    assert splits.labels == ("p", "q")
    assert texts(splits.train)[0].isupper()
    assert splits.train["text_pair"][0].islower()
    only_title = load_splits(text_config(path, text_column="title", label_column="topic"))
    assert set(only_title.train.column_names) == {"text", "labels"}


def test_the_only_columns_that_can_be_meant(tmp_path: Path) -> None:
    rows = {"tweet": list("abcdefgh"), "stars": [1, 2] * 4}
    to_parquet(pd.DataFrame(rows), tmp_path / "train.parquet")
    splits = load_splits(text_config(tmp_path))
    assert splits.labels == ("1", "2")
    assert splits.notes[:2] == (
        "The text is column 'tweet', the only one that can be it.",
        "The label is column 'stars', the only one that can be it.",
    )


def test_labels_of_several_types(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n')
    with pytest.raises(UserError, match=r"Column 'label' holds a mix of types, which cannot be labels"):
        load_splits(text_config(tmp_path))


COLUMN_MISTAKES = {
    "no text": (
        {"tweet": ["a"], "user": ["b"], "label": [0]},
        {},
        r"No column of train has a usual name for the text.*tweet, user, label.*--text_column",
    ),
    "no label": (
        {"text": ["a"], "x": ["0"], "y": ["1"]},
        {},
        r"No column of train has a usual name for the label.*text, x, y.*--label_column",
    ),
    "two labels": (
        {"text": ["a"], "label": [0], "category": [1]},
        {},
        r"Several columns of train could be the label: label, category\. Choose with --label_column",
    ),
    "two texts": (
        {"text": ["a"], "review": ["b"], "label": [1]},
        {},
        r"Several columns of train could be the text: text, review\. .*--text_column.*--text_pair_column",
    ),
    "texts that are no pair": (
        {"text": ["a"], "hypothesis": ["b"], "label": [1]},
        {},
        r"Several columns of train could be the text: text, hypothesis",
    ),
    "misspelt column": (
        {"text": ["a"], "label": [0]},
        {"label_column": "lable"},
        r"Unknown column in train: 'lable'\. Did you mean 'label'\?.*text, label.*--label_column",
    ),
    "label of a wrong type": (
        {"text": ["a"], "label": [pd.Timestamp("2020-01-01")]},
        {},
        r"Column 'label' holds timestamp.*cannot be labels.*--label_column",
    ),
    "text of a wrong type": (
        {"text": [1], "label": [1]},
        {},
        r"Column 'text' holds int64, not text.*--text_column",
    ),
    "separator on numbers": (
        {"text": ["a"], "label": [1]},
        {"label_separator": "|"},
        r"label_separator splits text, but column 'label' holds int64",
    ),
    "separator and a single label": (
        {"text": ["a"], "label": ["1|2"]},
        {"label_separator": "|", "problem_type": SINGLE},
        r"label_separator makes several labels.*contradicts problem_type",
    ),
}


@pytest.mark.parametrize("mistake", COLUMN_MISTAKES)
def test_mistakes_in_columns(tmp_path: Path, mistake: str) -> None:
    rows, settings, message = COLUMN_MISTAKES[mistake]
    to_parquet(pd.DataFrame(rows), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=message) as error:
        load_splits(text_config(tmp_path, **settings))
    assert "\n" not in str(error.value)


def test_other_split_lacks_a_column(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", frame("train"))
    write_csv(tmp_path / "validation.csv", frame("validation").rename(columns={"label": "class"}))
    with pytest.raises(UserError, match=r"Unknown column in validation: 'label'.*text, class.*same columns"):
        load_splits(text_config(tmp_path))


# --- Labels ---------------------------------------------------------------------------------------------------------


def test_labels_sorted_as_strings(tmp_path: Path) -> None:
    """Trap: "0", "1", "10", "2"."""
    numbers = [10, 2, 0, 1] * 3
    for name, labels in (("text", [str(number) for number in numbers]), ("numbers", numbers)):
        rows = pd.DataFrame({"text": [f"t{i}" for i in range(12)], "label": labels})
        (tmp_path / name).mkdir()
        to_parquet(rows, tmp_path / name / "train.parquet")
        assert load_splits(text_config(tmp_path / name)).labels == ("0", "1", "2", "10")
    folder = write_image_folder(tmp_path / "images", classes=("10", "2", "1"), each=3)
    assert load_splits(image_config(folder)).labels == ("1", "2", "10")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["10", "2", "-1", "1"], ["-1", "1", "2", "10"]),
        (["page 10", "page 9", "Page 8"], ["Page 8", "page 9", "page 10"]),
        (["b", "A", "c", "1"], ["1", "A", "b", "c"]),
        (["x2y10", "x2y9", "x10"], ["x2y9", "x2y10", "x10"]),
        (["a", "A"], ["A", "a"]),
    ],
)
def test_natural_order(given: list[str], expected: list[str]) -> None:
    assert natural_order(given) == expected
    assert natural_order(reversed(given)) == expected


def test_class_label_names_are_kept(tmp_path: Path) -> None:
    """Trap: ClassLabel names lost; their order is the data's, not the alphabet's, and unused ones go."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "unused", "ape"])})
    rows = Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 2] * 4}, features=features)
    rows.save_to_disk(tmp_path)
    splits = load_splits(text_config(tmp_path))
    assert splits.labels == ("zebra", "ape")
    assert any("dropped: unused" in note for note in splits.notes)


def test_labels_are_compared_by_name(tmp_path: Path) -> None:
    """The same number may mean another label in another file."""
    for split, order in (("train", ["a", "b"]), ("validation", ["b", "a"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=order)})
        rows = {"text": [f"{order[i % 2]} {split} {i}" for i in range(6)], "label": [i % 2 for i in range(6)]}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    splits = load_splits(text_config(tmp_path))
    for split in ("train", "validation"):
        assert names(splits, split) == [text[0] for text in getattr(splits, split)["text"]]


def test_boolean_labels(tmp_path: Path) -> None:
    to_parquet(pd.DataFrame({"text": list("abcd"), "label": [True, False] * 2}), tmp_path / "train.parquet")
    assert load_splits(text_config(tmp_path, validation_fraction=0.5)).labels == ("False", "True")


def test_csv_cells_stay_text(tmp_path: Path) -> None:
    """Trap: `NA`, `null`, `None` and `007` are texts and labels like any other; only an empty cell is missing."""
    words = ["NA", "null", "None", "nan", "007", "1.0", "true"]
    rows = {"text": [*words, "other"] * 2, "label": ["NA", "None"] * 8}
    splits = load_splits(text_config(write_csv(tmp_path / "train.csv", rows)))
    assert splits.labels == ("NA", "None")
    assert sorted(texts(splits.train) + texts(splits.validation)) == sorted([*words, "other"] * 2)


def test_csv_rows_with_too_many_cells(tmp_path: Path) -> None:
    """Trap: pandas takes the first cell for an index and shifts the others."""
    (tmp_path / "train.csv").write_text("text,label\nhello, world,1\ngood, day,0\n")
    with pytest.raises(UserError, match=r"train\.csv cannot be read: Length of header"):
        load_splits(text_config(tmp_path))


@pytest.mark.parametrize("written", ["csv", "parquet"])
def test_decimal_labels_are_regression(tmp_path: Path, written: str) -> None:
    rows = pd.DataFrame({"text": list("abcd"), "label": [0.5, 1.0, 2.5, 1.0]})
    rows.to_csv(tmp_path / "train.csv", index=False) if written == "csv" else to_parquet(rows, tmp_path / "t.parquet")
    message = r"decimal numbers \(0\.5, 1\.0, 2\.5\)\. To predict numbers, use --task text_regression\."
    with pytest.raises(UserError, match=message):
        load_splits(text_config(tmp_path))
    splits = load_splits(text_config(tmp_path, problem_type=SINGLE))
    assert splits.labels == ("0.5", "1.0", "2.5")


def test_single_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"All examples of train have the label 'ant'.*at least two"):
        load_splits(image_config(write_image_folder(tmp_path, classes=("ant",))))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_labels_that_train_lacks(tmp_path: Path, split: str) -> None:
    write_csv(tmp_path / "train.csv", frame("train"))
    write_csv(tmp_path / f"{split}.csv", {"text": list("abcd"), "label": ["emu", "dog", "yak", "emu"]})
    message = rf"{split} has labels that train lacks.*: emu \(2\), yak \(1\)\. Train has: cat, dog\."
    with pytest.raises(UserError, match=message):
        load_splits(text_config(tmp_path))


MULTI_ROWS: dict[str, tuple[list[Any], Any, dict[str, Any]]] = {
    "class labels": ([[0], [1, 2], [2], []], List(ClassLabel(names=["x", "y", "z"])), {}),
    "text": ([["x"], ["y", "z"], ["z", "z"], []], List(Value("string")), {}),
    "separator": (["x", "y| z", " z ", "|"], Value("string"), {"label_separator": "|"}),
}


@pytest.mark.parametrize("kind", MULTI_ROWS)
def test_several_labels(tmp_path: Path, kind: str) -> None:
    labels, feature, settings = MULTI_ROWS[kind]
    rows = {"text": [f"t{i}" for i in range(12)], "labels": labels * 3}
    features = Features({"text": Value("string"), "labels": feature})
    DatasetDict({split: Dataset.from_dict(rows, features=features) for split in ("train", "test")}).save_to_disk(
        tmp_path
    )
    splits = load_splits(text_config(tmp_path, **settings))
    assert splits.labels == ("x", "y", "z")
    assert splits.problem_type == MULTI
    assert splits.test is not None
    assert splits.test["labels"][:4] == [[1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert splits.train.features["labels"] == List(Value("float32"))
    assert classes.MULTI.counts(splits.test, splits.labels) == [3, 3, 6]
    assert "train: 3 examples with none of the labels." in splits.notes


@pytest.mark.parametrize("kind", [int, float, bool])
def test_multi_hot_lists(tmp_path: Path, kind: type) -> None:
    hot = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]] * 3
    rows = {"text": [f"t{i}" for i in range(12)], "labels": [[kind(value) for value in row] for row in hot]}
    to_parquet(pd.DataFrame(rows), tmp_path / "train.parquet")
    to_parquet(pd.DataFrame(rows), tmp_path / "test.parquet")
    splits = load_splits(text_config(tmp_path))
    assert splits.labels == ("0", "1", "2")
    assert splits.test is not None
    assert splits.test["labels"][:] == hot


def test_lists_of_numbers_are_not_multi_hot(tmp_path: Path) -> None:
    rows = {"text": [f"t{i}" for i in range(12)], "labels": [[0, 1], [2, 10], [0, 2]] * 4}
    to_parquet(pd.DataFrame(rows), tmp_path / "train.parquet")
    assert load_splits(text_config(tmp_path)).labels == ("0", "1", "2", "10")


def test_problem_type_is_the_users(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", frame("train"))
    splits = load_splits(text_config(path, problem_type=MULTI))
    assert splits.problem_type == MULTI
    assert sorted(map(tuple, splits.train["labels"])) == [(0, 1)] * 9 + [(1, 0)] * 9
    rows = {"text": list("abcdef"), "labels": [["a"], ["b"], ["a"], ["b"], ["a"], ["b", "a"]]}
    to_parquet(pd.DataFrame(rows), tmp_path / "lists.parquet")
    one = text_config(tmp_path / "lists.parquet", problem_type=SINGLE)
    with pytest.raises(UserError, match=r"1 of 6 examples has not exactly one label \(rows 6, counted from 1\)"):
        load_splits(one)
    skipping = text_config(tmp_path / "lists.parquet", problem_type=SINGLE, bad_examples="skip")
    assert load_splits(skipping).labels == ("a", "b")


# --- Bad examples ---------------------------------------------------------------------------------------------------


def test_missing_labels(tmp_path: Path) -> None:
    rows = frame("train")
    rows.loc[[2, 7], "label"] = None
    rows.loc[9, "label"] = "  "
    path = write_csv(tmp_path / "train.csv", rows)
    with pytest.raises(UserError, match=r"3 of 20 examples have no label \(rows 3, 8, 10, .*--bad_examples skip"):
        load_splits(text_config(path))
    splits = load_splits(text_config(path, bad_examples="skip"))
    assert len(splits.train) + len(splits.validation) == 17
    assert splits.notes[0] == "train: 3 of 20 examples have no label; skipped."


def test_empty_texts(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", frame("train"))
    rows = frame("test")
    rows.loc[1, "text"] = None
    rows.loc[4, "text"] = " \t "
    write_csv(tmp_path / "test.csv", rows)
    with pytest.raises(UserError, match=r"test: 2 of 6 examples have an empty text \(rows 2, 5, counted from 1\)"):
        load_splits(text_config(tmp_path))
    splits = load_splits(text_config(tmp_path, bad_examples="skip"))
    assert splits.test is not None
    assert len(splits.test) == 4
    assert "test: 2 of 6 examples have an empty text; skipped." in splits.notes


def test_nothing_left_after_skipping(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", frame("train"))
    write_csv(tmp_path / "test.csv", {"text": ["", " "], "label": ["dog", "cat"]})
    with pytest.raises(UserError, match="test: no example is left"):
        load_splits(text_config(tmp_path, bad_examples="skip"))


def damaged(root: Path) -> list[str]:
    """Photographs cut short, empty, no picture at all: what `Image.verify` overlooks among them."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "ant" / "whole.jpg")
    whole = (root / "ant" / "whole.jpg").read_bytes()
    contents = {"cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "page.jpg": b"<html>404</html>"}
    for name, content in contents.items():
        (root / "ant" / name).write_bytes(content)
    return list(contents)


def test_unreadable_images(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train", each=10)
    bad = damaged(tmp_path / "train")
    write_image_folder(tmp_path / "validation")
    with pytest.raises(UserError, match=r"train: 3 of 24 images cannot be read") as error:
        load_splits(image_config(tmp_path))
    assert all(f"train/ant/{name}" in str(error.value) for name in bad)
    assert "truncated" in str(error.value)
    splits = load_splits(image_config(tmp_path, bad_examples="skip"))
    assert classes.SINGLE.counts(splits.train, splits.labels) == [11, 10]
    assert "train: 3 of 24 images cannot be read; skipped" in splits.notes[0]
    for row in splits.train:
        row["image"].load()


def test_missing_image_files_are_listed(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "pictures")
    paths = [f"pictures/{name}/{i}.png" for name in ("ant", "bee") for i in range(7)]
    write_csv(tmp_path / "train.csv", {"image": paths, "label": ["ant"] * 7 + ["bee"] * 7})
    with pytest.raises(UserError, match=r"cannot be read: .*/6\.png \(no such file\)"):
        load_splits(image_config(tmp_path, validation_fraction=0.5))


def test_only_images_in_use_are_checked(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train", each=3)
    damaged(tmp_path / "train")
    write_image_folder(tmp_path / "validation")
    used = [load_or_none(image_config(tmp_path, max_train_examples=3), seed) for seed in range(12)]
    assert any(splits is not None and len(splits.train) == 3 for splits in used)
    assert any(splits is None for splits in used)


def load_or_none(config: Config, seed: int) -> Splits | None:
    try:
        return load_splits(config, seed)
    except UserError:
        return None


# --- Other mistakes -------------------------------------------------------------------------------------------------


def test_path_does_not_exist(tmp_path: Path) -> None:
    write_csv(tmp_path / "reviews.csv", frame("train"))
    with pytest.raises(UserError, match=r"No such dataset: .*review\.csv\. Did you mean .*reviews\.csv"):
        load_splits(text_config(tmp_path / "review.csv"))


@pytest.mark.parametrize("kind", ["csv", "json lines", "parquet"])
def test_empty_table(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    write(frame("train"), tmp_path / f"train{suffix}")
    write(frame("test", 0), tmp_path / f"test{suffix}")
    with pytest.raises(UserError, match=r"The split 'test' of .* is empty.*--test_split"):
        load_splits(text_config(tmp_path))


def test_empty_split_folder(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "train")
    (tmp_path / "test" / "ant").mkdir(parents=True)
    with pytest.raises(UserError, match=r"The split 'test' of .* is empty.*--test_split"):
        load_splits(image_config(tmp_path))


def test_no_training_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "test.csv", frame("test"))
    write_csv(tmp_path / "val.csv", frame("validation"))
    with pytest.raises(UserError, match=r"No training split in .*; it has: test, val\. .*--train_split"):
        load_splits(text_config(tmp_path))


def test_ambiguous_splits(tmp_path: Path) -> None:
    parts = ("train", "validation_matched", "validation_mismatched")
    DatasetDict({name: Dataset.from_pandas(frame("train")) for name in parts}).save_to_disk(tmp_path)
    message = r"could be validation: validation_matched, validation_mismatched\. Choose with --validation_split"
    with pytest.raises(UserError, match=message):
        load_splits(text_config(tmp_path))
    assert len(load_splits(text_config(tmp_path, validation_split="validation_matched")).validation) == 20


def test_unknown_split_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", frame("train"))
    with pytest.raises(UserError, match=r"Unknown validation split 'trian'\. Did you mean 'train'\?"):
        load_splits(text_config(tmp_path, validation_split="trian"))


def test_tables_of_different_kinds(tmp_path: Path) -> None:
    to_csv(frame("train"), tmp_path / "train.csv")
    to_jsonl(frame("train"), tmp_path / "train.jsonl")
    with pytest.raises(UserError, match=r"train\.csv, train\.jsonl: tables of different kinds \(\.csv, \.jsonl\)"):
        load_splits(text_config(tmp_path))


BROKEN = {
    "quote left open": ("train.csv", 'text,label\n"a,1\nb,0\n'),
    "not UTF-8": ("train.csv", "text,label\ncaf\udce9,1\n"),
    "no json": ("train.jsonl", "{text: 1"),
    "no parquet": ("train.parquet", "text"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_tables(tmp_path: Path, kind: str) -> None:
    name, content = BROKEN[kind]
    (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"{name} cannot be read: ") as error:
        load_splits(text_config(tmp_path))
    assert "\n" not in str(error.value)


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "train.docx").write_text("x")
    with pytest.raises(UserError, match=r"train\.docx is not a supported table\. Supported extensions: \.csv"):
        load_splits(text_config(tmp_path / "train.docx"))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no images and no tables \(\.csv.* cannot load it either"):
        load_splits(image_config(tmp_path))


def test_images_for_a_text_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 12 images and no table, but the task is text_classification"):
        load_splits(text_config(write_image_folder(tmp_path)))


def test_images_without_any_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", (1, 1, 1))
    with pytest.raises(UserError, match=r"\(1\.png\) are in no class folders.*metadata\.csv"):
        load_splits(image_config(tmp_path))


# --- Drawing --------------------------------------------------------------------------------------------------------


def unequal(path: Path, **counts: int) -> Path:
    labels = [name for name, count in counts.items() for _ in range(count)]
    return write_csv(path, {"text": [f"{path.stem} {i}" for i in range(len(labels))], "label": labels})


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_held_out_of_train(tmp_path: Path, seed: int) -> None:
    path = unequal(tmp_path / "train.csv", a=700, b=200, c=95, d=3, e=1, f=1)
    splits = load_splits(text_config(path), seed)
    train, validation = set(texts(splits.train)), set(texts(splits.validation))
    assert len(train) + len(validation) == 1000
    assert not train & validation
    assert classes.SINGLE.counts(splits.validation, splits.labels)[:2] == [70, 20]
    assert min(classes.SINGLE.counts(splits.train, splits.labels)) >= 1
    assert classes.SINGLE.counts(splits.validation, splits.labels)[4:] == [0, 0]
    assert splits.notes == (f"validation: 100 of train's 1,000 examples, stratified, seed {seed}.",)


def test_seeds_decide(tmp_path: Path) -> None:
    config = text_config(unequal(tmp_path / "train.csv", a=50, b=50), max_train_examples=30)
    one, same, other = (load_splits(config, seed) for seed in (1, 1, 2))
    for split in ("train", "validation"):
        assert texts(getattr(one, split)) == texts(getattr(same, split))
        assert texts(getattr(one, split)) != texts(getattr(other, split))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_validation_does_not_depend_on_the_size_of_train(tmp_path: Path) -> None:
    path = unequal(tmp_path / "train.csv", a=50, b=150)
    runs = [load_splits(text_config(path, max_train_examples=size)) for size in (10, 40, 160)]
    assert len({tuple(texts(splits.validation)) for splits in runs}) == 1
    # A smaller draw is part of a larger one.
    assert set(texts(runs[0].train)) < set(texts(runs[1].train)) < set(texts(runs[2].train))
    assert [classes.SINGLE.counts(splits.train, splits.labels) for splits in runs] == [[3, 7], [10, 30], [40, 120]]


def test_all_splits_are_limited_in_proportion(tmp_path: Path) -> None:
    unequal(tmp_path / "train.csv", a=60, b=38, c=2)
    unequal(tmp_path / "validation.csv", a=60, b=40)
    unequal(tmp_path / "test.csv", a=10, b=10)
    splits = load_splits(text_config(tmp_path, max_train_examples=10, max_eval_examples=50))
    assert classes.SINGLE.counts(splits.train, splits.labels) == [6, 3, 1]
    assert classes.SINGLE.counts(splits.validation, splits.labels) == [30, 20, 0]
    assert splits.notes == (
        "train: 10 of 100 examples, stratified, seed 0.",
        "validation: 50 of 100 examples, stratified, seed 0.",
        "test: all 20 examples, no more than the 50 requested.",
    )


def test_examples_per_class(tmp_path: Path) -> None:
    path = unequal(tmp_path / "train.csv", a=60, b=40)
    config = text_config(path, examples_per_class=5, val_examples_per_class=2)
    splits = load_splits(config)
    assert classes.SINGLE.counts(splits.train, splits.labels) == [5, 5]
    assert classes.SINGLE.counts(splits.validation, splits.labels) == [2, 2]
    too_many = text_config(path, examples_per_class=50)
    message = r"examples_per_class 50 is more than train has: b has 36 left.*at most --examples_per_class 36"
    with pytest.raises(UserError, match=message):
        load_splits(too_many)
    few = load_splits(text_config(path, val_examples_per_class=5))
    assert classes.SINGLE.counts(few.validation, few.labels) == [5, 4]
    assert any("fewer than the 5 requested examples per class: b has 4; all are used" in note for note in few.notes)


def test_examples_per_class_needs_one_label(tmp_path: Path) -> None:
    path = unequal(tmp_path / "train.csv", a=6, b=4)
    with pytest.raises(UserError, match=r"need one label an example.*--max_train_examples"):
        load_splits(text_config(path, problem_type=MULTI, examples_per_class=2))


def test_nothing_can_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none can be held out for validation"):
        load_splits(text_config(unequal(tmp_path / "train.csv", a=1, b=1, c=1)))


def test_unused_fraction_is_said(tmp_path: Path) -> None:
    unequal(tmp_path / "train.csv", a=6, b=4)
    unequal(tmp_path / "validation.csv", a=6, b=4)
    notes = load_splits(text_config(tmp_path, validation_fraction=0.2)).notes
    assert notes == ("validation_fraction is not used: the data have a validation split.",)


def test_rare_labels_stay_in_train_when_there_are_several(tmp_path: Path) -> None:
    labels = [["common"] + (["rare"] if i == 7 else []) + (["some"] if i % 5 == 0 else []) for i in range(100)]
    rows = pd.DataFrame({"text": [f"t{i}" for i in range(100)], "labels": labels})
    to_parquet(rows, tmp_path / "train.parquet")
    for seed in range(5):
        splits = load_splits(text_config(tmp_path), seed)
        assert classes.MULTI.counts(splits.train, splits.labels) == [90, 1, 18]
        assert classes.MULTI.counts(splits.validation, splits.labels) == [10, 0, 2]


def test_draw_and_share_out() -> None:
    generator = np.random.default_rng(0)
    checked = 0
    for _ in range(200):
        counts = generator.integers(0, 30, generator.integers(1, 8))
        total = int(generator.integers(0, 80))
        sizes = allocate(total, counts, np.zeros_like(counts), counts)
        assert sizes.sum() == min(total, counts.sum())
        assert (sizes <= counts).all()
        if counts.sum() >= total:
            assert (np.abs(sizes - counts * total / max(1, counts.sum())) < 1).all()
        strata = generator.permutation(np.repeat(np.arange(len(counts)), counts))
        drawn = sample_strata(strata, sizes, seed=3)
        assert len(set(drawn)) == len(drawn)
        assert (np.bincount(strata[drawn], minlength=len(counts)) == sizes).all()
        checked += 1
    assert checked == 200


# --- Fingerprint ----------------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "validation", "test")):
        write_image_folder(tmp_path / "one" / split, seed=seed)
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "two")
    folders = tmp_path / "one", tmp_path / "elsewhere" / "two"
    first, copy = (load_splits(image_config(folder)).fingerprint for folder in folders)
    assert first == copy
    seen = {first}
    image = Image.open(folders[1] / "test" / "ant" / "3.png")
    image.putpixel((2, 2), (9, 9, 9))
    image.save(folders[1] / "test" / "ant" / "3.png")
    seen.add(load_splits(image_config(folders[1])).fingerprint)
    (folders[1] / "train" / "ant" / "0.png").rename(folders[1] / "train" / "bee" / "00.png")
    seen.add(load_splits(image_config(folders[1])).fingerprint)
    seen.add(load_splits(image_config(folders[1], max_eval_examples=4)).fingerprint)
    assert len(seen) == 4


def test_fingerprint_of_texts(tmp_path: Path) -> None:
    def fingerprint(name: str, rows: pd.DataFrame, write: Callable[[pd.DataFrame, Path], None] = to_csv) -> str:
        (tmp_path / name).mkdir()
        write(rows, tmp_path / name / ("train.csv" if write is to_csv else "train.jsonl"))
        return load_splits(text_config(tmp_path / name)).fingerprint

    rows = frame("train")
    other_label, other_text = rows.copy(), rows.copy()
    other_label.loc[3, "label"] = "dog"
    other_text.loc[3, "text"] += "!"
    first = fingerprint("a", rows)
    assert fingerprint("b", rows) == first
    assert fingerprint("c", rows, to_jsonl) == first
    assert len({first, fingerprint("d", other_label), fingerprint("e", other_text)}) == 3


# --- Rows to score on -----------------------------------------------------------------------------------------------


def test_rows_for_scoring(tmp_path: Path) -> None:
    for split in SIZES:
        write_csv(tmp_path / f"{split}.csv", frame(split))
    config = text_config("the training data")
    known = ("dog", "emu", "cat")
    for split in ("test", "validation", "train"):
        rows = load_evaluation_split(str(tmp_path), config, known)
        assert (rows.split, rows.labels) == (split, known)
        assert texts(rows.rows) == list(frame(split)["text"])
        assert [known[label] for label in rows.rows["labels"]] == list(frame(split)["label"])
        (tmp_path / f"{split}.csv").unlink()


def test_rows_for_scoring_may_have_one_class(tmp_path: Path) -> None:
    path = unequal(tmp_path / "new.csv", b=4)
    rows = load_evaluation_split(str(path), text_config("x"), ("a", "b"))
    assert rows.rows["labels"][:] == [1, 1, 1, 1]
    assert len(load_evaluation_split(str(path), text_config("x", max_eval_examples=2), ("a", "b")).rows) == 2


def test_rows_for_scoring_have_labels_the_model_does_not_know(tmp_path: Path) -> None:
    path = unequal(tmp_path / "new.csv", a=1, b=4, c=2)
    message = r"train has labels that the model does not know.*: b \(4\), c \(2\)\. The model knows: a, d\."
    with pytest.raises(UserError, match=message):
        load_evaluation_split(str(path), text_config("x"), ("a", "d"))


def test_rows_for_scoring_need_a_known_split(tmp_path: Path) -> None:
    DatasetDict({"one": Dataset.from_pandas(frame("test"))}).save_to_disk(tmp_path)
    with pytest.raises(UserError, match=r"None of the splits of .* \(one\) is called test.*--test_split"):
        load_evaluation_split(str(tmp_path), text_config("x"), ("cat", "dog"))


# --- Memory and results ---------------------------------------------------------------------------------------------


def test_images_are_read_only_when_asked_for(tmp_path: Path) -> None:
    splits = load_splits(image_config(write_image_folder(tmp_path)))
    table = splits.train.with_format("arrow")[:]
    assert set(table["image"].combine_chunks().field("bytes").to_pylist()) == {None}
    assert all(file["filename"].endswith(".arrow") for file in splits.train.cache_files)


def test_labels_are_plain_numbers(tmp_path: Path) -> None:
    splits = load_splits(text_config(write_csv(tmp_path / "train.csv", frame("train"))))
    assert {type(label) for label in splits.train["labels"]} == {int}
    assert Counter(names(splits)) == {"cat": 9, "dog": 9}
    assert json.dumps([splits.labels, splits.notes])
