"""A short list of pretrained source models: `hf-ft models`. The facts stand in `models.csv`."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from hf_ft.errors import choose
from hf_ft.tasks import get_task, task_names

FILE = Path(__file__).parent / "models.csv"
SIZES = {"small": 50.0, "base": 150.0, "large": float("inf")}
"""Size -> most million parameters, not counting the table of token embeddings, which takes room and no time."""


@dataclass(frozen=True)
class Source:
    """A pretrained model on the Hub: `parameters` and the `embeddings` of tokens among them are in millions.

    Parameters are those below the head. `reads` is the size of its pictures in pixels or its longest text in tokens.
    """

    name: str
    modality: str
    parameters: float
    embeddings: float
    licence: str
    reads: int
    remark: str

    @property
    def size(self) -> str:
        """Small, base or large, by what runs for each token or patch."""
        return next(name for name, most in SIZES.items() if self.parameters - self.embeddings <= most)


@functools.cache
def catalog() -> tuple[Source, ...]:
    """All models of the list, as `models.csv` has them."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Source(
                row["name"],
                row["modality"],
                float(row["parameters"]),
                float(row["embeddings"]),
                row["licence"],
                int(row["reads"]),
                row["remark"],
            )
            for row in csv.DictReader(file)
        )


def sources_for(task: str | None = None, size: str | None = None) -> list[Source]:
    """The models that fit a task and are of a size.

    Raises:
        UserError: no such task or size.
    """
    if task is not None:
        choose(task, task_names(), "task", "Set it with --task.", option="task")
    if size is not None:
        choose(size, SIZES, "size", "Set it with --size.", option="size")
    modality = get_task(task).modality.name if task else None
    return [source for source in catalog() if modality in (None, source.modality) and size in (None, source.size)]
