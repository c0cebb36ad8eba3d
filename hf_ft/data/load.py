"""Data sets: from whatever the user has to splits with the same columns, the same labels and nothing unreadable.

Every source takes the same road. It is *read* into raw splits and splits get their *roles* (`sources`); *columns* are
found, *labels* are read and bad examples are found (`columns`); examples are *drawn* (`drawing`); and what is left is
*checked* (images are decoded) and hashed. Each step that changes the data leaves a sentence in `Splits.notes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasets import Dataset

from hf_ft.data.columns import Part, checked_rows, find_columns, take_part, without_bad
from hf_ft.data.duplicates import Contents, Duplicates, find_duplicates
from hf_ft.data.sampling import limit, sample_parts
from hf_ft.data.sources import assign_roles, read_sources
from hf_ft.errors import UserError, shorten
from hf_ft.settings import Config
from hf_ft.storage import json_digest
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
    `fingerprint` hashes the content of all that is used, whatever its path. `notes` says, a sentence each, what was
    done to the data and what is odd about them, `duplicates` which examples are there more than once, `truncation`
    (once a tokenizer has counted them) which texts are longer than what the model reads.
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


def load_splits(config: Config, seed: int = 0) -> Splits:
    """Load `config.dataset` for training: find splits, columns and labels, check all examples, draw what was asked for.

    Without a validation split, a stratified part of train is held out, before train itself is reduced, so that it is
    the same at every size of train; the test split never serves as one. See `load_evaluation_split` for scoring alone.

    Raises:
        UserError: no such data, no training split, an empty split, columns missing or ambiguous, a single class,
            labels that train lacks, more examples asked for than there are; and, unless `bad_examples` is `skip`,
            missing labels, empty texts and unreadable images.
    """
    notes: list[str] = []
    sources = read_sources(config, notes)
    roles = assign_roles(sources, config, notes)
    if "train" not in roles:
        raise UserError(
            f"No training split in {config.dataset}; it has: {', '.join(sources)}. Call it `train`, or name it with "
            "--train_split."
        )
    columns = find_columns(sources[roles["train"]].rows, "train", config, notes)
    target = columns.target
    parts = {}
    for role, name in roles.items():
        # Contests publish their test split without labels.
        optional = role == "test" and not config.test_split
        lacks = optional and columns.label not in sources[name].rows.features
        part = None if lacks else take_part(role, sources[name], columns, config)
        if part is None or (optional and part.labels.missing.all()):
            notes.append("test: not used, since it has no labels.")
        else:
            parts[role] = without_bad(part, config, notes)
    labels = parts["train"].labels.outputs(parts["train"].used, notes)
    parts = {role: _numbered(part, labels, "train lacks", "Train has") for role, part in parts.items()}
    parts = sample_parts(parts, config, seed, notes)
    checked = {role: checked_rows(part, config, notes) for role, part in parts.items()}
    rows, hashes = ({role: getattr(one, of) for role, one in checked.items()} for of in ("rows", "digest"))
    duplicates = find_duplicates({role: one.contents for role, one in checked.items()})
    notes += duplicates.notes({role: len(one) for role, one in rows.items()})
    counts = target.counts(rows["train"], labels)
    if absent := [name for name, count in zip(labels, counts or (), strict=False) if count == 0]:
        notes.append(f"train: no example of these labels is left: {shorten(absent, 10)}.")
    fingerprint = json_digest([labels, hashes])[:32]
    splits = rows["train"], rows["validation"], rows.get("test")
    return Splits(*splits, labels, target, fingerprint, tuple(notes), duplicates)


def load_evaluation_split(dataset: str, config: Config, labels: Sequence[str], seed: int = 0) -> EvaluationSplit:
    """Load the split of `dataset` to score on (test, else validation, else train) for a model that knows `labels`.

    Labels are matched by name, so their order in the data does not matter; columns, splits, kind of labels and
    treatment of bad examples are set by `config` as in `load_splits`.

    Raises:
        UserError: as `load_splits`; and labels that the model does not know.
    """
    config = dataclasses.replace(config, dataset=dataset)
    notes: list[str] = []
    sources = read_sources(config, notes)
    roles = assign_roles(sources, config, notes)
    role = next((role for role in ("test", "validation", "train") if role in roles), None)
    if role is None:
        raise UserError(
            f"None of the splits of {dataset} ({', '.join(sources)}) is called test, validation or train. Name the "
            "one to score on with --test_split."
        )
    source = sources[roles[role]]
    columns = find_columns(source.rows, role, config, notes)
    part = without_bad(take_part(role, source, columns, config), config, notes)
    part = _numbered(part, tuple(labels), "the model does not know", "The model knows")
    part = limit(part, config.max_eval_examples, seed, notes)
    checked = checked_rows(part, config, notes)
    return EvaluationSplit(
        checked.rows, role, tuple(labels), columns.target, checked.digest, tuple(notes), checked.contents
    )


def _numbered(part: Part, labels: tuple[str, ...], unknown: str, known: str) -> Part:
    return dataclasses.replace(part, labels=part.labels.numbered(labels, part.used, part.role, unknown, known))
