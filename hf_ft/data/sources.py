"""Sources: finding and reading files, folders and Hub data sets into raw splits, and which split plays which role.

Examples stay on disk: tables are memory-mapped, images are files or Arrow bytes and are decoded when read.
"""

from __future__ import annotations

import glob
import hashlib
import io
import logging
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Value
from PIL import Image, UnidentifiedImageError

from hf_ft.errors import UserError, choose, shorten, split_argument
from hf_ft.modalities import upright_rgb
from hf_ft.settings import Config, check_path, is_local
from hf_ft.storage import check_names, files_below, readable
from hf_ft.tables import batches, counted, holds_text, store
from hf_ft.tasks import get_task

# Asked for local files, too, `load_dataset` counts a download by a request to a cloud host; read when it is called.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Role of a split -> the names it goes by, alone or followed by `-`, `_`, `.` or a digit (`train-00000-of-00019`)."""

TABLES = {
    **{".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"},
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), "conll"),
}
"""Extension of a table -> builder of `datasets` that reads it."""

IMAGES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""Extensions, in lower case, of the images that Pillow reads; of an animation it is the first picture that counts."""


@dataclass(frozen=True)
class Source:
    """A split as it was found; paths of images in a table are relative to one of `folders`."""

    rows: Dataset
    folders: tuple[Path, ...] = ()


def read_sources(config: Config, notes: list[str]) -> dict[str, Source]:
    """The raw splits of `config.dataset` by the name they have there.

    Raises:
        UserError: nothing is there, it cannot be read, or its layout says no labels.
    """
    if not is_local(config.dataset):
        return _of_dict(_load_from_hub(config))
    check_path(config.dataset, "dataset")
    path = Path(config.dataset).expanduser().absolute()
    check_names([str(path)])
    if path.is_file():
        return {"train": read_tables([path], path.parent)}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _of_dict(_explained(path, lambda: datasets.load_from_disk(str(path))))
    if _has_own_layout(path):
        return _of_dict(_explained(path, lambda: datasets.load_dataset(str(path))))
    return _read_folder(path, config, notes)


def assign_roles(sources: Mapping[str, Source], config: Config, notes: list[str]) -> dict[str, str]:
    """Role (train, validation, test) -> name of the split that plays it; roles nobody plays are left out.

    A name that is exactly a word for the role goes before one that begins with it (`validation_matched`).

    Raises:
        UserError: no split of the name that the user gave, several that could be meant, or an empty one.
    """
    named = {role: getattr(config, f"{role}_split") for role in SPLIT_WORDS}
    roles = {
        role: choose(name, sources, f"{role} split", option=f"{role}_split") for role, name in named.items() if name
    }
    for role in [role for role in SPLIT_WORDS if role not in roles]:
        words = SPLIT_WORDS[role]
        free = [name for name in sources if name not in roles.values()]
        exact = [name for name in free if name.lower() in words]
        found = exact or [name for name in free if _first_word(name, words)]
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


def _first_word(name: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `name` is or begins with, as it is written in `name`."""
    match = re.fullmatch(rf"({'|'.join(map(re.escape, words))})(?:[-_.\d].*)?", name, flags=re.IGNORECASE)
    return match.group(1) if match else None


def _split_word(name: str, config: Config) -> str | None:
    """The word for a split that the name of a file or folder is or begins with; the user's own words come first."""
    own = [getattr(config, f"{role}_split") for role in SPLIT_WORDS]
    return _first_word(
        name, [word for word in own if word] + [word for group in SPLIT_WORDS.values() for word in group]
    )


# --- The Hub, and what `datasets` reads by itself -------------------------------------------------------------------


def _of_dict(loaded: Dataset | DatasetDict) -> dict[str, Source]:
    splits = loaded if isinstance(loaded, DatasetDict) else {"train": loaded}
    return {str(name): Source(rows) for name, rows in splits.items()}


def _load_from_hub(config: Config) -> DatasetDict:
    name, subset = split_argument(config.dataset)
    try:
        return datasets.load_dataset(name, subset, revision=config.dataset_revision)
    except Exception as error:  # whatever the network, the Hub's client and the builders raise
        raise UserError(
            f"No folder or file is called '{config.dataset}', and the Hub gave no data set '{name}': {reason(error)}. "
            "Check the name (`id` or `id:config`) and the network, or give a folder or file."
        ) from error


def reason(error: BaseException) -> str:
    """What went wrong at the bottom, on one short line; builders wrap it into `DatasetGenerationError`."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _has_own_layout(path: Path) -> bool:
    """Whether the folder has a data set card that says which files make which split; `datasets` then knows better."""
    card = path / "README.md"
    header = re.match(r"---\n(.*?\n)---", card.read_text("utf-8", "replace"), re.DOTALL) if card.exists() else None
    return header is not None and bool(re.search(r"^configs:", header.group(1), re.MULTILINE))


def _explained(path: Path, load: Callable[[], Any], what: str = "cannot be read") -> Any:
    """Load data from disk; whatever the readers raise becomes one line, and is not logged besides."""
    logger = datasets.logging.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas warns when it drops cells
            return load()
    except Exception as error:  # as many kinds as there are formats
        raise UserError(f"{path} {what}: {reason(error)}.") from error
    finally:
        logger.setLevel(level)


# --- Folders --------------------------------------------------------------------------------------------------------


def _read_folder(path: Path, config: Config, notes: list[str]) -> dict[str, Source]:
    found = files_below(path)
    # A broken link in the place of an image or a table is an example that is missing, and told as such.
    lost = [name for name in found.broken if Path(name).suffix.lower() in (*IMAGES, *TABLES)]
    found.broken = [name for name in found.broken if name not in lost]
    notes += found.notes()
    files = sorted([*found.files, *lost])
    own = ("dataset_info.json", "dataset_infos.json")  # what `datasets` writes about a data set
    tables = [file for file in files if Path(file).suffix.lower() in TABLES and Path(file).name not in own]
    images = [file for file in files if Path(file).suffix.lower() in IMAGES]
    check_names(str(path / file) for file in (*tables, *images))
    if images and get_task(config.task).modality == "image":
        # Next to images, a table counts when its name says so: any other may be a list of classes or a log.
        metadata = [table for table in tables if Path(table).stem.lower() == "metadata"]
        named = any(_split_word(Path(table).stem, config) for table in tables)
        tables = metadata or (tables if named else [])
        if not tables:
            kinds = Counter(Path(file).suffix.lower() or "without extension" for file in set(files) - set(images))
            if kinds:
                listed = shorten(f"{readable(kind)} {count}" for kind, count in sorted(kinds.items()))
                notes.append(f"Ignored, since not an image: {counted(kinds.total(), 'file')} ({listed}).")
            return _read_image_folder(path, images, config, notes)
    if tables:
        return _read_table_folder(path, tables, config, notes)
    if images:
        what = counted(len(images), "image")
        raise UserError(f"{config.dataset} holds {what} and no table, but the task is {config.task}.")
    what = f"holds no images and no tables ({', '.join(TABLES)}), and `datasets` cannot load it either"
    return _of_dict(_explained(path, lambda: datasets.load_dataset(str(path)), what))


# --- Tables ---------------------------------------------------------------------------------------------------------


def _read_table_folder(root: Path, tables: list[str], config: Config, notes: list[str]) -> dict[str, Source]:
    """Tables grouped into splits by the first word for a split in their path; all are train when none has one."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for table in tables:
        parts = Path(table).with_suffix("").parts
        groups[next((word for part in parts if (word := _split_word(part, config))), "")].append(root / table)
    unnamed = groups.pop("", [])
    if groups and unnamed:
        notes.append(f"Not used, since their names say no split: {shorten(file.name for file in unnamed)}.")
    return {name: read_tables(files, root) for name, files in (groups or {"train": unnamed}).items()}


def read_tables(files: list[Path], root: Path) -> Source:
    """Tables of one kind as one split; `root` is the folder of the data set.

    Raises:
        UserError: unknown or mixed kinds, or a broken file.
    """
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise UserError(
            f"{shorten(file.name for file in files)}: tables of different kinds ({', '.join(suffixes)}) would make one "
            "split. Keep one kind, or name the files train, validation and test."
        )
    if suffixes[0] not in TABLES:
        raise UserError(f"{files[0].name} is no table that can be read. Known extensions: {', '.join(TABLES)}.")
    builder = TABLES[suffixes[0]]

    def load() -> Dataset:
        # The paths are patterns to `datasets`: a folder called `data[1]` would be read as `data1`.
        patterns = [glob.escape(str(file)) for file in files if _may_have_rows(file)]
        if not patterns:
            return Dataset.from_dict({})
        options = OPTIONS[builder](files[0]) if builder in OPTIONS else {}
        prepared = datasets.load_dataset_builder(builder, data_files=patterns, **options)
        prepared.download_and_prepare()
        # `as_dataset` refuses a split without rows; its name is needed for a better message.
        is_empty = prepared.info.splits["train"].num_examples == 0
        return Dataset.from_dict({}) if is_empty else prepared.as_dataset("train")

    folders = tuple(dict.fromkeys([*(file.parent for file in files), root]))
    return Source(_explained(files[0], load), folders)


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


def _conll_options(file: Path) -> dict[str, Any]:
    """How to read a CoNLL file, one word a line: its first column holds the words, its last the tags.

    Columns are parted by tabs where the first line has one, else by blanks.
    """
    with open(file, encoding="utf-8") as stream:
        line = next((line for line in stream if line.strip() and not line.startswith("-DOCSTART-")), "").rstrip("\r\n")
    delimiter = "\t" if "\t" in line else None
    count = len(line.split(delimiter))
    if count < 2:
        raise UserError(f"{file.name} has one column only. A CoNLL file has a word and its tag on each line.")
    between = [f"column_{i}" for i in range(2, count)]
    return {"column_names": ["tokens", *between, "tags"], "delimiter": delimiter}


OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {"csv": _csv_options, "conll": _conll_options}
"""Builder of `datasets` -> what it is told about a file."""

# --- Images ---------------------------------------------------------------------------------------------------------


def _read_image_folder(root: Path, images: list[str], config: Config, notes: list[str]) -> dict[str, Source]:
    """Images in `split/class/` or `class/`, at any depth below; `images` are relative to `root`."""
    folders: dict[str, list[str]] = defaultdict(list)
    for image in images:
        top, slash, _ = image.partition("/")
        folders[top if slash else ""].append(image)
    loose = folders.pop("", [])
    words = {top: word for top in folders if (word := _split_word(top, config))}
    inner = {image.split("/")[1] for image in images if image.count("/") >= 3}
    if not (loose or words) and len(folders) == 1 and any(_split_word(name, config) for name in inner):
        # One folder that is neither a split nor, since split folders with classes are in it, a class: a wrapper.
        (top,) = folders
        return _read_image_folder(root / top, [image.partition("/")[2] for image in images], config, notes)
    with_classes = {top for top in words if any(image.count("/") >= 2 for image in folders[top])}
    if not with_classes:
        # A folder called `train` that has images in it, among others that do, is a class: vehicles come in it.
        if len(words) == len(folders):
            _refuse_flat(config, images, words)
        return {"train": _image_table(root, images, 0, "", notes)}
    splits: dict[str, list[str]] = defaultdict(list)
    for top, word in sorted(words.items()):
        if top in with_classes:
            splits[word] += folders[top]
        elif word.lower() in SPLIT_WORDS["test"] and not config.test_split:
            notes.append(f"{top}: not used, since it has no class folders ({counted(len(folders[top]), 'image')}).")
        else:
            _refuse_flat(config, folders[top], {top: word})
    sources = {word: _image_table(root, inside, 1, f"{word}: ", notes) for word, inside in splits.items()}
    for name in sorted(item.name for item in root.iterdir() if item.is_dir() and item.name not in folders):
        if word := _split_word(name, config):
            sources.setdefault(word, Source(Dataset.from_dict({})))
    if outside := [image for image in images if image.split("/")[0] not in words]:
        _note_outside(outside, "", "split folders", notes)
    return sources


def _note_outside(images: list[str], where: str, what: str, notes: list[str]) -> None:
    notes.append(f"{where}Ignored, since outside the {what}: {counted(len(images), 'image')} ({shorten(images, 3)}).")


def _refuse_flat(config: Config, images: list[str], words: Mapping[str, str]) -> NoReturn:
    """Say how labelled images are laid out; `imagefolder` of `datasets` would make `train` and `test` the labels."""
    where = f"in {', '.join(sorted(words))} of {config.dataset}" if words else f"in {config.dataset}"
    layout = "train/CLASS/*.jpg" if words else "CLASS/*.jpg or train/CLASS/*.jpg"
    raise UserError(
        f"The images {where} ({shorten(images, 2)}) are in no class folders, so they have no labels. Sort them into "
        f"{layout}, or put beside them a metadata.csv with the columns file_name and label."
    )


def _image_table(root: Path, images: list[str], level: int, where: str, notes: list[str]) -> Source:
    """A table of image files and the class, which is the folder at `level`; files above that level are left out."""
    inside = [image for image in images if image.count("/") > level]
    if stray := [image for image in images if image.count("/") <= level]:
        _note_outside(stray, where, "class folders", notes)
    paths = pa.array([str(root / image) for image in inside], pa.string())
    classes = pa.array([image.split("/")[level] for image in inside], pa.string())
    features = Features({"image": datasets.Image(), "label": Value("string")})
    return Source(store([pa.table({"image": datasets.Image().cast_storage(paths), "label": classes})], features))


def as_images(inputs: Dataset, folders: Sequence[Path]) -> Dataset:
    """Make the column `image` one of `datasets.Image`, its relative paths absolute."""
    feature, image = inputs.features["image"], datasets.Image()
    if isinstance(feature, datasets.Image):
        return inputs.cast_column("image", datasets.Image(mode=feature.mode))
    if not holds_text(feature):
        return inputs.cast_column("image", image)

    def absolute(path: str | None) -> str | None:
        places = [str(folder / path) for folder in folders] if path else []
        return next((place for place in places if os.path.exists(place)), places[0] if places else path)

    paths = ([absolute(path) for path in batch["image"].to_pylist()] for batch in batches(inputs))
    tables = (pa.table({"image": image.cast_storage(pa.array(batch, pa.string()))}) for batch in paths)
    return store(tables, Features({"image": image}))


class ImageHashes(NamedTuple):
    """What an image is known by: a hash of its file, and one of the pixels that training sees."""

    encoded: bytes
    pixels: bytes


def read_image(row: Mapping[str, Any]) -> ImageHashes | str:
    """Hash an encoded image and decode it as training will: the hashes, or why it cannot be read."""
    image = row["image"]
    if image is None:
        return "missing"
    try:
        encoded = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        with Image.open(io.BytesIO(encoded)) as opened:
            opened.load()
            image = upright_rgb(opened)
    except FileNotFoundError:
        return "a broken link" if os.path.islink(image["path"]) else "no such file"
    except UnidentifiedImageError:  # its message is the address of an object in memory
        return "no image" if encoded else "an empty file"
    except Exception as error:  # decoders of damaged files raise about everything
        return reason(error)[:100]
    pixels = hashlib.sha256(f"{image.width} {image.height} ".encode())
    pixels.update(image.tobytes())
    return ImageHashes(hashlib.sha256(encoded).digest(), pixels.digest())
