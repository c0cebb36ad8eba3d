"""Data sets: from whatever the user has to splits with the same columns, the same labels and nothing unreadable.

Every source takes the same road. It is *read* into raw splits; splits get their *roles* (train, validation, test);
*columns* are found and renamed; *labels* are read as names and compared by name; bad examples are found; examples
are *drawn*; and what is left is *checked* (images are decoded) and hashed. Each step that changes the data leaves
a sentence in `Splits.notes`.

Examples stay on disk: tables are memory-mapped, images are files or Arrow bytes and are decoded when read. In memory
are only positions and label numbers, a few bytes per example.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import io
import json
import logging
import os
import re
import uuid
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from hf_ft.config import Config, check_path, is_local
from hf_ft.images import upright_rgb
from hf_ft.lookup import UserError, choose, shorten, split_argument
from hf_ft.tasks import Task, get_task, task_names

IntArray = NDArray[np.int64]

SINGLE, MULTI = "single_label_classification", "multi_label_classification"

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Role of a split -> the names it goes by, alone or followed by `-`, `_`, `.` or a digit (`train-00000-of-00019`)."""

TABLES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""Extension of a table -> builder of `datasets` that reads it."""

IMAGES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""Extensions, in lower case, of the images that Pillow reads; of an animation it is the first picture that counts."""

PAIRS = {"text_pair": "text", "sentence2": "sentence1", "hypothesis": "premise", "question2": "question1"}
"""Usual column of a second text -> the column of the first text that it belongs to."""

TEXT_BATCH, IMAGE_BATCH, IMAGE_WORKERS = 10_000, 64, 4


@dataclass(frozen=True)
class Splits:
    """The data of a run, ready for a task's `encode`.

    Each split has the task's input columns under the names of `Task.inputs`, images undecoded until read, and
    `labels`: an int (position in the tuple `labels`), or for several labels an example a list of 0.0 and 1.0 of
    length `len(labels)`. `labels` is in natural order ("2" before "10"), or in that of the data's own `ClassLabel`.
    `fingerprint` hashes the content of all that is used, whatever its path. `notes` says, a sentence each, what was
    done to the data.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    labels: tuple[str, ...]
    problem_type: str
    fingerprint: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """One split to score a finished model on, with the model's own labels; otherwise like `Splits`."""

    rows: Dataset
    split: str
    labels: tuple[str, ...]
    problem_type: str
    fingerprint: str
    notes: tuple[str, ...]


def load_splits(config: Config, seed: int = 0) -> Splits:
    """Load `config.dataset` for training: find splits, columns and labels, check all examples, draw what was asked for.

    Without a validation split, a stratified part of train is held out, before train itself is reduced, so that it is
    the same at every size of train; the test split never serves as one. See `load_rows` for scoring alone.

    Raises:
        UserError: no such data, no training split, an empty split, columns missing or ambiguous, a single class,
            labels that train lacks, more examples asked for than there are; and, unless `bad_examples` is `skip`,
            missing labels, empty texts and unreadable images.
    """
    notes: list[str] = []
    sources = _read(config, notes)
    roles = _roles(sources, config, notes)
    if "train" not in roles:
        raise UserError(
            f"No training split in {config.dataset}; it has: {', '.join(sources)}. Call it `train`, or name it with "
            "--train_split."
        )
    columns = _find_columns(sources[roles["train"]].rows, "train", config)
    notes += columns.notes
    parts = {}
    for role, name in roles.items():
        part = _part(role, sources[name], columns, config)
        if part is None or (role == "test" and part.labels.all_missing and not config.test_split):
            notes.append("test: not used, since it has no labels.")
        else:
            parts[role] = _without_bad(part, config, notes)
    labels = _label_names(parts["train"], notes)
    parts = {role: _with_labels(part, labels, "train lacks", "Train has") for role, part in parts.items()}
    return _finish(_draw_parts(parts, columns.multi, config, seed, notes), columns, config, notes)


def load_rows(dataset: str, config: Config, labels: Sequence[str], seed: int = 0) -> Rows:
    """Load the split of `dataset` to score on (test, else validation, else train) for a model that knows `labels`.

    Labels are matched by name, so their order in the data does not matter; columns, splits, kind of labels and
    treatment of bad examples are set by `config` as in `load_splits`.

    Raises:
        UserError: as `load_splits`; and labels that the model does not know.
    """
    config = dataclasses.replace(config, dataset=dataset)
    notes: list[str] = []
    sources = _read(config, notes)
    roles = _roles(sources, config, notes)
    role = next((role for role in ("test", "validation", "train") if role in roles), None)
    if role is None:
        raise UserError(
            f"None of the splits of {dataset} ({', '.join(sources)}) is called test, validation or train. Name the "
            "one to score on with --test_split."
        )
    source = sources[roles[role]]
    columns = _find_columns(source.rows, role, config)
    notes += columns.notes
    part = _part(role, source, columns, config)
    assert part is not None, "the columns were found in this very split"
    part = _with_labels(_without_bad(part, config, notes), tuple(labels), "the model does not know", "The model knows")
    part = _limit(part, config.max_eval_examples, seed, notes)
    rows, fingerprint = _checked(part, columns.multi, config, notes)
    return Rows(rows, role, tuple(labels), _problem_type(columns.multi), fingerprint, tuple(notes))


def class_counts(split: Dataset, labels: Sequence[str], problem_type: str) -> list[int]:
    """How many examples of `split` carry each of `labels`; reads the `labels` column only."""
    counts = np.zeros(len(labels), dtype=np.int64)
    for batch in _batches(split.select_columns(["labels"]), TEXT_BATCH):
        values = batch["labels"].combine_chunks()
        if problem_type == MULTI:
            counts += pc.list_flatten(values).to_numpy().reshape(-1, len(labels)).sum(axis=0).astype(np.int64)
        else:
            counts += np.bincount(values.to_numpy(), minlength=len(labels))
    return [int(count) for count in counts]


# --- Reading: from a path or Hub id to raw splits -------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A split as it was found; paths of images in a table are relative to one of `folders`."""

    rows: Dataset
    folders: tuple[Path, ...] = ()


def _read(config: Config, notes: list[str]) -> dict[str, _Source]:
    """The raw splits of the data set by the name they have there."""
    if not is_local(config.dataset):
        return _of_dict(_load_from_hub(config))
    check_path(config.dataset, "dataset")
    return _read_local(Path(config.dataset).expanduser().absolute(), config, notes)


def _of_dict(loaded: Dataset | DatasetDict) -> dict[str, _Source]:
    splits = loaded if isinstance(loaded, DatasetDict) else {"train": loaded}
    return {str(name): _Source(rows) for name, rows in splits.items()}


def _load_from_hub(config: Config) -> DatasetDict:
    name, subset = split_argument(config.dataset)
    try:
        return datasets.load_dataset(name, subset, revision=config.dataset_revision)
    except Exception as error:  # whatever the network, the Hub's client and the builders raise
        raise UserError(
            f"No folder or file is called '{config.dataset}', and the Hub gave no data set '{name}': {_reason(error)}. "
            "Check the name (`id` or `id:config`) and the network, or give a folder or file."
        ) from error


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom, on one short line; builders wrap it into `DatasetGenerationError`."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _read_local(path: Path, config: Config, notes: list[str]) -> dict[str, _Source]:
    if path.is_file():
        return {"train": _read_tables([path], path.parent)}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _of_dict(_explained(path, lambda: datasets.load_from_disk(str(path))))
    if _has_own_layout(path):
        return _of_dict(_explained(path, lambda: datasets.load_dataset(str(path))))
    files = _files(path)
    tables = [file for file in files if Path(file).suffix.lower() in TABLES and not _is_datasets_json(file)]
    images = [file for file in files if Path(file).suffix.lower() in IMAGES]
    # Next to images, a table counts when its name says so: any other may be a list of classes or a log.
    named = [file for file in tables if _is_metadata(file) or _split_word(Path(file).stem, config)]
    wants_images = get_task(config.task).modality == "image"
    if not (tables or images):
        what = f"holds no images and no tables ({', '.join(TABLES)}), and `datasets` cannot load it either"
        return _of_dict(_explained(path, lambda: datasets.load_dataset(str(path)), what))
    if tables and not (wants_images and images and not named):
        return _read_table_folder(path, tables, config, notes)
    if not wants_images:
        what = _count(len(images), "image")
        raise UserError(f"{config.dataset} holds {what} and no table, but the task is {config.task}.")
    _note_other_files(files, images, notes)
    return _read_image_folder(path, images, config, notes)


def _files(root: Path) -> list[str]:
    """All files below `root` as relative paths with `/`, sorted; hidden ones and `__MACOSX` are left out."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(folder, name).relative_to(root).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)


def _is_datasets_json(file: str) -> bool:
    return Path(file).name in ("dataset_info.json", "dataset_infos.json")


def _is_metadata(file: str) -> bool:
    return Path(file).stem.lower() == "metadata"


def _has_own_layout(path: Path) -> bool:
    """Whether the folder has a data set card that says which files make which split; `datasets` then knows better."""
    card = path / "README.md"
    header = re.match(r"---\n(.*?\n)---", card.read_text("utf-8", "replace"), re.DOTALL) if card.exists() else None
    return header is not None and bool(re.search(r"^configs:", header.group(1), re.MULTILINE))


def _split_word(name: str, config: Config) -> str | None:
    """The word for a split that the name of a file or folder is or begins with; the user's own words come first."""
    own = [getattr(config, f"{role}_split") for role in SPLIT_WORDS]
    words = [re.escape(word) for word in own if word] + [word for group in SPLIT_WORDS.values() for word in group]
    match = re.fullmatch(rf"({'|'.join(words)})(?:[-_.\d].*)?", name, flags=re.IGNORECASE)
    return match.group(1) if match else None


def _explained(path: Path, load: Callable[[], Any], what: str = "cannot be read") -> Any:
    """Load data from disk; whatever the readers raise becomes one line."""
    try:
        with _strict_reading():
            return load()
    except Exception as error:  # as many kinds as there are formats
        raise UserError(f"{path} {what}: {_reason(error)}.") from error


@contextlib.contextmanager
def _strict_reading() -> Iterator[None]:
    """Make pandas' warning that it drops cells an error, and keep `datasets` from logging what is raised anyway."""
    logger = datasets.logging.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    finally:
        logger.setLevel(level)


def _read_table_folder(root: Path, tables: list[str], config: Config, notes: list[str]) -> dict[str, _Source]:
    """Tables grouped into splits by the first word for a split in their path; all are train when none has one."""
    tables = [table for table in tables if _is_metadata(table)] or tables
    groups: dict[str, list[Path]] = defaultdict(list)
    for table in tables:
        parts = [*Path(table).parent.parts, Path(table).stem]
        word = next((word for part in parts if (word := _split_word(part, config))), "")
        groups[word].append(root / table)
    unnamed = groups.pop("", [])
    if groups and unnamed:
        notes.append(f"Not used, since their names say no split: {shorten(file.name for file in unnamed)}.")
    return {name: _read_tables(files, root) for name, files in (groups or {"train": unnamed}).items()}


def _read_tables(files: list[Path], root: Path) -> _Source:
    """Tables of one kind as one split."""
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise UserError(
            f"{shorten(file.name for file in files)}: tables of different kinds ({', '.join(suffixes)}) would make one "
            "split. Keep one kind, or name the files train, validation and test."
        )
    if suffixes[0] not in TABLES:
        raise UserError(f"{files[0].name} is no table that can be read. Known extensions: {', '.join(TABLES)}.")
    builder = TABLES[suffixes[0]]
    folders = tuple(dict.fromkeys([*(file.parent for file in files), root]))

    def load() -> Dataset:
        # The paths are patterns to `datasets`: a folder called `data[1]` would be read as `data1`.
        patterns = [glob.escape(str(file)) for file in files if _may_have_rows(file)]
        if not patterns:
            return Dataset.from_dict({})
        options = _csv_options(files[0]) if builder == "csv" else {}
        prepared = datasets.load_dataset_builder(builder, data_files=patterns, **options)
        prepared.download_and_prepare()
        # `as_dataset` refuses a split without rows; its name is needed for a better message.
        is_empty = prepared.info.splits["train"].num_examples == 0
        return Dataset.from_dict({}) if is_empty else prepared.as_dataset("train")

    return _Source(_explained(files[0], load), folders)


def _may_have_rows(file: Path) -> bool:
    """Whether a table is worth reading: `datasets` stumbles over empty files and Parquet tables without rows."""
    if file.suffix.lower() == ".parquet":
        return int(pq.read_metadata(file).num_rows) > 0
    return file.stat().st_size > 0


def _csv_options(file: Path) -> dict[str, Any]:
    """How to read a CSV file so that each cell stays the text that was written.

    pandas would turn `NA`, `null` and `None` into missing cells, `007` into 7, and a column of whole numbers with one
    cell missing into decimals. Only an empty cell is missing here.
    """
    if file.suffix.lower() == ".tsv":
        separator = "\t"
    else:
        with open(file, encoding="utf-8-sig") as stream:
            separator = max(",;\t", key=stream.readline().count)
    # `index_col=False`: pandas would take the first of too many cells for an index and shift all the others.
    options = {"sep": separator, "encoding": "utf-8-sig", "index_col": False}
    names = [str(name) for name in pd.read_csv(file, nrows=0, **options).columns]
    features = Features({name: Value("string") for name in names})
    return {**options, "features": features, "keep_default_na": False, "na_values": [""]}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _note_other_files(files: list[str], images: list[str], notes: list[str]) -> None:
    kinds = Counter(Path(file).suffix.lower() or "without extension" for file in sorted(set(files) - set(images)))
    if kinds:
        listed = shorten(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        notes.append(f"Ignored, since not an image: {_count(kinds.total(), 'file')} ({listed}).")


def _read_image_folder(root: Path, images: list[str], config: Config, notes: list[str]) -> dict[str, _Source]:
    """Images in `split/class/` or `class/`, at any depth below; `images` are relative to `root`."""
    tops = {image.split("/")[0] for image in images}
    words = {top: word for top in tops if (word := _split_word(top, config))}
    if _is_wrapper(tops, images, config):
        (top,) = tops
        return _read_image_folder(root / top, [image.split("/", 1)[1] for image in images], config, notes)
    with_classes = {top for image in images if image.count("/") >= 2 and (top := image.split("/")[0]) in words}
    if not with_classes:
        # A folder called `train` that has images in it, among others that do, is a class: vehicles come in it.
        if not any("/" in image for image in images) or set(words) >= tops - set(images):
            _refuse_flat(config, images, words)
        return {"train": _image_table(root, images, 0, "", notes)}
    sources = {}
    for top, word in sorted(words.items()):
        inside = [image for image in images if image.startswith(f"{top}/")]
        if top in with_classes:
            sources[word] = _image_table(root, inside, 1, f"{word}: ", notes)
        elif word in SPLIT_WORDS["test"] and not config.test_split:
            notes.append(f"{top}: not used, since it has no class folders ({_count(len(inside), 'image')}).")
        else:
            _refuse_flat(config, inside, {top: word})
    empty = [item.name for item in root.iterdir() if item.is_dir() and item.name not in tops]
    sources |= {word: _Source(Dataset.from_dict({})) for name in empty if (word := _split_word(name, config))}
    if outside := [image for image in images if image.split("/")[0] not in words]:
        notes.append(
            f"Ignored, since outside the split folders: {_count(len(outside), 'image')} ({shorten(outside, 3)})."
        )
    return sources


def _is_wrapper(tops: set[str], images: list[str], config: Config) -> bool:
    """Whether all is in one folder that is neither a split nor a class, since split folders with classes are in it."""
    if len(tops) > 1 or any(_split_word(top, config) for top in tops):
        return False
    return any(image.count("/") >= 3 and _split_word(image.split("/")[1], config) for image in images)


def _refuse_flat(config: Config, images: list[str], words: Mapping[str, str]) -> NoReturn:
    """Say how labelled images are laid out; `imagefolder` of `datasets` would make `train` and `test` the labels."""
    where = f"in {', '.join(sorted(words))} of {config.dataset}" if words else f"in {config.dataset}"
    layout = "train/CLASS/*.jpg" if words else "CLASS/*.jpg or train/CLASS/*.jpg"
    raise UserError(
        f"The images {where} ({shorten(images, 2)}) are in no class folders, so they have no labels. Sort them into "
        f"{layout}, or put beside them a metadata.csv with the columns file_name and label."
    )


def _image_table(root: Path, images: list[str], level: int, where: str, notes: list[str]) -> _Source:
    """A table of image files and the class, which is the folder at `level`; files above that level are left out."""
    inside = [image for image in images if image.count("/") > level]
    if len(inside) < len(images):
        stray = [image for image in images if image.count("/") <= level]
        what = f"{_count(len(stray), 'image')} ({shorten(stray, 3)})"
        notes.append(f"{where}Ignored, since outside the class folders: {what}.")
    paths = pa.array([str(root / image) for image in inside], pa.string())
    classes = pa.array([image.split("/")[level] for image in inside], pa.string())
    features = Features({"image": datasets.Image(), "label": Value("string")})
    table = pa.table({"image": datasets.Image().cast_storage(paths), "label": classes})
    return _Source(_store([table], features))


def _store(tables: Iterable[pa.Table], features: Features) -> Dataset:
    """Write tables into the cache of `datasets`, under a name made from their content, and map them from there.

    The same content is the same file, so repeated runs and parallel processes share it.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE, "hf_ft")
    folder.mkdir(parents=True, exist_ok=True)
    schema = features.arrow_schema
    part = folder / f"{uuid.uuid4().hex}.part"
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    with part.open("rb") as file:
        target = folder / f"{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}.arrow"
    if target.exists():
        part.unlink()
    else:
        part.replace(target)
    return Dataset.from_file(str(target))


# --- Roles: which split is train, which validation, which test ------------------------------------------------------


def _roles(sources: Mapping[str, _Source], config: Config, notes: list[str]) -> dict[str, str]:
    """Role -> name of the split that plays it; roles nobody plays are left out.

    A name that is exactly a word for the role goes before one that begins with it (`validation_matched`).
    """
    named = {role: getattr(config, f"{role}_split") for role in SPLIT_WORDS}
    roles = {role: choose(name, sources, f"{role} split") for role, name in named.items() if name}
    for role in [role for role in SPLIT_WORDS if role not in roles]:
        words = SPLIT_WORDS[role]
        free = [name for name in sources if name not in roles.values()]
        exact = [name for name in free if name.lower() in words]
        found = exact or [name for name in free if re.match(rf"(?:{'|'.join(words)})[-_.\d]", name, re.IGNORECASE)]
        if len(found) > 1:
            raise UserError(
                f"Several splits of {config.dataset} could be {role}: {', '.join(found)}. Choose with --{role}_split."
            )
        if found:
            roles[role] = found[0]
    for role, name in roles.items():
        if len(sources[name].rows) == 0:
            raise UserError(
                f"The split '{name}' of {config.dataset} is empty. Fill it, remove it, or choose another with "
                f"--{role}_split."
            )
    if unused := [name for name in sources if name not in roles.values()]:
        notes.append(f"Splits not used: {', '.join(unused)}.")
    return {role: roles[role] for role in SPLIT_WORDS if role in roles}


# --- Columns: which hold the inputs and which the label -------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """Where inputs and labels are: `inputs` maps each role to a column; `multi_hot` is a list of 0 and 1 per row."""

    inputs: Mapping[str, str]
    label: str
    multi: bool
    multi_hot: bool
    notes: tuple[str, ...]


def _find_columns(rows: Dataset, split: str, config: Config) -> _Columns:
    """The columns to use, from the user's word, from their usual names, or because only one can be meant."""
    task, features, notes = get_task(config.task), rows.features, []
    wanted = {role: name for role in task.inputs if (name := getattr(config, f"{role}_column"))}
    for role, name in [*wanted.items(), ("label", config.label_column)]:
        if name:
            choose(name, features, f"column in {split}:", f"Set --{role}_column to one of these.")
    label = config.label_column or _usual_label(features, task, split, set(wanted.values()))
    inputs = dict(wanted)
    first = next(iter(task.inputs))
    if first not in inputs:
        inputs = _usual_inputs(features, task, split, wanted, label) or {}
        if first not in inputs:
            inputs = {first: _only(first, features, {*wanted.values(), label}, task, split), **wanted}
            notes.append(f"The {first} is column '{inputs[first]}', the only one that can be it.")
    if label is None:
        label = _only("label", features, set(inputs.values()), task, split)
        notes.append(f"The label is column '{label}', the only one that can be it.")
    if unused := [name for name in features if name not in (*inputs.values(), label)]:
        notes.append(f"Columns not used: {shorten(unused, 10)}.")
    for role, name in inputs.items():
        _check_input(role, name, features[name])
    multi, multi_hot = _kind_of_labels(rows, label, config)
    return _Columns(
        {role: inputs[role] for role in task.inputs if role in inputs}, label, multi, multi_hot, tuple(notes)
    )


def _called(features: Features, usual: Sequence[str], taken: Iterable[str | None]) -> list[str]:
    """The columns with one of the usual names in any case, in the order of those names."""
    taken = set(taken)
    return [name for word in usual for name in features if name.lower() == word and name not in taken]


def _usual_label(features: Features, task: Task, split: str, taken: set[str]) -> str | None:
    found = _called(features, task.label_names, taken)
    if len(found) > 1:
        raise _ambiguous("label", found, split)
    return found[0] if found else None


def _usual_inputs(
    features: Features, task: Task, split: str, wanted: Mapping[str, str], label: str | None
) -> dict[str, str] | None:
    """Inputs by their usual names: one column, or two that belong together; None when there is none."""
    taken = {*wanted.values(), label}
    found = {role: _called(features, usual, taken) for role, usual in task.inputs.items() if role not in wanted}
    first, *others = found
    every = [name for names in found.values() for name in names]
    if len(every) == 1 and found[first]:
        return {first: every[0], **wanted}
    if len(every) == 2 and len(found[first]) == 1 and others:
        one, two = found[first][0], every[1]
        if PAIRS.get(two.lower()) == one.lower():
            return {first: one, others[0]: two, **wanted}
    if every:
        raise _ambiguous(first, every, split)
    return None


def _ambiguous(role: str, found: Sequence[str], split: str) -> UserError:
    pair = " (and --text_pair_column for a second text)" if role == "text" else ""
    return UserError(
        f"Several columns of {split} could be the {role}: {', '.join(found)}. Choose with --{role}_column{pair}."
    )


def _only(role: str, features: Features, taken: set[str | None], task: Task, split: str) -> str:
    """The one column that has the right type for a role and no other use.

    Raises:
        UserError: there is none, or more than one.
    """
    fits = {"image": _holds_images, "label": _holds_labels}.get(role, _holds_text)
    left = [name for name, feature in features.items() if name not in taken and fits(feature)]
    if role == "label":
        left = [name for name in left if isinstance(_element(features[name]), ClassLabel)] or left
    if len(left) == 1:
        return str(left[0])
    usual = task.label_names if role == "label" else task.inputs[role]
    raise UserError(
        f"No column of {split} is called as a {role} usually is ({shorten(usual, 8)}). Its columns: "
        f"{', '.join(features) or 'none'}. Name the right one with --{role}_column."
    )


def _element(feature: Any) -> Any:
    return feature.feature if isinstance(feature, List | LargeList) else feature


def _dtype(feature: Any) -> str:
    kind = type(feature).__name__
    # `Json` is what `datasets` makes of a column of JSON lines whose values are of several types.
    return "a mix of types" if kind == "Json" else str(getattr(feature, "dtype", kind))


def _holds_text(feature: Any) -> bool:
    return isinstance(feature, Value) and _dtype(feature) in ("string", "large_string")


def _holds_images(feature: Any) -> bool:
    """Encoded images: the `Image` feature, or what it is stored as when a file does not say so."""
    is_struct = isinstance(feature, dict) and "bytes" in feature
    return isinstance(feature, datasets.Image) or is_struct or _dtype(feature) in ("binary", "large_binary")


def _holds_labels(feature: Any) -> bool:
    element = _element(feature)
    return isinstance(element, ClassLabel | Value) and _dtype(element).startswith(
        ("int", "uint", "bool", "float", "double", "string", "large_string")
    )


def _check_input(role: str, name: str, feature: Any) -> None:
    # A column of images may also hold the paths of files.
    right = _holds_text(feature) or (role == "image" and _holds_images(feature))
    if not right:
        what = "images or paths of images" if role == "image" else "text"
        raise UserError(f"Column '{name}' holds {_dtype(feature)}, not {what}. Choose another with --{role}_column.")


def _kind_of_labels(rows: Dataset, column: str, config: Config) -> tuple[bool, bool]:
    """Whether a row may have several labels, and whether they come as a list of 0 and 1, one place per label."""
    feature = rows.features[column]
    if not _holds_labels(feature):
        raise UserError(
            f"Column '{column}' holds {_dtype(feature)}, which is no label: give whole numbers, text, or lists of "
            "them. Choose another column with --label_column."
        )
    separated = config.label_separator is not None
    if separated and not _holds_text(feature):
        raise UserError(f"label_separator splits text, but column '{column}' holds {_dtype(feature)}. Leave it out.")
    if separated and config.problem_type == SINGLE:
        raise UserError(f"label_separator makes several labels of one cell, which contradicts problem_type {SINGLE}.")
    is_list = isinstance(feature, List | LargeList)
    multi = config.problem_type == MULTI if config.problem_type else is_list or separated
    return multi, is_list and _is_multi_hot(rows, column)


def _is_multi_hot(rows: Dataset, column: str) -> bool:
    """Whether the lists are places to fill, not label numbers: all of one length above 2, and nothing but 0 and 1."""
    element = _element(rows.features[column])
    if isinstance(element, ClassLabel) or _holds_text(element):
        return False
    lengths: set[int] = set()
    for batch in _batches(rows.select_columns([column]), TEXT_BATCH):
        lists = batch[column].combine_chunks().drop_null()
        lengths |= set(pc.list_value_length(lists).to_pylist())
        if len(lengths) > 1 or not set(pc.unique(pc.list_flatten(lists)).to_pylist()) <= {0, 1}:
            return False
    return all(length > 2 for length in lengths)


def _problem_type(multi: bool) -> str:
    return MULTI if multi else SINGLE


# --- Labels: read as names, compared as names -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Labels:
    """The labels of a split as pairs: row `rows[i]` carries the label `names[codes[i]]`; `rows` ascends.

    `counts` is the number of labels of each row, -1 where they are missing. `declared` is the order that the data
    themselves give to labels, empty when they give none.
    """

    names: tuple[str, ...]
    rows: IntArray
    codes: IntArray
    counts: IntArray
    declared: tuple[str, ...]

    @property
    def all_missing(self) -> bool:
        """Whether no row has a label, as in the published test split of a contest."""
        return bool((self.counts < 0).all())

    def per_name(self, used: IntArray) -> IntArray:
        """How many of the rows `used` carry each name."""
        mask = np.zeros(len(self.counts), dtype=bool)
        mask[used] = True
        counts: IntArray = np.bincount(self.codes[mask[self.rows]], minlength=len(self.names))
        return counts

    def strata(self) -> IntArray:
        """For each row the rarest of its labels, `len(names)` for rows without; with one label a row, that label."""
        order = np.argsort(np.bincount(self.codes, minlength=len(self.names)), kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        rarest = np.full(len(self.counts), len(order), dtype=np.int64)
        np.minimum.at(rarest, self.rows, rank[self.codes])
        return np.append(order, len(order))[rarest]


def _read_labels(rows: Dataset, columns: _Columns, config: Config) -> _Labels:
    feature = rows.features[columns.label]
    names_of = _names_of(feature, columns, config.label_separator)
    numbers: dict[str, int] = {}
    owners, codes, counts = array("q"), array("q"), array("q")
    for batch in _batches(rows.select_columns([columns.label]), TEXT_BATCH):
        for value in batch[columns.label].to_pylist():
            names = None if value is None else names_of(value)
            codes.extend(numbers.setdefault(name, len(numbers)) for name in names or ())
            owners.extend([len(counts)] * len(names or ()))
            counts.append(-1 if names is None else len(names))
    element = _element(feature)
    declared = tuple(element.names or ()) if isinstance(element, ClassLabel) else ()
    return _Labels(tuple(numbers), _int_array(owners), _int_array(codes), _int_array(counts), declared)


def _int_array(values: array[int]) -> IntArray:
    return np.array(values, dtype=np.int64)


def _names_of(feature: Any, columns: _Columns, separator: str | None) -> Callable[[Any], list[str] | None]:
    """A function from a cell to the names of its labels, without repeats; None when the label is missing."""
    one = _name_of(_element(feature))

    def of_several(values: Iterable[Any]) -> list[str]:
        return list(dict.fromkeys(name for value in values if value is not None and (name := one(value)) is not None))

    def of_one(value: Any) -> list[str] | None:
        name = one(value)
        return None if name is None else [name]

    if columns.multi_hot:
        return lambda cell: [str(place) for place, value in enumerate(cell) if value]
    if separator is not None:
        return lambda cell: of_several(cell.split(separator))
    return of_several if isinstance(feature, List | LargeList) else of_one


def _name_of(feature: Any) -> Callable[[Any], str | None]:
    if isinstance(feature, ClassLabel):
        # The Hub writes -1 for labels that are kept secret.
        return lambda value: feature.int2str(value) if value >= 0 else None
    if _holds_text(feature):
        return lambda value: value.strip() or None
    return lambda value: str(value) if value == value else None  # NaN is the one number that differs from itself


_INTEGER = re.compile(r"[-+]?\d+")
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as people do: "2" before "10", "page 9" before "page 10", whatever the case."""
    names = list(names)
    if all(_INTEGER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))

    def key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
        chunks = re.split(r"(\d+)", name.casefold())
        return [(not chunk.isdecimal(), int(chunk) if chunk.isdecimal() else 0, chunk) for chunk in chunks], name

    return sorted(names, key=key)


def _label_names(train: _Part, notes: list[str]) -> tuple[str, ...]:
    """The labels that train has, in the order that the data declare, else in natural order."""
    labels = train.labels
    counts = dict(zip(labels.names, labels.per_name(train.used), strict=True))
    present = [name for name in labels.names if counts[name]]
    if len(present) < 2:
        what = f"All examples of train have the label '{present[0]}'" if present else "No example of train has a label"
        raise UserError(f"{what}: there is nothing to tell apart. Give data with at least two labels.")
    if absent := [name for name in labels.declared if not counts.get(name)]:
        notes.append(f"Labels that the data declare but train has no example of are left out: {shorten(absent)}.")
    return tuple(name for name in labels.declared or natural_order(present) if counts.get(name))


# --- Parts: a split on its way --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A split on its way: its input columns under their final names, its labels, and the rows in use, ascending."""

    role: str
    inputs: Dataset
    labels: _Labels
    used: IntArray


def _part(role: str, source: _Source, columns: _Columns, config: Config) -> _Part | None:
    """Take inputs and labels out of a split; None for a test split that has no label column.

    Raises:
        UserError: the split lacks a column, or its labels are decimal numbers.
    """
    rows = source.rows
    if role == "test" and columns.label not in rows.features and not config.test_split:
        return None
    for option, name in [*columns.inputs.items(), ("label", columns.label)]:
        choose(name, rows.features, f"column in {role}:", f"All splits need the same columns (see --{option}_column).")
    labels = _read_labels(rows, columns, config)
    if not config.problem_type and not labels.declared and not columns.multi_hot:
        _refuse_decimals(labels.names, columns.label)
    inputs = rows.select_columns(list(columns.inputs.values()))
    inputs = inputs.rename_columns({name: key for key, name in columns.inputs.items() if name != key})
    if "image" in columns.inputs:
        inputs = _as_images(inputs, source.folders)
    return _Part(role, inputs, labels, np.arange(len(rows)))


def _refuse_decimals(names: Sequence[str], column: str) -> None:
    if names and all(map(_DECIMAL.fullmatch, names)) and not all(map(_INTEGER.fullmatch, names)):
        raise UserError(
            f"Column '{column}' holds decimal numbers ({shorten(names, 3)}): regression is not a task yet (tasks: "
            f"{', '.join(task_names())}). If they are classes, write whole numbers, or say --problem_type {SINGLE}."
        )


def _as_images(inputs: Dataset, folders: Sequence[Path]) -> Dataset:
    """Make the column `image` one of `datasets.Image`, its relative paths absolute."""
    feature = inputs.features["image"]
    if isinstance(feature, datasets.Image):
        return inputs.cast_column("image", datasets.Image(mode=feature.mode))
    if not _holds_text(feature):
        return inputs.cast_column("image", datasets.Image())

    def absolute(path: str | None) -> str | None:
        places = [str(folder / path) for folder in folders] if path else [path]
        return next((place for place in places if place and os.path.exists(place)), places[0] if places else path)

    paths = (map(absolute, batch["image"].to_pylist()) for batch in _batches(inputs, TEXT_BATCH))
    image = datasets.Image()
    tables = (pa.table({"image": image.cast_storage(pa.array(list(batch), pa.string()))}) for batch in paths)
    return _store(tables, Features({"image": image}))


def _batches(rows: Dataset, size: int) -> Iterator[pa.Table]:
    """The rows as Arrow tables, nothing decoded."""
    yield from rows.with_format("arrow").iter(size)


def _without_bad(part: _Part, config: Config, notes: list[str]) -> _Part:
    """Leave out, or report, rows whose label is missing or whose text is blank. Images are left to `_checked`."""
    counts = part.labels.counts
    part = _drop(part, np.flatnonzero(counts < 0), "no label", config, notes)
    if config.problem_type == SINGLE:
        part = _drop(part, np.flatnonzero((counts == 0) | (counts > 1)), "not exactly one label", config, notes)
    elif none := int((counts == 0).sum()):
        notes.append(f"{part.role}: {_count(none, 'example')} with none of the labels.")
    for name in part.inputs.column_names:
        if name != "image":
            part = _drop(part, _blank_rows(part.inputs, name), f"an empty {name}", config, notes)
    return part


def _blank_rows(inputs: Dataset, name: str) -> IntArray:
    masks = []
    for batch in _batches(inputs.select_columns([name]), TEXT_BATCH):
        lengths = pc.utf8_length(pc.utf8_trim_whitespace(batch[name])).fill_null(0)
        masks.append(pc.equal(lengths, 0).to_numpy())
    return np.flatnonzero(np.concatenate(masks))


def _drop(part: _Part, bad: IntArray, what: str, config: Config, notes: list[str]) -> _Part:
    bad = np.intersect1d(bad, part.used)
    if len(bad) == 0:
        return part
    have = f"{len(bad):,} of {len(part.used):,} examples {'has' if len(bad) == 1 else 'have'} {what}"
    if config.bad_examples != "skip":
        rows = shorten(int(row) + 1 for row in bad)
        raise UserError(
            f"{part.role}: {have} (rows {rows}, counted from 1). Mend them, or leave them out with --bad_examples skip."
        )
    notes.append(f"{part.role}: {have}; left out.")
    _check_some_left(part.role, len(part.used) - len(bad))
    return dataclasses.replace(part, used=np.setdiff1d(part.used, bad))


def _check_some_left(role: str, count: int) -> None:
    if count == 0:
        raise UserError(f"{role}: no example is left after leaving out bad ones. Mend the data.")


def _with_labels(part: _Part, names: tuple[str, ...], unknown: str, known: str) -> _Part:
    """Number the labels by their place in `names`.

    Raises:
        UserError: rows in use have labels outside `names`; lists them with counts.
    """
    labels = part.labels
    place = {name: number for number, name in enumerate(names)}
    counts = labels.per_name(part.used)
    strange = {
        name: int(count) for name, count in zip(labels.names, counts, strict=True) if count and name not in place
    }
    if strange:
        listed = shorten((f"{name} ({strange[name]:,})" for name in natural_order(strange)), 10)
        raise UserError(
            f"{part.role} has labels that {unknown}, with their number of examples: {listed}. {known}: "
            f"{shorten(names, 20)}."
        )
    # Labels of rows that are not in use may be unknown; their pairs go.
    numbers = np.array([place.get(name, -1) for name in labels.names], dtype=np.int64)
    codes = numbers[labels.codes]
    fresh = dataclasses.replace(labels, names=names, rows=labels.rows[codes >= 0], codes=codes[codes >= 0])
    return dataclasses.replace(part, labels=fresh)


# --- Drawing: which examples are used -------------------------------------------------------------------------------


def draw(strata: IntArray, sizes: IntArray, seed: int) -> IntArray:
    """Positions of `sizes[k]` random members of each stratum k, ascending; `strata` has the stratum of each member.

    All drawing of examples is done here. With one seed, a smaller draw is part of a larger one, so that runs on more
    data see what runs on less data saw.
    """
    generator = np.random.default_rng(seed)
    members = np.split(np.argsort(strata, kind="stable"), np.cumsum(np.bincount(strata, minlength=len(sizes)))[:-1])
    drawn = [generator.permutation(group)[:size] for group, size in zip(members, sizes, strict=True)]
    return np.sort(np.concatenate(drawn))


def share_out(total: int, counts: IntArray, least: IntArray, most: IntArray) -> IntArray:
    """Split `total` over strata in proportion to `counts`, within `least` and `most`; the sum comes as near as it can.

    Whole numbers by largest remainder.
    """
    exact = counts * (total / max(1, counts.sum()))
    sizes: IntArray = np.clip(np.floor(exact).astype(np.int64), least, most)
    while sizes.sum() < min(total, most.sum()):
        sizes[np.argmax(np.where(sizes < most, exact - sizes, -np.inf))] += 1
    while sizes.sum() > max(total, least.sum()):
        sizes[np.argmin(np.where(sizes > least, exact - sizes, np.inf))] -= 1
    return sizes


def _draw_parts(parts: dict[str, _Part], multi: bool, config: Config, seed: int, notes: list[str]) -> dict[str, _Part]:
    """Hold out a validation part if there is none, then reduce each split to what was asked for, in that order."""
    if multi and (config.examples_per_class or config.val_examples_per_class):
        raise UserError(
            "examples_per_class and val_examples_per_class need one label an example, and these data have several. "
            "Use --max_train_examples and --max_eval_examples."
        )
    if "validation" not in parts:
        parts = parts | _hold_out(parts["train"], config.validation_fraction, seed, notes)
    elif "validation_fraction" in config.given:
        notes.append("validation_fraction is not used: there is a validation split.")
    train, validation = parts["train"], parts["validation"]
    if config.examples_per_class:
        train = _per_class(train, config.examples_per_class, seed, notes, strict=True)
    if config.val_examples_per_class:
        validation = _per_class(validation, config.val_examples_per_class, seed, notes, strict=False)
    drawn = {"train": _limit(train, config.max_train_examples, seed, notes)}
    for part in (validation, parts.get("test")):
        if part is not None:
            drawn[part.role] = _limit(part, config.max_eval_examples, seed, notes)
    return drawn


def _hold_out(train: _Part, fraction: float, seed: int, notes: list[str]) -> dict[str, _Part]:
    """Part train into train and validation; the last example of a class always stays in train."""
    strata = train.labels.strata()[train.used]
    counts = np.bincount(strata, minlength=len(train.labels.names) + 1)
    most = np.maximum(counts - 1, 0)
    sizes = share_out(max(1, round(fraction * len(strata))), counts, np.zeros_like(counts), most)
    if sizes.sum() == 0:
        raise UserError(
            f"train has {_count(len(strata), 'example')}, one of each class at most, so none can be held out for "
            "validation. Give a validation split or more examples."
        )
    held = train.used[draw(strata, sizes, seed)]
    notes.append(f"validation: {len(held):,} of train's {len(strata):,} examples, stratified, seed {seed}.")
    return {
        "train": dataclasses.replace(train, used=np.setdiff1d(train.used, held)),
        "validation": dataclasses.replace(train, role="validation", used=held),
    }


def _limit(part: _Part, total: int | None, seed: int, notes: list[str]) -> _Part:
    """At most `total` examples in the proportions of the classes, at least one of each if that is possible."""
    if total is None:
        return part
    if total >= len(part.used):
        notes.append(f"{part.role}: all {len(part.used):,} examples, no more than the {total:,} asked for.")
        return part
    strata = part.labels.strata()[part.used]
    counts = np.bincount(strata, minlength=len(part.labels.names) + 1)
    least = np.minimum(counts, 1) if total >= np.count_nonzero(counts) else np.zeros_like(counts)
    used = part.used[draw(strata, share_out(total, counts, least, counts), seed)]
    notes.append(f"{part.role}: {len(used):,} of {len(part.used):,} examples, stratified, seed {seed}.")
    return dataclasses.replace(part, used=used)


def _per_class(part: _Part, each: int, seed: int, notes: list[str], strict: bool) -> _Part:
    """`each` examples of every class; a class with fewer is an error when `strict`, otherwise a note."""
    counts = part.labels.per_name(part.used)
    few = {name: int(count) for name, count in zip(part.labels.names, counts, strict=True) if count < each}
    listed = shorten((f"{name} has {count:,}" for name, count in few.items()), 10)
    if few and strict:
        raise UserError(
            f"examples_per_class {each:,} is more than {part.role} has: {listed} left for training. Set at most "
            f"--examples_per_class {min(few.values())}, or give more examples of these classes."
        )
    if few:
        notes.append(f"{part.role}: fewer than the {each:,} examples a class asked for: {listed}; all are used.")
    strata = part.labels.strata()[part.used]
    used = part.used[draw(strata, np.append(np.minimum(counts, each), 0), seed)]
    notes.append(f"{part.role}: {len(used):,} of {len(part.used):,} examples, {each:,} of each class, seed {seed}.")
    return dataclasses.replace(part, used=used)


# --- Checking: every example that is used is read once --------------------------------------------------------------


def _finish(parts: Mapping[str, _Part], columns: _Columns, config: Config, notes: list[str]) -> Splits:
    """Check each part, hash it, and put the splits together."""
    labels = parts["train"].labels.names
    checked = {role: _checked(part, columns.multi, config, notes) for role, part in parts.items()}
    rows = {role: rows for role, (rows, _) in checked.items()}
    counts = class_counts(rows["train"], labels, _problem_type(columns.multi))
    if absent := [name for name, count in zip(labels, counts, strict=True) if count == 0]:
        notes.append(f"train: no example of these labels is left: {shorten(absent, 10)}.")
    hashes = {role: digest for role, (_, digest) in checked.items()}
    fingerprint = hashlib.sha256(json.dumps([labels, hashes], sort_keys=True).encode()).hexdigest()[:32]
    return Splits(
        rows["train"],
        rows["validation"],
        rows.get("test"),
        labels,
        _problem_type(columns.multi),
        fingerprint,
        tuple(notes),
    )


def _checked(part: _Part, multi: bool, config: Config, notes: list[str]) -> tuple[Dataset, str]:
    """The rows in use with their labels, and the hash of their content; images that cannot be read are left out.

    Raises:
        UserError: lists the images that cannot be read, unless `bad_examples` is `skip`.
    """
    labels = _label_column(part.labels, multi)
    # Labels come first because `map` writes its cache beside the first file of a data set: that must be our own
    # cache, not the user's folder.
    rows = datasets.concatenate_datasets([labels, part.inputs], axis=1).select(part.used)
    problems, digest = _scan(rows, part.role)
    if not problems:
        return rows, digest
    listed = shorten((f"{name} ({problem})" for name, problem in problems.values()), 5)
    cannot = f"{part.role}: {len(problems):,} of {len(rows):,} images cannot be read"
    if config.bad_examples != "skip":
        raise UserError(f"{cannot}: {listed}. Mend them, or leave them out with --bad_examples skip.")
    notes.append(f"{cannot}; left out: {listed}.")
    _check_some_left(part.role, len(rows) - len(problems))
    return rows.select(np.setdiff1d(np.arange(len(rows)), list(problems))), digest


def _label_column(labels: _Labels, multi: bool) -> Dataset:
    """The column `labels` on disk: int64, or a list of float32 per row. Rows without a label get null."""
    count, width = len(labels.counts), len(labels.names)
    kind = List(Value("float32")) if multi else Value("int64")

    def tables() -> Iterator[pa.Table]:
        for start in range(0, count, TEXT_BATCH):
            size = min(TEXT_BATCH, count - start)
            first, last = np.searchsorted(labels.rows, [start, start + size])
            rows, codes = labels.rows[first:last] - start, labels.codes[first:last]
            if multi:
                hot = np.zeros((size, width), dtype=np.float32)
                hot[rows, codes] = 1.0
                column = pa.ListArray.from_arrays(np.arange(size + 1, dtype=np.int32) * width, hot.ravel())
            else:
                single = np.full(size, -1, dtype=np.int64)
                single[rows] = codes
                column = pa.array(single, mask=single < 0)
            yield pa.table({"labels": column})

    return _store(tables(), Features({"labels": kind}))


def _scan(rows: Dataset, role: str) -> tuple[dict[int, tuple[str, str]], str]:
    """Read every row once: which cannot be read (row -> name and reason), and the hash of those that can.

    Images are hashed as encoded and decoded completely, since a header alone does not show that the rest is missing.
    """
    is_image = "image" in rows.features
    problems: dict[int, tuple[str, str]] = {}
    hasher = hashlib.sha256()
    with ThreadPoolExecutor(IMAGE_WORKERS) as pool:
        # `disable=None` shows the bar on a terminal only; texts take no time worth one.
        bar = tqdm(
            _contents(rows, pool if is_image else None),
            desc=f"Checking images of {role}",
            total=len(rows),
            unit="image",
            disable=None if is_image else True,
        )
        for row, (inputs, label, content) in enumerate(bar):
            if isinstance(content, str):
                problems[row] = (_image_name(inputs["image"], row), content)
            else:
                hasher.update(content + label)
    return problems, hasher.hexdigest()


def _contents(rows: Dataset, pool: ThreadPoolExecutor | None) -> Iterator[tuple[Mapping[str, Any], bytes, bytes | str]]:
    """For each row its inputs, its labels as bytes, and its content as bytes or why it cannot be read.

    With a pool, the inputs are images and read in its threads; they hold a few dozen images at a time.
    """
    for batch in _batches(rows, IMAGE_BATCH if pool else TEXT_BATCH):
        labels = batch["labels"].combine_chunks()
        flat = pc.list_flatten(labels) if isinstance(labels, pa.ListArray) else labels
        per_row = flat.to_numpy().reshape(len(labels), -1)
        inputs = batch.drop_columns(["labels"]).to_pylist()
        contents = pool.map(_read_image, inputs) if pool else map(_read_text, inputs)
        yield from zip(inputs, (label.tobytes() for label in per_row), contents, strict=True)


def _read_text(row: Mapping[str, str]) -> bytes:
    return json.dumps(list(row.values())).encode()


def _read_image(row: Mapping[str, Any]) -> bytes | str:
    """Hash an encoded image and decode it as training will: the hash, or why it cannot be read."""
    image = row["image"]
    if image is None:
        return "missing"
    try:
        encoded = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        with Image.open(io.BytesIO(encoded)) as opened:
            opened.load()
            upright_rgb(opened)
    except Exception as error:  # decoders of damaged files raise about everything
        return "no such file" if isinstance(error, FileNotFoundError) else _reason(error)[:100]
    return hashlib.sha256(encoded).digest()


def _image_name(image: Mapping[str, Any] | None, row: int) -> str:
    path = (image or {}).get("path")
    return "/".join(Path(path).parts[-3:]) if path else f"row {row + 1}"
