"""Data in memory: data sets of `datasets`, data frames and lists of dictionaries as raw splits.

From here on they are treated as files are: roles, columns, labels, checks, sampling, a fingerprint of the content.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
from datasets import Dataset, Features
from PIL import Image

from hf_ft.data.readers.raw_split import RawSplit
from hf_ft.errors import UserError, first_line
from hf_ft.modalities import upright_rgb

TAKES = "Pass a datasets.Dataset or DatasetDict, a pandas.DataFrame, a list of dictionaries, or a dictionary of splits."


def read_memory(data: Any) -> dict[str, RawSplit]:
    """The splits of data in memory, by name; data that are no dictionary of splits are `train`.

    Raises:
        UserError: data of another kind, or rows that do not go together.
    """
    if isinstance(data, Mapping):  # also a DatasetDict
        if not data:
            raise _refused(data, "there are no splits in it")
        return {str(name): RawSplit(_rows(part, f"split '{name}'")) for name, part in data.items()}
    return {"train": RawSplit(_rows(data, "dataset="))}


def _rows(data: Any, what: str) -> Dataset:
    if isinstance(data, Dataset):
        return data.with_format(None)
    if isinstance(data, pd.DataFrame):
        data = _whole_numbers(data)
        data = data.astype({name: object for name in data.columns if isinstance(data[name].dtype, pd.CategoricalDtype)})
        records = data.astype(object).where(data.notna(), None).to_dict("records") if _holds_objects(data) else None
        return _of_records(records, what) if records is not None else _explained(what, lambda: _of_frame(data))
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise _refused(data)
    return _of_records(list(data), what)


def _whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with whole numbers as such: pandas makes decimals of a column of them in which a cell is missing."""
    decimal = [name for name in frame.columns if pd.api.types.is_float_dtype(frame[name]) and frame[name].isna().any()]
    return frame.astype({name: "Int64" for name in decimal if (frame[name].dropna() % 1 == 0).all()})


def _holds_objects(frame: pd.DataFrame) -> bool:
    """Whether a frame holds images, which Arrow does not know."""
    return any(frame[name].map(lambda cell: isinstance(cell, Image.Image)).any() for name in frame.columns)


def _of_frame(frame: pd.DataFrame) -> Dataset:
    return Dataset.from_pandas(frame, preserve_index=False)


def _of_records(records: list[Any], what: str) -> Dataset:
    wrong = next((row for row in records if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise _refused(wrong, f"a row of {what} is an object of type {type(wrong).__name__}")
    names = list(dict.fromkeys(str(name) for row in records for name in row))
    columns = {name: [row.get(name) for row in records] for name in names}
    images = [name for name, cells in columns.items() if any(isinstance(cell, Image.Image) for cell in cells)]
    columns |= {name: [_encoded(cell) for cell in columns[name]] for name in images}
    rows = _explained(what, lambda: Dataset(pa.table({name: _array(cells) for name, cells in columns.items()})))
    features = Features({name: datasets.Image() if name in images else kind for name, kind in rows.features.items()})
    return rows.cast(features) if images else rows


def _array(cells: list[Any]) -> pa.Array:
    return pa.array([cell.tolist() if hasattr(cell, "tolist") else cell for cell in cells])


def _encoded(image: Any) -> Any:
    """An image as the bytes of a PNG: its own file may have another content by now, and JPEG would lose some."""
    if not isinstance(image, Image.Image):
        return image
    stream = io.BytesIO()
    upright_rgb(image).save(stream, "png", compress_level=1)
    return {"bytes": stream.getvalue(), "path": None}


def _explained(what: str, make: Any) -> Dataset:
    try:
        made: Dataset = make()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        hint = "Each column needs values of one type."
        raise UserError(first_line(f"{what} cannot be read", error), option="dataset", hint=hint) from error
    return made


def _refused(data: Any, why: str = "") -> UserError:
    problem = why or f"dataset= got an object of type {type(data).__name__}"
    return UserError(f"{problem}.", option="dataset", value=type(data).__name__, hint=TAKES)
