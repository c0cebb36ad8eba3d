"""The registry of tasks. A task is the value `TASK` of the module of its name in this folder."""

from __future__ import annotations

import importlib

from hf_ft.errors import choose
from hf_ft.modalities import Modality
from hf_ft.tasks.base import Task

NAMES = ("image_classification", "text_classification", "text_regression", "token_classification")
"""The tasks; a new one is a file of its name beside this one, and a word here."""


def task_names() -> list[str]:
    """The names of all tasks; nothing is imported."""
    return sorted(NAMES)


def modalities() -> list[Modality]:
    """The modalities of all tasks, each once."""
    return list({modality.name: modality for name in NAMES for modality in [get_task(name).modality]}.values())


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: unknown; names the nearest.
    """
    choose(name, task_names(), "task", option="task")
    task: Task = importlib.import_module(f"hf_ft.tasks.{name}").TASK
    return task
