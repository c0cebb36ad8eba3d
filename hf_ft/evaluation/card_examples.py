"""Examples for the card (`--card_examples`): some drawn at random, and the predictions that are furthest off.

They are the user's data, and the card and `run.json` are published with the model. So they are recorded only if the
user asks for them, with texts shortened, and of images the names of their files alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from hf_ft.records import ExampleRecord, ExamplesRecord
from hf_ft.tables import batches, file_column
from hf_ft.tasks import Judged

if TYPE_CHECKING:
    from hf_ft.training import Run

LONGEST = 200
"""Characters of a text that are shown."""


def choose_examples(
    run: Run, name: str, split: Dataset, outputs: Any, threshold: float | None
) -> ExamplesRecord | None:
    """Choose as many examples and mistakes of a split as the settings allow; None where the target judges none.

    The sample depends on the number of examples only, so runs on the same data show the same ones.
    """
    most, references = run.config.card_examples, split["labels"][:]
    judged = list(run.splits.target.judged(split, outputs, references, run.splits.labels, threshold))
    if not judged:
        return None
    drawn = sorted(random.Random(0).sample(range(len(judged)), min(most, len(judged))))
    off = [place for place, one in enumerate(judged) if not one.right]
    worst = sorted(off, key=lambda place: -judged[place].error)[:most]
    places = sorted({*drawn, *worst})
    inputs = dict(zip(places, _inputs(split.select(places), name, places), strict=True))
    return ExamplesRecord(
        split=name,
        sample=[_record(inputs[place], judged[place]) for place in drawn],
        mistakes=[_record(inputs[place], judged[place]) for place in worst],
        wrong=None if judged[0].right is None else len(off),
    )


def _record(shown: str, one: Judged) -> ExampleRecord:
    return ExampleRecord(shown, _short(one.true), _short(one.predicted), one.probability, one.error)


def _inputs(rows: Dataset, split: str, places: list[int]) -> Iterator[str]:
    """The text of each row, or the name of its file; rows of files without a name are counted from 1."""
    column = file_column(rows)
    if column is not None:  # read without decoding
        paths = [path for batch in batches(rows) for cell in batch[column].to_pylist() for path in [cell["path"]]]
        for place, path in zip(places, paths, strict=True):
            yield Path(path).name if path else f"example {place + 1:,} of {split}"
        return
    for row in rows.remove_columns("labels"):
        cells = [" ".join(cell) if isinstance(cell, list) else str(cell) for cell in row.values()]
        yield " | ".join(map(_short, cells))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
