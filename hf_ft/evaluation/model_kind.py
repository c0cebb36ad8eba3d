"""What kind of model a folder holds, by its `run.json` or `config.json`, before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError, shorten
from hf_ft.evaluation.hub_folder import check_plain
from hf_ft.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_ft.records import RunRecord, read_record
from hf_ft.storage import read_json
from hf_ft.tasks import Task, get_task


def is_result(folder: Path) -> bool:
    """Return whether a folder is to be read as a result of hf_ft: it has its `run.json`, or no model at all."""
    try:
        content = read_json(folder / RunRecord.FILE)
    except (FileNotFoundError, NotADirectoryError):
        return not (folder / "config.json").is_file()
    except (OSError, ValueError):
        return True
    return not isinstance(content, dict) or "hf_ft" in content


def task_of_folder(folder: Path, name: str) -> Task:
    """Return the task of a model by its `run.json`, else by its `config.json`, without loading it.

    Raises:
        UserError: Neither says it.
    """
    check_plain(folder, name)
    return get_task(read_record(folder, RunRecord).task if is_result(folder) else described_by_config(folder, name)[0])


TASKS = {"Image": "image_classification", "Sequence": "text_classification", "Token": "token_classification"}
"""What the class of a model is for -> the task."""


def described_by_config(folder: Path, name: str) -> tuple[str, str]:
    """Return task and kind of labels by a `config.json`.

    Raises:
        UserError: The model is no classifier.
    """
    try:
        config: Any = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"The config.json of '{name}' cannot be read: {error}.", value=name) from None
    config = config if isinstance(config, Mapping) else {}
    architectures = [str(one) for one in config.get("architectures") or ()]
    kinds = [found.group(1) for one in architectures if (found := re.search(r"For(\w+?)Classification", one))]
    if not architectures and "pretrained_cfg" in config and "architecture" in config:
        kinds = ["Image"]  # as timm saves it
    if not kinds or kinds[0] not in TASKS:
        held = shorten(architectures) or "a model that names no class"
        raise UserError(
            f"'{name}' is no classifier that hf_ft supports: its config.json says {held}.",
            value=name,
            hint="Pass a model for image, sequence or token classification.",
        )
    kind, labels = config.get("problem_type"), config.get("id2label")
    numbers = kind == "regression" or (kind is None and isinstance(labels, Mapping) and len(labels) == 1)
    if kinds[0] == "Sequence" and numbers:
        return "text_regression", "regression"
    if kinds[0] == "Token":
        return TASKS["Token"], "token_classification"
    return TASKS[kinds[0]], MULTI_LABEL if kind == MULTI_LABEL else SINGLE_LABEL
