"""The short list of pretrained source models behind `hf-ft models`, stored in `models.csv`."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from hf_ft.errors import choose
from hf_ft.tasks import get_task, task_names

FILE = Path(__file__).parent / "models.csv"
SIZES = {"small": 50.0, "base": 150.0, "large": float("inf")}
"""Size -> largest number of parameters in millions, without token embeddings, which cost memory but no time."""


@dataclass(frozen=True)
class Source:
    """A pretrained model on the Hub, or one that needs no Hub.

    Args:
        name: The Hub id, or `builtin:NAME`.
        modality: The kind of input, `image` or `text`.
        parameters: Parameters without the head, in millions.
        embeddings: How many of these are token embeddings, in millions.
        licence: The licence of the weights, as the Hub names it.
        gated: Whether the Hub asks for an agreement, and thus for a token, before it serves the weights.
        reads: The side of its images in pixels, or its longest text in tokens.
        remark: One line for the list.
    """

    name: str
    modality: str
    parameters: float
    embeddings: float
    licence: str
    gated: bool
    reads: int
    remark: str

    @property
    def size(self) -> str:
        """`small`, `base` or `large`, by the parameters that run for each token or patch."""
        return next(name for name, most in SIZES.items() if self.parameters - self.embeddings <= most)


@functools.cache
def catalog() -> tuple[Source, ...]:
    """Return all models in `models.csv`."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Source(
                row["name"],
                row["modality"],
                float(row["parameters"]),
                float(row["embeddings"]),
                row["licence"],
                row["gated"] == "yes",
                int(row["reads"]),
                row["remark"],
            )
            for row in csv.DictReader(file)
        )


def sources_for(task: str | None = None, size: str | None = None) -> list[Source]:
    """Return the models for a task and of a size; None selects all.

    Raises:
        UserError: Unknown task or size.
    """
    if task is not None:
        choose(task, task_names(), "task", "Set it with --task.", option="task")
    if size is not None:
        choose(size, SIZES, "size", "Set it with --size.", option="size")
    modality = get_task(task).modality.name if task else None
    return [source for source in catalog() if modality in (None, source.modality) and size in (None, source.size)]
