"""Files and folders on this machine: their content decides which reader takes them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import datasets

from hf_ft.data.readers.class_folders import read_class_folders
from hf_ft.data.readers.raw_split import RawSplit, raw_splits, read_or_explain
from hf_ft.data.readers.table_files import TABLES, read_table_folder, read_tables
from hf_ft.data.split_roles import split_word
from hf_ft.errors import UserError, shorten
from hf_ft.modalities import FileInput
from hf_ft.settings import DataSettings, check_path
from hf_ft.storage import check_names, files_below, readable
from hf_ft.tables import counted
from hf_ft.tasks import Task, modalities

OWN_FILES = ("dataset_info.json", "dataset_infos.json")
"""What `datasets` writes about a data set, which is not data."""


def read_local(config: DataSettings, task: Task, notes: list[str]) -> dict[str, RawSplit]:
    """The splits of a file or folder.

    Raises:
        UserError: nothing is there, it cannot be read, or its layout says no labels.
    """
    check_path(config.dataset, "dataset")
    path = Path(config.dataset).expanduser().absolute()
    check_names([str(path)])
    if path.is_file():
        return {"train": read_tables([path], path.parent)}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return raw_splits(read_or_explain(path, lambda: datasets.load_from_disk(str(path))))
    if has_own_layout(path):
        return raw_splits(read_or_explain(path, lambda: datasets.load_dataset(str(path))))
    return read_folder(path, config, task, notes)


def has_own_layout(path: Path) -> bool:
    """Whether the folder has a data set card that says which files make which split; `datasets` then knows better."""
    card = path / "README.md"
    header = re.match(r"---\n(.*?\n)---", card.read_text("utf-8", "replace"), re.DOTALL) if card.exists() else None
    return header is not None and bool(re.search(r"^configs:", header.group(1), re.MULTILINE))


def read_folder(path: Path, config: DataSettings, task: Task, notes: list[str]) -> dict[str, RawSplit]:
    """The splits of a folder: its tables, or the files of the task's modality in class folders.

    Raises:
        UserError: it holds neither, or files of another modality alone.
    """
    kinds = [modality.files for modality in modalities() if modality.files is not None]
    extensions = {extension: kind for kind in kinds for extension in kind.extensions}
    found = files_below(path)
    # A broken link in the place of an input or a table is a missing example, and is reported as such.
    lost = [name for name in found.broken if Path(name).suffix.lower() in (*extensions, *TABLES)]
    found.broken = [name for name in found.broken if name not in lost]
    notes += found.notes()
    files = sorted([*found.files, *lost])
    tables = [file for file in files if Path(file).suffix.lower() in TABLES and Path(file).name not in OWN_FILES]
    inputs = {kind: [file for file in files if Path(file).suffix.lower() in kind.extensions] for kind in kinds}
    check_names(str(path / file) for file in (*tables, *(file for listed in inputs.values() for file in listed)))
    kind = task.modality.files
    if kind is not None and inputs[kind]:
        # Next to such files, a table counts when its name says so: any other may be a list of classes or a log.
        metadata = [table for table in tables if Path(table).stem.lower() == "metadata"]
        named = any(split_word(Path(table).stem, config) for table in tables)
        tables = metadata or (tables if named else [])
        if not tables:
            _note_ignored(set(files) - set(inputs[kind]), kind, notes)
            return read_class_folders(path, inputs[kind], kind, config, notes)
    if tables:
        return read_table_folder(path, tables, config, notes)
    for other, listed in inputs.items():
        if listed:
            what = counted(len(listed), other.noun)
            raise UserError(f"{config.dataset} holds {what} and no table, but the task is {config.task}.")
    nouns = ", ".join(f"{kind.noun}s" for kind in kinds)
    what = f"holds no {nouns} and no tables ({', '.join(TABLES)}), and `datasets` cannot load it either"
    return raw_splits(read_or_explain(path, lambda: datasets.load_dataset(str(path)), what))


def _note_ignored(files: set[str], kind: FileInput, notes: list[str]) -> None:
    counts = Counter(Path(file).suffix.lower() or "without extension" for file in files)
    if counts:
        listed = shorten(f"{readable(extension)} {count}" for extension, count in sorted(counts.items()))
        article = "an" if kind.noun[0] in "aeiou" else "a"
        notes.append(f"Ignored, since not {article} {kind.noun}: {counted(counts.total(), 'file')} ({listed}).")
