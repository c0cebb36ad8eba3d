"""The targets of classification, with one label or several per example.

This module imports nothing heavy, because a task's metrics are looked up early; `labels` reads the column.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hf_ft.errors import UserError, shorten
from hf_ft.metrics import (
    MULTI_LABEL,
    SINGLE_LABEL,
    Calibration,
    CalibrationScore,
    ClassScore,
    Score,
    calibration_score,
    class_scores,
    decided,
    default_metric,
    fit_temperature,
    fit_temperature_and_bias,
    margins,
)
from hf_ft.metrics import classification as metrics
from hf_ft.tasks.class_balance import class_weights, is_unequal, positive_weights
from hf_ft.tasks.losses import LossSpec, Total, exclusive_loss, independent_loss, summed_loss
from hf_ft.tasks.target import INTEGER, FindScale, Judged, Learning, Target

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import TrainingArguments

    from hf_ft.settings import Config, DataSettings, TrainingSettings
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
    several: ClassVar[bool] = False
    """Whether an example may have any number of labels."""
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

        The loss replaces the model's own even where it is plain cross entropy: that of many models (BERT) ignores
        `num_items_in_batch`, which `Trainer` relies on, so accumulated gradients would be too large. A head that is
        solved sees every example once, so class weights take the place of a sampler there.
        """
        spec, sampled = LossSpec.of(config, args), config.sampler == "balanced"
        counts = self.counts(train, labels) if spec.counted or sampled else None
        solvable = dataclasses.replace(
            spec,
            name="cross_entropy" if spec.name == "focal" else spec.name,
            weights="balanced" if sampled else spec.weights,
        )
        size, fixed = len(train), config.threshold if isinstance(config.threshold, float) else None
        return Learning(
            metrics.compute_metrics(self.name, fixed),
            self.loss(spec, counts, size, labels),
            solver_loss=self.loss(solvable, counts, size, labels) if solvable != spec else None,
        )

    def loss(
        self, spec: LossSpec, counts: list[int] | None, examples: int, labels: Sequence[str]
    ) -> Callable[..., torch.Tensor]:
        """Return the loss for `Trainer(compute_loss_func=...)`.

        Args:
            spec: What it is made of.
            counts: Examples of each class; may be None unless `spec.counted`.
            examples: The number of training examples.
            labels: The names of the classes.

        Raises:
            UserError: A weight for a class that does not exist.
        """
        raise NotImplementedError

    def undefined(self, references: Any, labels: Sequence[str], by_data: bool = False) -> dict[str, str]:
        """Return the metrics that these references do not define, with the reasons."""
        return (metrics.undefined_by_data if by_data else metrics.undefined)(references, len(labels), self.name)

    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Return all metrics of `metrics.METRICS`."""
        return metrics.score(outputs, references, self.name, 0.5 if threshold is None else threshold)

    def by_class(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> list[ClassScore]:
        """Return precision, recall, F1, average precision and number of examples of each class."""
        predicted, actual = self.decode(outputs, references, labels, threshold)
        return class_scores(actual, predicted, self.probabilities(np.asarray(outputs)), labels)

    def bootstrap(
        self, outputs: Any, references: Any, labels: Sequence[str], metric: str, threshold: float | None = None
    ) -> Floats:
        """Return one metric of `metrics.METRICS` on resamples of the examples."""
        at = 0.5 if threshold is None else threshold
        return metrics.bootstrap(outputs, references, self.name, at, names=[metric])[metric]

    def calibration_score(self, outputs: Any, references: Any) -> CalibrationScore:
        """Return how well the probabilities of outputs fit."""
        return calibration_score(outputs, references, self.name)

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

    def chosen(self, probabilities: Floats, labels: Sequence[str], threshold: float | None) -> list[str]:
        """Return the predicted labels of one example."""
        return [str(labels[int(probabilities.argmax())])]

    def probabilities(self, logits: Floats) -> Floats:
        """Return the probability of each class, `(examples, classes)`."""
        return metrics.class_probabilities(logits)

    def results(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield `{"label": ..., "scores": {class: probability}}` for each row, with several labels `labels`, a list."""
        for row in self.probabilities(outputs):
            chosen, scores = self.chosen(row, labels, threshold), dict(zip(labels, row.tolist(), strict=True))
            yield {"labels": chosen, "scores": scores} if self.several else {"label": chosen[0], "scores": scores}

    def predictions(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield one row per input: the input, its label (several joined by `|`), and the probability of each class."""
        columns = [probability_column(label) for label in labels]
        for name, row in zip(rows["input"], self.probabilities(outputs), strict=True):
            shares = {column: round(float(p), 6) for column, p in zip(columns, row, strict=True)}
            yield {"input": name, "label": "|".join(self.chosen(row, labels, threshold))} | shares


def _log_odds(threshold: float) -> float:
    """Return a probability on the scale of logits, where 0 and 1 are infinitely far."""
    inside = float(np.clip(threshold, 1e-6, 1 - 1e-6))
    return float(np.log(inside) - np.log1p(-inside))


def probability_column(label: str) -> str:
    """Return the name of the column for a class: the class name, unless another column has that name."""
    return f"probability of {label}" if label in ("input", "label") else label


@dataclass(frozen=True)
class OneOfSeveral(Classes):
    """Exactly one label per example.

    Args:
        positive: Of two classes, the one that is predicted if its probability reaches the threshold; without it the
            more probable class is predicted.
    """

    positive: int | None = None
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

    def default_metric_of(self, train: Dataset, labels: Sequence[str]) -> str:
        """Return macro F1 where classes are so unequal that accuracy hardly measures the rare ones."""
        return "f1_macro" if is_unequal(self.counts(train, labels)) else self.default_metric

    def weights(self, config: TrainingSettings, train: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the class weights by name."""
        found = class_weights(config.class_weights, self.counts(train, labels), labels)
        return {} if found is None else dict(zip(labels, found.tolist(), strict=True))

    def loss(
        self, spec: LossSpec, counts: list[int] | None, examples: int, labels: Sequence[str]
    ) -> Callable[..., torch.Tensor]:
        """Return the loss of exclusive classes."""
        exclusive: Total = exclusive_loss(spec, counts, labels)

        def total(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            found = exclusive(logits, wanted)
            # A collator such as mixup makes soft labels (examples, classes), and `Trainer` counts every entry.
            return found * wanted.shape[-1] if wanted.is_floating_point() else found

        return summed_loss(total)

    # A threshold for the rarer of two classes.

    def threshold_problem(self, labels: Sequence[str]) -> str:
        """Return that there are more than two classes, if so."""
        return "" if len(labels) == 2 else f"it is for two classes, or several labels per example, not {len(labels)}"

    def rarer_class(self, train: Dataset, labels: Sequence[str]) -> str | None:
        """Return the rarer of two classes, the second one if they are equally frequent; None for more classes."""
        if len(labels) != 2:
            return None
        first, second = self.counts(train, labels)
        return labels[0 if first < second else 1]

    def deciding(self, label: str, labels: Sequence[str]) -> Target:
        """Return the target that predicts one of two classes from a threshold on."""
        return dataclasses.replace(self, positive=labels.index(label))

    def fit(self, outputs: Any, references: Any, chosen: str | float | None = None) -> float | None:
        """Return the threshold with the best F1 of the positive class."""
        if self.positive is None:
            return None
        if isinstance(chosen, float):
            return chosen
        margin, actual = margins(outputs, self.positive), np.asarray(references) == self.positive
        return metrics.fit_threshold(margin[:, None], actual[:, None].astype(np.int64))

    def calibration(
        self, outputs: Any, references: Any, labels: Sequence[str], chosen: str | float | None, rarer: str | None
    ) -> Calibration:
        """Return the temperature, and with a threshold what makes the class that it decides for the more probable."""
        found = fit_temperature(outputs, references)
        if chosen is None or rarer is None:
            return found
        deciding = self.deciding(rarer, labels)
        threshold = deciding.fit(np.asarray(outputs) * found.scale, references, chosen)
        assert threshold is not None
        moved = np.zeros(len(labels))
        moved[labels.index(rarer)] = -_log_odds(threshold)
        return dataclasses.replace(found, threshold=threshold, moved=moved)

    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Return all metrics; with a threshold those of predicted classes, since it changes no probability."""
        if self.positive is None or threshold is None:
            return metrics.score(outputs, references, self.name)
        answers = decided(outputs, self.positive, threshold)
        specs = metrics.METRICS[self.name]
        scores = metrics.score(answers, references, self.name)
        return {name: score for name, score in scores.items() if specs[name].reads == "labels"}

    def chosen(self, probabilities: Floats, labels: Sequence[str], threshold: float | None) -> list[str]:
        """Return the more probable class, or the positive one if it reaches the threshold."""
        if self.positive is None or threshold is None:
            return super().chosen(probabilities, labels, threshold)
        reached = bool(probabilities[self.positive] >= threshold)
        return [str(labels[self.positive if reached else 1 - self.positive])]

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Return the class with the largest logit, or that of the threshold."""
        logits, classes = super().decode(outputs, references, labels)
        if self.positive is not None and threshold is not None:
            logits = decided(logits, self.positive, threshold)
        return logits.argmax(axis=1), classes

    def mean(self, outputs: Sequence[Floats]) -> Floats:
        """Return the logits whose probabilities are the mean of those of several outputs, `(examples, classes)`."""
        from scipy.special import log_softmax, logsumexp

        return np.asarray(logsumexp(log_softmax(outputs, axis=-1), axis=0) - np.log(len(outputs)))

    def judged(
        self, rows: Dataset, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[Judged]:
        """Yield the more probable class; the error is the negative logarithm of the true one's probability."""
        for shares, true in zip(self.probabilities(np.asarray(outputs)), references, strict=True):
            found = int(shares.argmax())
            error = -float(np.log(max(float(shares[true]), 1e-12)))
            yield Judged(labels[true], labels[found], float(shares[found]), error, found == true)

    def confusion(self, outputs: Any, references: Any) -> list[list[int]]:
        """Return true class, predicted class and count of each pair that occurs."""
        pairs = np.stack([np.asarray(references), outputs.argmax(1)], axis=1)
        cells, counts = np.unique(pairs, axis=0, return_counts=True)
        found: list[list[int]] = np.column_stack([cells, counts]).tolist()
        return found


@dataclass(frozen=True)
class AnyOfSeveral(Classes):
    """Any number of labels per example."""

    several = True
    name = problem_type = MULTI_LABEL
    metrics = _directions(MULTI_LABEL)
    default_metric = default_metric(MULTI_LABEL)
    refused = {
        "sampler": "sampler balanced needs one label per example; these data have several. Use --class_weights.",
        "label_smoothing_factor": "label_smoothing_factor needs one label per example; these data have several. "
        "Leave it out.",
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

    def weights(self, config: TrainingSettings, train: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the weights of the positive examples of each label."""
        found = positive_weights(config.class_weights, self.counts(train, labels), len(train), labels)
        return {} if found is None else dict(zip(labels, found.tolist(), strict=True))

    def loss(
        self, spec: LossSpec, counts: list[int] | None, examples: int, labels: Sequence[str]
    ) -> Callable[..., torch.Tensor]:
        """Return the loss of independent labels."""
        return summed_loss(independent_loss(spec, counts, examples, labels))

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

    def fit(self, outputs: Any, references: Any, chosen: str | float | None = None) -> float:
        """Return the probability from which a label counts as predicted."""
        return chosen if isinstance(chosen, float) else metrics.fit_threshold(outputs, references)

    def calibration(
        self, outputs: Any, references: Any, labels: Sequence[str], chosen: str | float | None, rarer: str | None
    ) -> Calibration:
        """Return temperature and biases, and what moves the threshold to 0.5."""
        found = fit_temperature_and_bias(outputs, references)
        assert found.bias is not None
        threshold = self.fit(np.asarray(outputs) * found.scale + found.bias, references, chosen)
        moved = np.full(len(labels), -_log_odds(threshold))
        return dataclasses.replace(found, threshold=threshold, moved=moved)

    def usage(self, example: str, labels: Sequence[str], threshold: float | None) -> str:
        """Return a call with all scores (`top_k=None` means five for images), with the threshold in a comment."""
        return f"classify({example}, top_k={len(labels)})  # a label counts from a score of {threshold:.3f} on"

    def chosen(self, probabilities: Floats, labels: Sequence[str], threshold: float | None) -> list[str]:
        """Return all labels whose probability reaches the threshold."""
        assert threshold is not None
        return [label for label, share in zip(labels, probabilities, strict=True) if share >= threshold]

    def judged(
        self, rows: Dataset, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[Judged]:
        """Yield the labels that reach the threshold; the error is the mean log loss of all."""
        actual = np.asarray(references).astype(bool)
        shares = np.clip(self.probabilities(np.asarray(outputs)), 1e-12, 1 - 1e-12)
        found = shares >= (0.5 if threshold is None else threshold)
        losses = -np.log(np.where(actual, shares, 1 - shares)).mean(axis=1)
        for one, other, loss in zip(actual, found, losses.tolist(), strict=True):
            true, predicted = (", ".join(itertools.compress(labels, row)) or "none" for row in (one, other))
            yield Judged(true, predicted, None, loss, bool((one == other).all()))

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
