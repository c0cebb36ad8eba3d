"""Tasks: all that differs between image classification, text classification and their kind, one file each.

A task is the value `TASK` of a module in this folder and is found by the file's name, so a new task is one new
file. These modules import nothing heavy at the top: `hf-ft --help` lists them at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_ft.lookup import choose

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.config import Config

Encode = Callable[["Dataset", Any, "Config", bool], "Dataset"]


@dataclass(frozen=True)
class Task:
    """What the rest of the toolkit asks about a task.

    `inputs` maps each input role to the column names it usually goes by, the first being the name it gets here;
    roles in `optional_inputs` may be missing. `encode(dataset, processor, config, training)` turns the input
    columns into what the model's forward takes, keeping `labels`; `collator(processor)` makes batches of that.
    `training` are defaults for `TrainingArguments`.
    """

    name: str
    summary: str
    modality: str
    auto_class: str
    pipeline: str
    inputs: Mapping[str, tuple[str, ...]]
    encode: Encode
    collator: Callable[[Any], Any]
    optional_inputs: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    label_names: tuple[str, ...] = ("label", "labels", "fine_label", "class", "category", "target", "sentiment")
    problem_types: tuple[str, ...] = ("single_label_classification", "multi_label_classification")


def task_names() -> list[str]:
    """The tasks there are, by the files in this folder; nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    choose(name, task_names(), "task")
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
