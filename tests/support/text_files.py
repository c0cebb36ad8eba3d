"""Texts with labels as files, one for each split."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_splits(folder: Path, splits: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """Write the texts and labels of each split as `SPLIT.csv` into a new folder, and return it."""
    folder.mkdir()
    for split, examples in splits.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            rows.writerows(examples)
    return str(folder)
