"""The targets of classification, with one label or several per example.

This module imports nothing heavy, because a task's metrics are looked up early; `labels` reads the column.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_ft.errors import UserError, shorten
from hf_ft.metrics import MULTI_LABEL, SINGLE_LABEL, Score, default_metric
from hf_ft.metrics import classification as metrics
from hf_ft.tasks.target import INTEGER, FindScale, Learning, Target

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import TrainingArguments

    from hf_ft.settings import Config, DataSettings
    from hf_ft.tasks.labels import SeveralLabels, SingleLabels

Floats = NDArray[np.float64]


def _directions(problem_type: str) -> Mapping[str, bool]:
    """Return metric -> whether a greater value is better."""
    return {name: spec.higher_is_better for name, spec in metrics.METRICS[problem_type].items()}


_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


# --- Targets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classes(Target):
    """The common base of single-label and multi-label targets; with `multi_hot`, cells are lists of 0 and 1."""

    multi_hot: bool = False
    takes_shares = True
    named = True
    baseline_name = "majority"
    baseline_note = "`majority` always answers with the most frequent class of the training data"

    def cells(self, feature: Any, config: DataSettings) -> Callable[[Any], list[str] | None]:
        """Return a function from a cell to the distinct names of its labels, or None if the label is missing."""
        if self.multi_hot:
            return lambda cell: [str(place) for place, value in enumerate(cell) if value]
        from hf_ft.tasks.labels import name_of

        separator, name = config.label_separator, name_of(feature)

        def names(cell: Any) -> list[str] | None:
            values = cell.split(separator) if separator is not None else cell if isinstance(cell, list) else [cell]
            listed = list(dict.fromkeys(one for one in map(name, values) if one is not None))
            return listed if isinstance(cell, list) or separator is not None else listed or None

        return names

    def fields(self, rows: Dataset, column: str, config: DataSettings) -> tuple[Any, ...]:
        """Return the fields of `NamedLabels` for a split.

        Raises:
            UserError: The labels are decimal numbers, and `problem_type` does not declare them as classes.
        """
        from hf_ft.tasks.labels import declared_names, read_names

        feature = rows.features[column]
        names, *arrays = read_names(rows, column, self.cells(feature, config))
        declared = declared_names(feature)
        decimal = names and all(map(_DECIMAL.fullmatch, names))
        if decimal and not (config.problem_type or declared or all(map(INTEGER.fullmatch, names))):
            raise UserError(
                f"Column '{column}' holds decimal numbers ({shorten(names, 3)}). To predict numbers, use --task "
                f"text_regression. If they are classes, write whole numbers, or say --problem_type {SINGLE.name}."
            )
        return names, *arrays, declared

    def learning(
        self, find_scale: FindScale, train: Dataset, labels: Sequence[str], config: Config, args: TrainingArguments
    ) -> Learning:
        """Return the metrics and the loss of these labels.

        The loss replaces the model's own even without class weights: that of many models (BERT) ignores
        `num_items_in_batch`, which `Trainer` relies on, so accumulated gradients would be too large.
        """
        counts = self.counts(train, labels) if config.class_weights == "balanced" else None
        return Learning(metrics.compute_metrics(self.name), self.loss(counts, len(train), args.label_smoothing_factor))

    def loss(self, counts: list[int] | None, examples: int, smoothing: float) -> Callable[..., torch.Tensor]:
        """Return the loss for `Trainer(compute_loss_func=...)`.

        Args:
            counts: Examples of each class, to give all classes equal weight; None for unweighted classes.
            examples: The number of training examples.
            smoothing: The label smoothing factor.
        """
        raise NotImplementedError

    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Return all metrics of `metrics.METRICS`."""
        return metrics.score(outputs, references, self.name, 0.5 if threshold is None else threshold)

    def bootstrap(
        self, outputs: Any, references: Any, labels: Sequence[str], metric: str, threshold: float | None = None
    ) -> Floats:
        """Return one metric of `metrics.METRICS` on resamples of the examples."""
        at = 0.5 if threshold is None else threshold
        return metrics.bootstrap(outputs, references, self.name, at, names=[metric])[metric]

    def baseline(self, train: Dataset, split: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the scores of always predicting the majority class."""
        return metrics.majority_baseline(train["labels"][:], split["labels"][:], self.name)

    def describe(self, labels: Sequence[str]) -> str:
        """Return the number of classes."""
        return f"{len(labels)} classes"

    def answers(self, outputs: Any, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the probability of every class."""
        return [sorted(zip(labels, row.tolist(), strict=True)) for row in self.probabilities(outputs)]

    def columns(self, labels: Sequence[str]) -> list[str]:
        """Return the columns: the input, its label, and the probability of each class."""
        return ["input", "label", *map(probability_column, labels)]

    def chosen(self, probabilities: Floats, labels: Sequence[str], threshold: float | None) -> str:
        """Return the predicted label of one example, as written into a cell."""
        return str(labels[int(probabilities.argmax())])

    def probabilities(self, logits: Floats) -> Floats:
        """Return the probability of each class, `(examples, classes)`."""
        return metrics.class_probabilities(logits)

    def predictions(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield one row per input: the input, its label (several joined by `|`), and the probability of each class."""
        columns = [probability_column(label) for label in labels]
        for name, row in zip(rows["input"], self.probabilities(outputs), strict=True):
            shares = {column: round(float(p), 6) for column, p in zip(columns, row, strict=True)}
            yield {"input": name, "label": self.chosen(row, labels, threshold)} | shares


def probability_column(label: str) -> str:
    """Return the name of the column for a class: the class name, unless another column has that name."""
    return f"probability of {label}" if label in ("input", "label") else label


@dataclass(frozen=True)
class OneOfSeveral(Classes):
    """Exactly one label per example."""

    name = problem_type = SINGLE_LABEL
    metrics = _directions(SINGLE_LABEL)
    default_metric = default_metric(SINGLE_LABEL)
    contrasts = True

    def read(self, rows: Dataset, column: str, config: DataSettings) -> SingleLabels:
        """Read names, integers or `ClassLabel`s."""
        from hf_ft.tasks.labels import SingleLabels

        return SingleLabels(*self.fields(rows, column, config))

    def counts(self, split: Dataset, labels: Sequence[str]) -> list[int]:
        """Return the number of examples with each label; reads only the column `labels`."""
        from hf_ft.tables import batches

        numbers = [batch["labels"].to_numpy() for batch in batches(split.select_columns(["labels"]))]
        return [int(count) for count in np.bincount(np.concatenate(numbers), minlength=len(labels))]

    def loss(self, counts: list[int] | None, examples: int, smoothing: float) -> Callable[..., torch.Tensor]:
        """Return cross entropy; class weights are inversely proportional to frequency, with mean 1 over examples."""
        from torch.nn.functional import cross_entropy

        weights = None if counts is None else balanced_weights(counts)

        def total(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            weight = None if weights is None else weights.to(logits)
            found = cross_entropy(logits, labels, weight, reduction="sum", label_smoothing=smoothing)
            # A collator such as mixup makes soft labels (examples, classes), and `Trainer` counts every entry.
            return found * labels.shape[-1] if labels.is_floating_point() else found

        return summed_loss(total)

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Return the class with the largest logit."""
        logits, classes = super().decode(outputs, references, labels)
        return logits.argmax(axis=1), classes

    def mean(self, outputs: Sequence[Floats]) -> Floats:
        """Return the logits whose probabilities are the mean of those of several outputs, `(examples, classes)`."""
        from scipy.special import log_softmax, logsumexp

        return np.asarray(logsumexp(log_softmax(outputs, axis=-1), axis=0) - np.log(len(outputs)))

    def confusion(self, outputs: Any, references: Any) -> list[list[int]]:
        """Return true class, predicted class and count of each pair that occurs."""
        pairs = np.stack([np.asarray(references), outputs.argmax(1)], axis=1)
        cells, counts = np.unique(pairs, axis=0, return_counts=True)
        found: list[list[int]] = np.column_stack([cells, counts]).tolist()
        return found


@dataclass(frozen=True)
class AnyOfSeveral(Classes):
    """Any number of labels per example."""

    name = problem_type = MULTI_LABEL
    metrics = _directions(MULTI_LABEL)
    default_metric = default_metric(MULTI_LABEL)
    refused = {
        "label_smoothing_factor": "label_smoothing_factor needs one label per example; these data have several. "
        "Leave it out."
    } | dict.fromkeys(
        ("examples_per_class", "val_examples_per_class"),
        "examples_per_class and val_examples_per_class need one label an example, and these data have several. "
        "Use --max_train_examples and --max_eval_examples.",
    )

    def read(self, rows: Dataset, column: str, config: DataSettings) -> SeveralLabels:
        """Read lists, or texts that `label_separator` splits."""
        from hf_ft.tasks.labels import SeveralLabels

        return SeveralLabels(*self.fields(rows, column, config))

    def counts(self, split: Dataset, labels: Sequence[str]) -> list[int]:
        """Return the number of examples with each label; reads only the column `labels`."""
        import pyarrow.compute as pc

        from hf_ft.tables import batches

        total = np.zeros(len(labels))
        for batch in batches(split.select_columns(["labels"])):
            total += pc.list_flatten(batch["labels"]).to_numpy().reshape(-1, len(labels)).sum(axis=0)
        return [int(count) for count in total]

    def loss(self, counts: list[int] | None, examples: int, smoothing: float) -> Callable[..., torch.Tensor]:
        """Return binary cross entropy; with `counts`, positives of a class have the weight negatives / positives."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        each = torch.tensor(counts or []).clamp(min=1)
        positive = (examples - each).clamp(min=1) / each
        return summed_loss(
            lambda logits, labels: binary_cross_entropy_with_logits(
                logits, labels, pos_weight=None if counts is None else positive.to(logits), reduction="sum"
            )
        )

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Return a row of 0 and 1 for each example, by default with the threshold fitted to these predictions."""
        logits, actual = super().decode(outputs, references, labels)
        at = self.fit(logits, actual) if threshold is None else threshold
        return (metrics.label_probabilities(logits) >= at).astype(np.int64), actual.astype(np.int64)

    def mean(self, outputs: Sequence[Floats]) -> Floats:
        """Return the logits whose probabilities are the mean of those of several outputs, `(examples, labels)`."""
        from scipy.special import log_expit, logsumexp

        each = np.asarray(outputs)
        return np.asarray(logsumexp(log_expit(each), axis=0) - logsumexp(log_expit(-each), axis=0))

    def fit(self, outputs: Any, references: Any) -> float:
        """Return the probability from which a label counts as predicted."""
        return metrics.fit_threshold(outputs, references)

    def usage(self, example: str, labels: Sequence[str], threshold: float | None) -> str:
        """Return a call with all scores (`top_k=None` means five for images), with the threshold in a comment."""
        return f"classify({example}, top_k={len(labels)})  # a label counts from a score of {threshold:.3f} on"

    def chosen(self, probabilities: Floats, labels: Sequence[str], threshold: float | None) -> str:
        """Return all labels whose probability reaches the threshold."""
        assert threshold is not None
        return "|".join(label for label, share in zip(labels, probabilities, strict=True) if share >= threshold)

    def probabilities(self, logits: Floats) -> Floats:
        """Return the independent probability of each label, `(examples, labels)`."""
        return metrics.label_probabilities(logits)


SINGLE, MULTI = OneOfSeveral(), AnyOfSeveral()


def find_target(rows: Dataset, column: str, config: DataSettings) -> Target:
    """Return the target of a label column: one label or several per row, by name or as a list of 0 and 1.

    Raises:
        UserError: The column contains no labels, or settings contradict it.
    """
    from hf_ft.tables import holds_labels, holds_text, is_list, type_name
    from hf_ft.tasks.labels import is_multi_hot

    feature, separator = rows.features[column], config.label_separator
    if not holds_labels(feature):
        raise UserError(
            f"Column '{column}' holds {type_name(feature)}, which cannot be labels. Use whole numbers, text, or lists "
            "of them, or choose another column with --label_column."
        )
    if separator is not None and not holds_text(feature):
        raise UserError(f"label_separator splits text, but column '{column}' holds {type_name(feature)}. Leave it out.")
    if separator is not None and config.problem_type == SINGLE.name:
        raise UserError(
            f"label_separator makes several labels of one cell, which contradicts problem_type {SINGLE.name}."
        )
    found = MULTI if is_list(feature) or separator is not None else SINGLE
    target = {each.name: each for each in (SINGLE, MULTI)}[config.problem_type or found.name]
    multi_hot = is_list(feature) and is_multi_hot(rows, column)
    return dataclasses.replace(target, multi_hot=True) if multi_hot else target


# --- Losses ---------------------------------------------------------------------------------------------------------


def balanced_weights(counts: Sequence[int]) -> torch.Tensor:
    """Return class weights inversely proportional to the counts, with mean 1 over the counted examples."""
    import torch

    each = torch.tensor(counts).clamp(min=1)
    return each.sum() / (len(each) * each)


def summed_loss(total: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a loss for `Trainer`: the sum of losses divided by the number of labels in *all* accumulated batches."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        items = num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum()
        return total(outputs.logits, labels) / items

    return loss
