"""Tasks: all that differs between image classification, text classification and their kind, one file each.

A task is the value `TASK` of a module in this folder and is found by the file's name, so a new task is one new
file. What it predicts is a `Target`: those of classification are shared, another task has its own in its file. These
modules import nothing heavier than numpy at the top: `hf-ft --help` lists them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, choose
from hf_ft.modalities import Modality

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.settings import DataSettings, EncodingSettings
    from hf_ft.tasks.target import Target

CLASS_OPTIONS = (
    "class_weights",
    "label_smoothing_factor",
    "label_separator",
    "examples_per_class",
    "val_examples_per_class",
)
"""Options about classes, which a target may refuse."""

Encode = Callable[["Dataset", Any, "EncodingSettings", bool], "Dataset"]


@dataclass(frozen=True)
class Raw:
    """Examples as `rows` for a task's `encode` and, the same ones, as `inputs` of a plain `pipeline` with `options`."""

    rows: Dataset
    inputs: list[Any]
    options: Mapping[str, Any] = field(default_factory=dict)


def _classes() -> tuple[Target, ...]:
    from hf_ft.tasks.classes import MULTI, SINGLE

    return SINGLE, MULTI


def _class_target(rows: Dataset, column: str, config: DataSettings) -> Target:
    from hf_ft.tasks.classes import find_target

    return find_target(rows, column, config)


@dataclass(frozen=True)
class Task:
    """What the rest of the toolkit asks about a task.

    `inputs` maps each input role to the column names it usually goes by, the first being the name it gets here;
    roles in `optional_inputs` may be missing. `encode(dataset, processor, config, training)` turns the input
    columns into what the model's forward takes, keeping `labels`; `collator(processor)` makes batches of that.
    `raw(rows, processor, config, folder)` gives rows as a user of the saved model has them, files in `folder`.
    `training` are defaults for `TrainingArguments`.

    `targets()` are the kinds of labels that the task learns, `find_target(rows, column, config)` the one that a label
    column holds. `reduce(logits, labels)` leaves of a batch's logits what is needed of them, and `gather(encoded,
    outputs)` makes outputs per example of outputs per encoded row, where these are not the same. `prepare(processor)`
    changes the processor before it is used and saved. `from_text(rows, processor)` makes the input columns of raw
    texts, where the task's inputs are no texts. `limit(processor, config)` is the number of tokens at which `encode`
    cuts a text, where it does.
    """

    name: str
    summary: str
    modality: Modality
    auto_class: str
    pipeline: str
    inputs: Mapping[str, tuple[str, ...]]
    encode: Encode
    collator: Callable[[Any], Any]
    raw: Callable[[Dataset, Any, EncodingSettings, Path], Raw]
    optional_inputs: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    label_names: tuple[str, ...] = ("label", "labels", "fine_label", "class", "category", "target", "sentiment")
    targets: Callable[[], tuple[Target, ...]] = _classes
    find_target: Callable[[Dataset, str, DataSettings], Target] = _class_target
    reduce: Callable[[Any, Any], Any] | None = None
    gather: Callable[[Dataset, Any], Any] | None = None
    prepare: Callable[[Any], Any] | None = None
    from_text: Callable[[list[dict[str, Any]], Any], dict[str, list[Any]]] | None = None
    limit: Callable[[Any, EncodingSettings], int] | None = None

    def target(self, name: str, remedy: str = "") -> Target:
        """The target of that name.

        Raises:
            UserError: the task has none of that name; ends with `remedy`.
        """
        known = {target.name: target for target in self.targets()}
        return known[choose(name, known, f"kind of labels for {self.name}:", remedy, option="problem_type")]

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a kind of labels or a metric that no target of the task has, and options that none can use.

        Raises:
            UserError: names the kind of labels or the metric and the nearest, or the option and the reason.
        """
        if settings.get("problem_type"):
            self.target(settings["problem_type"], "Leave out --problem_type.")
        metric = settings.get("metric_for_best_model")
        if metric:
            known = dict.fromkeys(name for target in self.targets() for name in target.metrics)
            choose(str(metric).removeprefix("eval_"), [*known, "loss"], "metric", option="metric_for_best_model")
        for option in CLASS_OPTIONS:
            if settings.get(option) in (None, "none", 0):
                continue
            reasons = [target.refused.get(option) for target in self.targets()]
            if all(reasons):
                raise UserError(str(reasons[0]))
