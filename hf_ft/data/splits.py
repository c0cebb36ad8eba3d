"""The data of a run: checked splits with the same columns and the same labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasets import Dataset

from hf_ft.data.duplicates import Contents, Duplicates
from hf_ft.environment import CardFacts
from hf_ft.tasks import Target

if TYPE_CHECKING:
    from hf_ft.data.truncation import Truncation


@dataclass(frozen=True)
class Splits:
    """The data of a run, ready for a task's `encode`.

    Each split has the task's input columns under the names of `Task.inputs`, images undecoded until read, and
    `labels`, whose kind is `target`: an int (position in the tuple `labels`); for several labels an example a list of
    0.0 and 1.0 of length `len(labels)`; for a number a float; for a tag per word a list of ints. The tuple `labels`
    names the model's outputs, in natural order ("2" before "10"), or in that of the data's own `ClassLabel`.
    `fingerprint` hashes the content of all that is used, independent of paths. `notes` has a sentence for each change
    and each oddity of the data, `duplicates` says which examples occur more than once, `truncation`
    (once a tokenizer has counted them) which texts are longer than what the model reads. `source_splits` are the names
    of the splits in the data, `commit` and `card` those of a repository on the Hub.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    labels: tuple[str, ...]
    target: Target
    fingerprint: str
    notes: tuple[str, ...]
    duplicates: Duplicates = field(default_factory=Duplicates)
    truncation: tuple[Truncation, ...] | None = None
    source_splits: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    card: CardFacts = field(default_factory=CardFacts)

    @property
    def problem_type(self) -> str:
        """The name of the kind of labels, which `load_model` needs."""
        return self.target.name


@dataclass(frozen=True)
class EvaluationSplit:
    """One split to score a finished model on, with the model's own labels; otherwise like `Splits`.

    `contents` is what its examples are known by.
    """

    rows: Dataset
    split: str
    labels: tuple[str, ...]
    target: Target
    fingerprint: str
    notes: tuple[str, ...]
    contents: Contents
