"""Files sorted into class folders, such as images in `train/cat/` and `train/dog/`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
from datasets import Dataset, Features, Value

from hf_ft.data.readers.raw_split import RawSplit
from hf_ft.data.split_roles import SPLIT_WORDS, split_word
from hf_ft.errors import UserError, shorten
from hf_ft.modalities import FileInput
from hf_ft.settings import DataSettings
from hf_ft.tables import counted, store


def read_class_folders(
    root: Path, files: list[str], kind: FileInput, config: DataSettings, notes: list[str]
) -> dict[str, RawSplit]:
    """Files in `split/class/` or `class/`, at any depth below; `files` are relative to `root`.

    Raises:
        UserError: they are in no class folders.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        top, slash, _ = file.partition("/")
        folders[top if slash else ""].append(file)
    loose = folders.pop("", [])
    words = {top: word for top in folders if (word := split_word(top, config))}
    inner = {file.split("/")[1] for file in files if file.count("/") >= 3}
    if not (loose or words) and len(folders) == 1 and any(split_word(name, config) for name in inner):
        # One folder that is neither a split nor, since split folders with classes are in it, a class: a wrapper.
        (top,) = folders
        return read_class_folders(root / top, [file.partition("/")[2] for file in files], kind, config, notes)
    with_classes = {top for top in words if any(file.count("/") >= 2 for file in folders[top])}
    if not with_classes:
        # A folder called `train` that has files in it, among others that do, is a class: vehicles come in it.
        if len(words) == len(folders):
            _refuse_flat(config, files, kind, words)
        return {"train": _class_table(root, files, kind, 0, "", notes)}
    splits: dict[str, list[str]] = defaultdict(list)
    for top, word in sorted(words.items()):
        if top in with_classes:
            splits[word] += folders[top]
        elif word.lower() in SPLIT_WORDS["test"] and not config.test_split:
            notes.append(f"{top}: not used, since it has no class folders ({counted(len(folders[top]), kind.noun)}).")
        else:
            _refuse_flat(config, folders[top], kind, {top: word})
    sources = {word: _class_table(root, inside, kind, 1, f"{word}: ", notes) for word, inside in splits.items()}
    for name in sorted(item.name for item in root.iterdir() if item.is_dir() and item.name not in folders):
        if word := split_word(name, config):
            sources.setdefault(word, RawSplit(Dataset.from_dict({})))
    if outside := [file for file in files if file.split("/")[0] not in words]:
        _note_outside(outside, kind, "", "split folders", notes)
    return sources


def _note_outside(files: list[str], kind: FileInput, where: str, what: str, notes: list[str]) -> None:
    notes.append(f"{where}Ignored, since outside the {what}: {counted(len(files), kind.noun)} ({shorten(files, 3)}).")


def _refuse_flat(config: DataSettings, files: list[str], kind: FileInput, words: Mapping[str, str]) -> NoReturn:
    """Say how labelled files are laid out; `imagefolder` of `datasets` would make `train` and `test` the labels."""
    where = f"in {', '.join(sorted(words))} of {config.dataset}" if words else f"in {config.dataset}"
    layout = f"train/{kind.layout}" if words else f"{kind.layout} or train/{kind.layout}"
    raise UserError(
        f"The {kind.noun}s {where} ({shorten(files, 2)}) are in no class folders, so they have no labels. Sort them "
        f"into {layout}, or put beside them a metadata.csv with the columns file_name and label."
    )


def _class_table(root: Path, files: list[str], kind: FileInput, level: int, where: str, notes: list[str]) -> RawSplit:
    """A table of files and the class, which is the folder at `level`; files above that level are ignored."""
    inside = [file for file in files if file.count("/") > level]
    if stray := [file for file in files if file.count("/") <= level]:
        _note_outside(stray, kind, where, "class folders", notes)
    paths = pa.array([str(root / file) for file in inside], pa.string())
    classes = pa.array([file.split("/")[level] for file in inside], pa.string())
    feature = kind.feature()
    features = Features({kind.role: feature, "label": Value("string")})
    return RawSplit(store([pa.table({kind.role: feature.cast_storage(paths), "label": classes})], features))
