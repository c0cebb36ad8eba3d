"""A trained model with all that predicting takes, from a folder or from the Hub."""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from transformers import PreTrainedModel

from hf_ft.autotune import Autotuner
from hf_ft.data import count_truncated, max_input_tokens
from hf_ft.environment import silence_libraries
from hf_ft.errors import UserError
from hf_ft.evaluation.hub_folder import check_plain, locate
from hf_ft.evaluation.inputs import text_columns
from hf_ft.evaluation.model_kind import described_by_config, is_result
from hf_ft.evaluation.raw_inputs import file_cells, is_one, text_cells
from hf_ft.evaluation.result_folder import InputSettings, input_settings, load_folder, load_parts
from hf_ft.evaluation.views import predict_views
from hf_ft.metrics import MULTI_LABEL
from hf_ft.records import RunRecord, ThresholdRecord
from hf_ft.tasks import Target, Task, get_task


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, as `hf_ft.load` returns it.

    Args:
        name: The folder or Hub id.
        model: The model of `transformers`, in evaluation mode.
        processor: Its tokenizer or image processor.
        task: The task, with its name and kind of input.
        target: The kind of labels.
        labels: The names of its outputs.
        threshold: The probability from which a label is predicted, with several labels per example; else None.
        rare_class: The threshold for the rarer of two classes, if the run had one.
        inputs: The input roles that it was trained on; None if they are not known.
        settings: How inputs are encoded.
        record: The content of `run.json`; None for a model that hf_ft did not train.
    """

    name: str
    model: PreTrainedModel
    processor: Any
    task: Task
    target: Target
    labels: tuple[str, ...]
    threshold: float | None
    rare_class: ThresholdRecord | None
    inputs: tuple[str, ...] | None
    settings: InputSettings
    record: RunRecord | None

    def predict(self, inputs: Any, *, batch_size: int = 32, tta: int = 1) -> Any:
        """Predict for one raw input, or for many, in batches.

        Args:
            inputs: Paths, images of Pillow or arrays of uint8 `(height, width, 3)`; or texts, for pairs of texts
                dictionaries with `text` and `text_pair`, for tagging also lists of words; or a list or another
                iterable of these. Text is always text, never the name of a file.
            batch_size: The number of inputs that run at once.
            tta: Views of each image, over which predictions are averaged.

        Returns:
            `{"label": ..., "scores": {class: probability}}`, with several labels per example
            `{"labels": [...], "scores": ...}`, for numbers `{"prediction": number}`, for tags the list of spans, each
            with `label`, `text`, `start`, `end` and `score`; a list of these for many inputs.

        Raises:
            UserError: An input that cannot be read, or is of another kind than the model was trained on.
        """
        alone = is_one(inputs)
        items = [inputs] if alone else list(inputs)
        self.task.modality.check_views(tta)
        if not items:
            return []
        with silence_libraries():
            rows = self._rows(items)
            if cut := count_truncated("inputs", rows, self.task, self.processor, self.settings):
                warnings.warn(cut.note(max_input_tokens(self.processor)), stacklevel=2)
            found = list(self.results(rows, self.outputs(rows, batch_size, tta)))
        return found[0] if alone else found

    def _rows(self, items: list[Any]) -> Dataset:
        files = self.task.modality.files
        if files is None:
            rows = text_cells(items, tuple(self.task.inputs))
            return Dataset.from_dict(text_columns(rows, self.task, self.settings, self.processor, self.inputs))
        return Dataset.from_dict(file_cells(items, files)).cast_column(files.role, files.feature())

    def outputs(self, rows: Dataset, batch_size: int = 32, views: int = 1, tuner: Autotuner | None = None) -> Any:
        """Return the outputs for rows with the task's input columns; see `predict_outputs`."""
        arguments = transformers.TrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_eval_batch_size=batch_size,
            report_to="none",
            dataloader_pin_memory=False,
        )
        about = self.model, self.processor, self.task, self.target, rows, self.settings
        return predict_views(views, *about, arguments, tuner)

    @property
    def deciding(self) -> tuple[Target, float | None]:
        """The target that predicts by the threshold of the run, and that threshold."""
        if self.rare_class is None:
            return self.target, self.threshold
        return self.target.deciding(self.rare_class.label, self.labels), self.rare_class.value

    def results(self, rows: Dataset, outputs: Any) -> Any:
        """Yield what is predicted for rows by their outputs; see `predict`."""
        target, threshold = self.deciding
        return target.results(rows, outputs, self.labels, threshold)


def load(path_or_id: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> LoadedModel:
    """Load a trained model from a folder or from the Hub, with all that predicting takes.

    Nothing that comes with the model is executed: only safetensors are read, and no code of its repository.

    Args:
        path_or_id: The folder of a run, `ME/NAME` or `ME/NAME@REVISION`. A classifier that hf_ft did not train works
            too.
        revision: Branch, tag or commit on the Hub.
        token: A token of the Hub; by default the one that `hf auth login` stored.

    Raises:
        UserError: No such folder or repository, no rights, no network, or no classifier.

    Example:
        >>> model = hf_ft.load("me/beans")  # doctest: +SKIP
        >>> model.predict("leaf.jpg")  # doctest: +SKIP
        {'label': 'healthy', 'scores': {'angular_leaf_spot': 0.01, 'bean_rust': 0.02, 'healthy': 0.97}}
    """
    with silence_libraries():
        return open_folder(locate(path_or_id, revision, token), os.fspath(path_or_id))


def open_folder(folder: Path, name: str | None = None) -> LoadedModel:
    """Load a trained model from a local folder; `name` is what the user calls it.

    Raises:
        UserError: It holds no classifier, is damaged, or its record contradicts the model.
    """
    name = name or str(folder)
    check_plain(folder, name)
    if not is_result(folder):
        return _of_config(folder, name)
    record, task, model, processor = load_folder(folder)
    target, labels = task.target(record.data.problem_type), tuple(record.data.labels)
    found = LoadedModel(
        name=name,
        model=model,
        processor=processor,
        task=task,
        target=target,
        labels=labels,
        threshold=record.threshold,
        rare_class=record.rare_class,
        inputs=tuple(record.data.inputs),
        settings=input_settings(record),
        record=record,
    )
    _check_record(found, folder)
    return found


def _check_record(model: LoadedModel, folder: Path) -> None:
    """Check the values of a record that predicting relies on, which may come from anybody.

    Raises:
        UserError: One does not fit the model.
    """
    rare, several = model.rare_class, model.target.problem_type == MULTI_LABEL
    wrong = {
        "threshold": (model.threshold is None) if several else (model.threshold is not None),
        "rare_class": rare is not None and (several or len(model.labels) != 2 or rare.label not in model.labels),
        "data.inputs": not set(model.inputs or ()) <= set(model.task.inputs),
    }
    if found := [name for name, bad in wrong.items() if bad]:
        raise UserError(
            f"{folder / RunRecord.FILE} does not fit its model: '{found[0]}' is not valid.",
            hint="Copy the folder anew.",
        )


def _of_config(folder: Path, name: str) -> LoadedModel:
    """A model that hf_ft did not train: labels as in its config, and 0.5 for several labels per example."""
    task_name, problem_type = described_by_config(folder, name)
    task = get_task(task_name)
    target = task.target(problem_type)
    model, processor = load_parts(folder, task)
    processor = task.prepare(processor) if task.prepare else processor
    names: Any = model.config.id2label or {}
    return LoadedModel(
        name=name,
        model=model,
        processor=processor,
        task=task,
        target=target,
        labels=tuple(names[i] for i in range(len(names))),
        threshold=0.5 if problem_type == MULTI_LABEL else None,
        rare_class=None,
        inputs=None,
        settings=InputSettings(task=task_name, problem_type=problem_type),
        record=None,
    )
