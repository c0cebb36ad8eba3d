"""Scores with intervals on validation and test."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_ft.environment import progress_shown
from hf_ft.evaluation.head_input import compare_head_input
from hf_ft.metrics import Score
from hf_ft.modalities import token_counts
from hf_ft.settings import EncodingSettings
from hf_ft.tasks import BoolArray, Target, Task

if TYPE_CHECKING:
    from hf_ft.training import Run


@dataclass
class Results:
    """Scores by split: `metrics[split][name]`, those that need no model beside them, and what figures are drawn from.

    `threshold` is the probability above which a label counts as predicted (several labels per example), fitted on
    validation; `confusion[split]` lists true class, predicted class and how often that was. `without_copies[split]` are
    the scores on the examples that do not stand in train as well, for splits that have others. `head_input` is that of
    `compare_head_input`. `custom[split]` holds the metrics that the caller
    brought.
    """

    metrics: dict[str, dict[str, Score]]
    baseline: dict[str, dict[str, float]]
    threshold: float | None = None
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    without_copies: dict[str, dict[str, Score]] = field(default_factory=dict)
    head_input: dict[str, Any] | None = None
    custom: dict[str, dict[str, float]] = field(default_factory=dict)


def predict_outputs(
    model: PreTrainedModel,
    processor: Any,
    task: Task,
    dataset: Dataset,
    config: EncodingSettings,
    args: TrainingArguments | None = None,
    compute_metrics: Callable[[Any], Any] | None = None,
) -> Any:
    """What the model says of a data set with the task's input columns, one entry per example, in its order.

    Logits (n, classes) as float32, or what the task's `reduce` and `gather` make of them. Runs through
    `Trainer.predict`, so batches, devices and several GPUs are `Trainer`'s work.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = copy.copy(args) if args else TrainingArguments(output_dir=folder, per_device_eval_batch_size=32)
        arguments.remove_unused_columns, arguments.eval_strategy = False, "no"  # evaluation is asked of training only
        arguments.save_strategy, arguments.load_best_model_at_end = "no", False
        arguments.train_sampling_strategy = "random"  # grouping by length would shuffle what is predicted, too
        arguments.label_names = ["labels"]
        arguments.report_to, arguments.dataloader_pin_memory = [], False
        arguments.dataloader_drop_last = False  # every example is predicted
        arguments.disable_tqdm = arguments.disable_tqdm or not progress_shown()
        trainer = Trainer(
            model=model,
            args=arguments,
            data_collator=task.collator(processor),
            processing_class=processor,
            preprocess_logits_for_metrics=task.reduce,
            compute_metrics=compute_metrics,
        )
        # In float32, as the saved model runs by default: scores must not depend on the precision of training.
        trainer.accelerator.native_amp = False
        encoded = task.encode(dataset, processor, config, False)
        order = _by_length(encoded)
        output = trainer.predict(encoded if order is None else encoded.select(order))
    logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    back = slice(None) if order is None else np.argsort(order)
    outputs = np.asarray(logits, dtype=np.float32)[back]
    return outputs if task.gather is None else task.gather(encoded, outputs)


def _by_length(encoded: Dataset) -> np.ndarray | None:
    """The order from the longest text to the shortest, so that batches hold little padding; None for images."""
    lengths = token_counts(encoded)
    return None if lengths is None else np.argsort(-lengths, kind="stable")


def score(run: Run) -> Results:
    """Score a trained model on validation and on test, with 95 % intervals and a baseline that needs no model.

    The threshold for several labels per example is fitted on validation alone. Where all blocks were frozen, what the
    head reads is compared with what the layers offer.
    """
    task, splits = run.task, run.splits
    results = Results({}, {}, head_input=compare_head_input(run))
    for name, split in (("validation", splits.validation), ("test", splits.test)):
        if split is None:
            continue
        found: dict[str, float] = {}
        own = run.extensions.metrics(splits.target, splits.labels)
        hook = _collected(own, found) if own else None
        outputs = predict_outputs(run.model, run.processor, task, split, run.config, run.args, hook)
        if own:
            results.custom[name] = found
        if name == "validation":
            results.threshold = splits.target.fit(outputs, split["labels"][:])
        add_scores(results, name, outputs, split, splits.target, splits.labels)
        copied = splits.duplicates.in_train.get(name)
        if copied is not None and not copied.all():
            results.without_copies[name] = score_without(
                copied, outputs, split, splits.target, splits.labels, results.threshold
            )
        results.baseline[name] = splits.target.baseline(splits.train, split, splits.labels)
    return results


def _collected(compute: Callable[[Any], Mapping[str, float]], found: dict[str, float]) -> Callable[[Any], Any]:
    """The caller's metrics for `Trainer`, which also go into `found`."""

    def compute_metrics(prediction: Any) -> dict[str, float]:
        found.update(compute(prediction))
        return dict(found)

    return compute_metrics


def score_without(
    copied: BoolArray, outputs: Any, split: Dataset, target: Target, labels: Sequence[str], threshold: float | None
) -> dict[str, Score]:
    """Score the examples that are not `copied`, of which there must be some."""
    fresh, references = np.flatnonzero(~copied), split["labels"][:]
    return target.score([outputs[i] for i in fresh], [references[i] for i in fresh], labels, threshold)


def add_scores(
    results: Results, name: str, outputs: Any, split: Dataset, target: Target, labels: Sequence[str]
) -> None:
    """Score one split and add it to `results`."""
    references = split["labels"][:]
    results.metrics[name] = target.score(outputs, references, labels, results.threshold)
    confusion = target.confusion(outputs, references)
    if confusion is not None:
        results.confusion[name] = confusion
