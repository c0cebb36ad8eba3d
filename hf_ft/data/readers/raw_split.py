"""A split as a reader found it, and how readers report what cannot be read."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from datasets import Dataset, DatasetDict

from hf_ft.errors import UserError, root_cause


@dataclass(frozen=True)
class RawSplit:
    """A split as it was found; paths of files in a table are relative to one of `folders`.

    `commit` is that of the repository on the Hub.
    """

    rows: Dataset
    folders: tuple[Path, ...] = ()
    commit: str | None = None


def raw_splits(loaded: Dataset | DatasetDict, commit: str | None = None) -> dict[str, RawSplit]:
    """The splits of what `datasets` loaded, by name; a data set without splits is `train`."""
    splits = loaded if isinstance(loaded, DatasetDict) else {"train": loaded}
    return {str(name): RawSplit(rows, commit=commit) for name, rows in splits.items()}


def read_or_explain(path: Path, load: Callable[[], Any], what: str = "cannot be read") -> Any:
    """Load data from disk; whatever the readers of `datasets` raise becomes one line and is not logged as well.

    Raises:
        UserError: `path` and `what`, and why.
    """
    logger = datasets.logging.get_logger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas warns when it drops cells
            return load()
    except Exception as error:  # as many kinds as there are formats
        raise UserError(f"{path} {what}: {root_cause(error)}.") from error
    finally:
        logger.setLevel(level)
