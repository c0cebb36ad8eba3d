"""A result folder as it is read back: record, task, model, processor, and the settings that apply to new data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from hf_ft.autotune import Autotuner
from hf_ft.errors import UserError, first_line, shorten
from hf_ft.feature_cache import default_root
from hf_ft.models import silent_loading
from hf_ft.records import RunRecord, read_record
from hf_ft.settings import DataSettings, EncodingSettings, check_value
from hf_ft.tasks import Task, get_task

DATA_SETTINGS = ("label_column", "label_separator", "bad_examples")
"""The settings that describe the data of a run, beside its input columns; new data are expected to be alike."""


def load_folder(folder: Path) -> tuple[RunRecord, Task, PreTrainedModel, Any]:
    """Load a result folder.

    Returns:
        Its record, its task, the model in evaluation mode, and the tokenizer or image processor.

    Raises:
        UserError: a file is missing or damaged, or the folder mixes files of different runs.
    """
    record = read_record(folder, RunRecord)
    task = get_task(record.task)
    model, processor = load_parts(folder, task)
    names, trained = list((model.config.id2label or {}).values()), record.data.labels
    if names != trained:
        raise UserError(
            f"The model in {folder} has the labels {shorten(names, 5)} in its config.json, and its run.json says that "
            f"it was trained on {shorten(trained, 5)}. One of the two was changed: correct it, or train again."
        )
    return record, task, model, processor


def load_parts(folder: Path, task: Task) -> tuple[PreTrainedModel, Any]:
    """Load a model in evaluation mode, and its tokenizer or image processor, from a folder whose files are not trusted.

    Neither pickles are read nor code that comes with the model.

    Raises:
        UserError: A file is missing or damaged, or weights are missing.
    """
    auto = getattr(transformers, task.auto_class)
    options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    with silent_loading():
        model, info = _loaded(folder, lambda: auto.from_pretrained(folder, **options))
        processor = _loaded(folder, lambda: task.modality.load_saved_processor(str(folder), model.config))
    if lost := [name for name, _ in model.named_parameters() if name in info["missing_keys"]]:
        raise UserError(f"The weights in {folder} lack {shorten(lost, 3)}, which would be random. Train again.")
    return model.eval(), processor


def _loaded(folder: Path, load: Callable[[], Any]) -> Any:
    """What a loader of `transformers` returns; damaged files make it raise about anything."""
    try:
        return load()
    except UserError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            problem = f"The model in {folder} needs Python code of its own, which is never run when a result is loaded."
            raise UserError(problem, hint="Read that code first, then load it with plain transformers.") from error
        message = first_line(f"Cannot load the model in {folder}", error)
        raise UserError(f"{message} Copy the folder anew, or train again.") from error


def command_tuner(tune: bool) -> Autotuner | None:
    """The autotuner of a command; it prints to stderr, since predictions go to stdout."""
    return Autotuner(default_root(), lambda line: print(line, file=sys.stderr)) if tune else None


@dataclass(frozen=True)
class InputSettings(DataSettings, EncodingSettings):
    """The settings of a training run that apply to new data: their columns, and how they are encoded."""


def input_settings(record: RunRecord, **changes: Any) -> InputSettings:
    """The settings of a training run for new data, from its record.

    Raises:
        UserError: A value that no run records.
    """
    columns = [f"{role}_column" for role in get_task(record.task).inputs]
    names = (*columns, *DATA_SETTINGS, "max_length", "long_text")
    kept = {name: record.settings[name] for name in names if name in record.settings}
    for name, item in InputSettings.options().items():
        if name in kept:
            check_value(name, kept[name], str(item.type), item.metadata["choices"])
    return InputSettings(task=record.task, problem_type=record.data.problem_type, **kept, **changes)
