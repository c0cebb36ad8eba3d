"""The registry of tasks. A task is the value `TASK` of the module with its name in this folder."""

from __future__ import annotations

import importlib

from hf_ft.errors import choose
from hf_ft.modalities import Modality
from hf_ft.tasks.base import Task

NAMES = ("image_classification", "text_classification", "text_regression", "token_classification")
"""The names of all tasks. To add one, add its module to this folder and its name here."""


def task_names() -> list[str]:
    """Return the names of all tasks, without importing them."""
    return sorted(NAMES)


def modalities() -> list[Modality]:
    """Return the modalities of all tasks, each once."""
    return list({modality.name: modality for name in NAMES for modality in [get_task(name).modality]}.values())


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        UserError: Unknown task; suggests the nearest name.
    """
    choose(name, task_names(), "task", option="task")
    task: Task = importlib.import_module(f"hf_ft.tasks.{name}").TASK
    return task
