"""The `Task` class: everything that differs between image classification, text classification and so on.

A task is the value `TASK` of a module in this folder, named like the task. What it predicts is a `Target`: the
classification tasks share theirs, other tasks define their own. These modules import nothing heavier than numpy at the
top, so that `hf-ft --help` lists the tasks at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, choose
from hf_ft.modalities import Modality
from hf_ft.tasks.class_options import CLASS_OPTIONS, NEUTRAL

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.settings import DataSettings, EncodingSettings
    from hf_ft.tasks.target import Target

LONG_TEXT_WAYS = ("truncate", "head_tail", "windows")
"""The values of `--long_text`, which `long_texts` describes."""

Encode = Callable[["Dataset", Any, "EncodingSettings", bool], "Dataset"]


@dataclass(frozen=True)
class Raw:
    """The same examples twice: as `rows` for a task's `encode`, and as `inputs` of a plain `pipeline`.

    Args:
        rows: The examples before encoding.
        inputs: What the pipeline takes, such as paths or texts.
        options: Keyword arguments of the pipeline call.
    """

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
    """Everything the toolkit needs to know about a task.

    Args:
        name: The name of its module, for `--task`.
        summary: One line for `--help`.
        modality: The kind of input.
        auto_class: The auto class of `transformers` that loads its models.
        pipeline: The `pipeline` that runs the saved model.
        inputs: Input role -> the usual names of its column. The column is renamed to the first of them.
        encode: `encode(dataset, processor, config, training)` converts the input columns to arguments of the model's
            `forward`; `labels` stay.
        collator: `collator(processor)` returns the function that makes a batch of encoded rows.
        raw: `raw(rows, processor, config, folder)` returns rows in the form that a user of the saved model has them;
            files are written to `folder`.
        optional_inputs: Input roles that may be missing.
        training: Defaults for `TrainingArguments`.
        label_names: The usual names of the label column.
        targets: Returns the kinds of labels that the task supports.
        find_target: `find_target(rows, column, config)` returns the kind of labels in a column.
        reduce: `reduce(logits, labels)` shrinks the logits of a batch before they are collected; None collects all.
        gather: `gather(encoded, outputs)` combines outputs per encoded row into outputs per example.
        prepare: Changes the processor before it is used and saved.
        from_text: `from_text(rows, processor)` converts raw texts to the input columns, for inputs that are not texts.
        limit: `limit(processor, config)` returns the number of tokens to which `encode` truncates a text.
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

    def pools(self, encoded: Dataset) -> bool:
        """Return whether an example of an encoded split may have several rows, whose outputs have one meaning.

        So it is with windows of a text that is classified. Tags of words are joined, which changes no score of theirs.
        """
        return self.reduce is None and self.gather is not None and "example" in encoded.column_names

    def target(self, name: str, remedy: str = "") -> Target:
        """Return the target of that name.

        Raises:
            UserError: The task has none of that name; the message ends with `remedy`.
        """
        known = {target.name: target for target in self.targets()}
        return known[choose(name, known, f"kind of labels for {self.name}:", remedy, option="problem_type")]

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check the kind of labels, the metric and the options about classes against the targets of the task.

        Raises:
            UserError: No target has that kind of labels or metric, or all targets refuse an option.
        """
        if settings.get("problem_type"):
            self.target(settings["problem_type"], "Leave out --problem_type.")
        metric = settings.get("metric_for_best_model")
        if metric:
            known = dict.fromkeys(name for target in self.targets() for name in target.metrics)
            choose(str(metric).removeprefix("eval_"), [*known, "loss"], "metric", option="metric_for_best_model")
        method = settings.get("method")
        if method is not None and method.contrastive and not any(target.contrasts for target in self.targets()):
            raise UserError(
                f"A contrastive stage needs one class for each example, which {self.name} has not.",
                option="method",
                value=str(method),
                hint="Use lp_ft.",
            )
        if settings.get("head_init") == "label_names" and not any(target.named for target in self.targets()):
            raise UserError(
                f"--head_init label_names needs classes with names, and {self.name} has none for a whole text.",
                option="head_init",
                value="label_names",
                hint="Leave it out.",
            )
        for option in CLASS_OPTIONS:
            if settings.get(option) in NEUTRAL:
                continue
            reasons = [target.refused.get(option) for target in self.targets()]
            if all(reasons):
                raise UserError(str(reasons[0]))
