"""Real examples for an export: of the test split to compare answers on, of the training split to quantise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from hf_ft.data import EvaluationSplit, load_evaluation_split
from hf_ft.errors import UserError
from hf_ft.evaluation import InputSettings, input_settings
from hf_ft.records import RunRecord, read_origin
from hf_ft.settings import IN_MEMORY, EncodingSettings, check_path
from hf_ft.tasks import Target, Task
from hf_ft.training import public_name

Batch = dict[str, torch.Tensor]
TRACED = 3
"""Examples in the batch by which a model is traced and in the padded batch on which it is compared."""


@dataclass(frozen=True)
class Examples:
    """Examples of a split, encoded as in training.

    Args:
        name: Of the data set, without local path.
        rows: The examples before encoding.
        encoded: One row for each, or several for a sentence in several windows.
        settings: How inputs are encoded.
    """

    name: str
    split: str
    rows: Dataset
    encoded: Dataset
    labels: tuple[str, ...]
    target: Target
    task: Task
    processor: Any
    settings: EncodingSettings

    def batch(self, places: Sequence[int]) -> tuple[Batch, torch.Tensor | None]:
        """Return the model's inputs for some encoded rows, padded, and the labels that the collator made."""
        collated = self.task.collator(self.processor)([self.encoded[place] for place in places])
        found = {name: value for name, value in dict(collated).items() if isinstance(value, torch.Tensor)}
        labels = found.pop("labels", None)
        return found, labels

    def traced(self) -> Batch:
        """Return a batch of different lengths, by which a model is traced."""
        count = len(self.encoded)
        return self.batch([place % count for place in range(max(2, min(TRACED, count)))])[0]


def data_of(folder: Path, dataset: str | None) -> str:
    """Return where the data of a run are: as the user says, else where the run read them.

    Raises:
        UserError: The run does not say it, or they are not there any more, or were in memory.
    """
    if dataset is not None:
        check_path(dataset, "dataset")
        return dataset
    origin = read_origin(folder)
    if origin is None or origin.dataset == IN_MEMORY:
        why = "does not say where its data are" if origin is None else "had its data in memory"
        raise UserError(f"The run {folder} {why}.", option="dataset", hint="Say where they are with --dataset.")
    place = origin.located(origin.dataset)
    check_path(place, "dataset")
    return place


def read_examples(
    record: RunRecord, task: Task, processor: Any, dataset: str, split: str | None, most: int, calibration: int = 0
) -> tuple[Examples, list[Batch]]:
    """Return up to `most` examples to compare answers on, and up to `calibration` others, one a batch.

    The former are of test, else validation, else train, unless a split is named; the latter are of train. Texts are
    truncated, as in a plain pipeline, whatever `long_text` the run had.

    Raises:
        UserError: Data that do not fit the model, or without a training split where that is needed.
    """
    config = input_settings(record, dataset=dataset, test_split=split)
    found = _read(record, config, most)
    trained = record.settings.get("train_split") or "train"
    both = calibration and (split or found.split) in ("train", trained)
    if both:  # no example is in both halves
        found = _read(record, config, most + calibration)
        compared = max(1, len(found.rows) * most // (most + calibration))
        rest = dataclasses.replace(found, rows=found.rows.select(range(compared, len(found.rows))))
        found = dataclasses.replace(found, rows=found.rows.select(range(compared)))
    elif calibration:
        rest = _read(record, dataclasses.replace(config, test_split=trained), calibration)
    settings = dataclasses.replace(config, long_text="truncate")
    name = public_name(dataset)
    examples = _encoded(name, split or found.split, found, task, processor, settings)
    if not calibration:
        return examples, []
    typical = _encoded(name, trained, rest, task, processor, settings)
    return examples, [typical.batch([place])[0] for place in range(min(calibration, len(typical.encoded)))]


def _read(record: RunRecord, config: InputSettings, most: int) -> EvaluationSplit:
    limited = dataclasses.replace(config, max_eval_examples=most)
    return load_evaluation_split(config.dataset, limited, record.data.labels)


def _encoded(
    name: str, split: str, found: EvaluationSplit, task: Task, processor: Any, settings: EncodingSettings
) -> Examples:
    encoded = task.encode(found.rows, processor, settings, False)
    return Examples(name, split, found.rows, encoded, found.labels, found.target, task, processor, settings)
