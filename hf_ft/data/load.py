"""Loading: from whatever the user has to splits with the same columns, the same labels and nothing unreadable.

Every source takes the same steps. A reader makes raw splits of it (`readers`) and splits get their roles
(`split_roles`); columns are found (`columns`), labels are read and unusable rows reported (`validate`); examples are
sampled (`sampling`); what is left is decoded once and hashed (`validate`, `duplicates`). Each step that changes the
data adds a sentence to `Splits.notes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ft.data.columns import find_columns
from hf_ft.data.duplicates import find_duplicates
from hf_ft.data.readers.hub import read_hub
from hf_ft.data.readers.local import read_local
from hf_ft.data.readers.memory import read_memory
from hf_ft.data.readers.raw_split import RawSplit
from hf_ft.data.sampling import sample_splits, subsample
from hf_ft.data.split_roles import assign_roles
from hf_ft.data.splits import EvaluationSplit, Splits
from hf_ft.data.validate import LabelledSplit, checked_rows, take_split, without_bad
from hf_ft.environment import CardFacts, card_facts
from hf_ft.errors import UserError, shorten, split_argument
from hf_ft.settings import DataSettings, is_local
from hf_ft.storage import json_digest
from hf_ft.tasks import Task, get_task


def read_raw_splits(config: DataSettings, task: Task, notes: list[str]) -> dict[str, RawSplit]:
    """The splits of `config.dataset` as they are, by the names they have there.

    Raises:
        UserError: nothing is there, it cannot be read, or its layout says no labels.
    """
    return read_local(config, task, notes) if is_local(config.dataset) else read_hub(config)


def load_splits(config: DataSettings, seed: int = 0, task: Task | None = None, data: Any = None) -> Splits:
    """Load `config.dataset` for training: find splits, columns and labels, check all examples, sample.

    Without a validation split, a stratified part of the training split is held out, before the split itself is
    reduced, so that it is the same at every size; the test split never serves as one. See `load_evaluation_split` for
    scoring alone. `task` replaces the one that `config` names; `data` are read in place of `config.dataset`: data in
    memory, as `read_memory` takes them.

    Raises:
        UserError: no such data, no training split, an empty split, columns missing or ambiguous, a single class,
            labels that train lacks, more examples asked for than there are; and, unless `bad_examples` is `skip`,
            missing labels, empty texts and unreadable images.
    """
    task, notes = task or get_task(config.task), list[str]()
    sources = read_raw_splits(config, task, notes) if data is None else read_memory(data)
    roles = assign_roles(sources, config, notes)
    if "train" not in roles:
        raise UserError(
            f"No training split in {config.dataset}; it has: {', '.join(sources)}. Call it `train`, or name it with "
            "--train_split."
        )
    columns = find_columns(sources[roles["train"]].rows, "train", config, task, notes)
    target = columns.target
    splits = {}
    for role, name in roles.items():
        # Contests publish their test split without labels.
        optional = role == "test" and not config.test_split
        lacks = optional and columns.label not in sources[name].rows.features
        split = None if lacks else take_split(role, sources[name], columns, config, task)
        if split is None or (optional and split.labels.missing.all()):
            notes.append("test: not used, since it has no labels.")
        else:
            splits[role] = without_bad(split, config, notes)
    labels = splits["train"].labels.outputs(splits["train"].used, notes)
    splits = {role: _numbered(split, labels, "train lacks", "Train has") for role, split in splits.items()}
    splits = sample_splits(splits, config, seed, notes)
    checked = {role: checked_rows(split, config, task, notes) for role, split in splits.items()}
    rows, hashes = ({role: getattr(one, of) for role, one in checked.items()} for of in ("rows", "digest"))
    duplicates = find_duplicates({role: one.contents for role, one in checked.items()})
    notes += duplicates.notes({role: len(one) for role, one in rows.items()})
    counts = target.counts(rows["train"], labels)
    if absent := [name for name, count in zip(labels, counts or (), strict=False) if count == 0]:
        notes.append(f"train: no example of these labels is left: {shorten(absent, 10)}.")
    fingerprint = json_digest([labels, hashes])[:32]
    three, commit = (rows["train"], rows["validation"], rows.get("test")), sources[roles["train"]].commit
    return Splits(
        *three,
        labels,
        target,
        fingerprint,
        tuple(notes),
        duplicates,
        source_splits={role: name for role, name in roles.items() if role in rows},
        commit=commit,
        card=_card(config, commit) if data is None else CardFacts(),
    )


def load_evaluation_split(
    dataset: str, config: DataSettings, labels: Sequence[str], seed: int = 0, task: Task | None = None
) -> EvaluationSplit:
    """Load the split of `dataset` to score on (test, else validation, else train) for a model that knows `labels`.

    Labels are matched by name, so their order in the data does not matter; columns, splits, kind of labels and
    treatment of bad examples are set by `config` as in `load_splits`.

    Raises:
        UserError: as `load_splits`; and labels that the model does not know.
    """
    config = dataclasses.replace(config, dataset=dataset)
    task, notes = task or get_task(config.task), list[str]()
    sources = read_raw_splits(config, task, notes)
    roles = assign_roles(sources, config, notes)
    role = next((role for role in ("test", "validation", "train") if role in roles), None)
    if role is None:
        raise UserError(
            f"None of the splits of {dataset} ({', '.join(sources)}) is called test, validation or train. Name the "
            "one to score on with --test_split."
        )
    source = sources[roles[role]]
    columns = find_columns(source.rows, role, config, task, notes)
    split = without_bad(take_split(role, source, columns, config, task), config, notes)
    split = _numbered(split, tuple(labels), "the model does not know", "The model knows")
    split = subsample(split, config.max_eval_examples, seed, notes)
    checked = checked_rows(split, config, task, notes)
    return EvaluationSplit(
        checked.rows, role, tuple(labels), columns.target, checked.digest, tuple(notes), checked.contents
    )


def _card(config: DataSettings, commit: str | None) -> CardFacts:
    """What the card of the data says: of the folder, or of the repository on the Hub."""
    if not is_local(config.dataset):
        return card_facts(split_argument(config.dataset)[0], commit, "dataset")
    return card_facts(config.dataset, kind="dataset") if Path(config.dataset).expanduser().is_dir() else CardFacts()


def _numbered(split: LabelledSplit, labels: tuple[str, ...], unknown: str, known: str) -> LabelledSplit:
    return dataclasses.replace(split, labels=split.labels.numbered(labels, split.used, split.role, unknown, known))
