"""Tables: CSV, TSV, JSON lines, Parquet and CoNLL files, one by one or in a folder.

They stay on disk, memory-mapped by `datasets`.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value

from hf_ft.data.readers.raw_split import RawSplit, read_or_explain
from hf_ft.data.split_roles import split_word
from hf_ft.errors import UserError, shorten
from hf_ft.settings import DataSettings

TABLES = {
    **{".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"},
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio"), "conll"),
}
"""Extension of a table -> builder of `datasets` that reads it."""


def read_table_folder(root: Path, tables: list[str], config: DataSettings, notes: list[str]) -> dict[str, RawSplit]:
    """Tables grouped into splits by the first word for a split in their path; all are train when none has one."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for table in tables:
        parts = Path(table).with_suffix("").parts
        groups[next((word for part in parts if (word := split_word(part, config))), "")].append(root / table)
    unnamed = groups.pop("", [])
    if groups and unnamed:
        notes.append(f"Not used, since their names say no split: {shorten(file.name for file in unnamed)}.")
    return {name: read_tables(files, root) for name, files in (groups or {"train": unnamed}).items()}


def read_tables(files: list[Path], root: Path) -> RawSplit:
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
        raise UserError(f"{files[0].name} is not a supported table. Supported extensions: {', '.join(TABLES)}.")
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
    return RawSplit(read_or_explain(files[0], load), folders)


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
"""Builder of `datasets` -> its options for a file."""
