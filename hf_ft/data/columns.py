"""Columns: which hold the inputs and which the labels, and what kind of labels they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from datasets import ClassLabel, Dataset, Features

from hf_ft.errors import UserError, choose, shorten
from hf_ft.modalities import ColumnType
from hf_ft.settings import DataSettings
from hf_ft.tables import element, holds_labels, holds_text, type_name
from hf_ft.tasks import Target, Task

PAIRS = {"text_pair": "text", "sentence2": "sentence1", "hypothesis": "premise", "question2": "question1"}
"""Usual column of a second text -> the column of the first text that it belongs to."""


@dataclass(frozen=True)
class Columns:
    """Where inputs and labels are, and what kind of labels: `inputs` maps each role to a column."""

    inputs: Mapping[str, str]
    label: str
    target: Target


def find_columns(rows: Dataset, split: str, config: DataSettings, task: Task, notes: list[str]) -> Columns:
    """The columns to use, from the user's word, from their usual names, or because only one can be meant.

    Raises:
        UserError: a column is missing, ambiguous or of the wrong type.
    """
    features = rows.features
    inputs = {role: name for role in task.inputs if (name := getattr(config, f"{role}_column", None))}
    for role, name in [*inputs.items(), ("label", config.label_column)]:
        if name:
            choose(
                name, features, f"column in {split}:", f"Set --{role}_column to one of these.", option=f"{role}_column"
            )
    label = config.label_column
    if label is None and (found := usual_columns(features, task.label_names, set(inputs.values()))):
        label = found[0] if len(found) == 1 else _ambiguous("label", found, split)
    first = next(iter(task.inputs))
    if first not in inputs:
        usual = _usual_inputs(features, task, split, inputs, {*inputs.values(), label})
        fits = column_type(task, first).fits
        taken = {*inputs.values(), label}
        inputs |= usual or {first: _only(first, features, fits, taken, task.inputs[first], split, notes)}
    if label is None:
        label = _only("label", features, holds_labels, set(inputs.values()), task.label_names, split, notes)
    if unused := [name for name in features if name not in (*inputs.values(), label)]:
        notes.append(f"Columns not used: {shorten(unused, 10)}.")
    for role, name in inputs.items():
        kind, files = column_type(task, role), task.modality.files
        holds_paths = files is not None and role == files.role and holds_text(features[name])
        if not (kind.fits(features[name]) or holds_paths):
            held = f"{type_name(features[name])}, not {kind.description}"
            raise UserError(f"Column '{name}' holds {held}. Choose another with --{role}_column.")
    ordered = {role: inputs[role] for role in task.inputs if role in inputs}
    return Columns(ordered, label, _target(task, rows, label, config))


def column_type(task: Task, role: str) -> ColumnType:
    """What a column must hold to play an input role; a role that the modality does not know is like its first."""
    known = task.modality.columns
    return known.get(role) or next(iter(known.values()))


def _target(task: Task, rows: Dataset, label: str, config: DataSettings) -> Target:
    if config.problem_type:
        task.target(config.problem_type, "Leave out --problem_type.")
    target = task.find_target(rows, label, config)
    target.check_options(config)
    return target


def usual_columns(features: Features, usual: Sequence[str], taken: set[str | None]) -> list[str]:
    """The columns with one of the usual names in any case, in the order of those names."""
    return [name for word in usual for name in features if name.lower() == word and name not in taken]


def _usual_inputs(
    features: Features, task: Task, split: str, wanted: Mapping[str, str], taken: set[str | None]
) -> dict[str, str] | None:
    """Inputs by their usual names: one column, or two that belong together; None when there is none."""
    found = {role: usual_columns(features, usual, taken) for role, usual in task.inputs.items() if role not in wanted}
    first, *others = found
    every = [name for names in found.values() for name in names]
    if found[first] and len(every) == 1:
        return {first: every[0]}
    if len(every) == 2 and PAIRS.get(every[1].lower()) == every[0].lower():
        return {first: every[0], others[0]: every[1]}
    return _ambiguous(first, every, split) if every else None


def _ambiguous(role: str, found: Sequence[str], split: str) -> NoReturn:
    pair = " (and --text_pair_column for a second text)" if role == "text" else ""
    raise UserError(
        f"Several columns of {split} could be the {role}: {', '.join(found)}. Choose with --{role}_column{pair}."
    )


def _only(
    role: str,
    features: Features,
    fits: Callable[[Any], bool],
    taken: set[str | None],
    usual: Sequence[str],
    split: str,
    notes: list[str],
) -> str:
    """The one column that has the right type for a role and no other use.

    Raises:
        UserError: there is none, or more than one.
    """
    left = [str(name) for name, feature in features.items() if name not in taken and fits(feature)]
    if role == "label":
        left = [name for name in left if isinstance(element(features[name]), ClassLabel)] or left
    if len(left) == 1:
        notes.append(f"The {role} is column '{left[0]}', the only one that can be it.")
        return left[0]
    raise UserError(
        f"No column of {split} has a usual name for the {role} ({shorten(usual, 8)}). Its columns: "
        f"{', '.join(features) or 'none'}. Name the right one with --{role}_column."
    )
