"""Text regression: one number per text or pair of texts, such as a rating, a price or a similarity.

The head is trained on numbers with mean 0 and standard deviation 1. At the end, mean and deviation of the training
examples are folded into its last layer, so that the saved model is a plain one and predicts in the user's units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_ft.errors import UserError, shorten
from hf_ft.metrics import Floats, Score, regression
from hf_ft.modalities import get_modality
from hf_ft.tasks import text_classification
from hf_ft.tasks.base import Task
from hf_ft.tasks.class_options import CLASS_OPTIONS
from hf_ft.tasks.target import BoolArray, FindScale, IntArray, Judged, Learning, Target, Values

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, TrainingArguments

    from hf_ft.settings import Config, DataSettings


# --- Reading numbers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers(Values):
    """One number per row, NaN if it is missing; `broken` marks rows with anything but a finite number."""

    sampling: ClassVar[str] = "at random"
    lacking: ClassVar[str] = "no number"

    column_name: str
    values: Floats
    broken: BoolArray

    @property
    def missing(self) -> BoolArray:
        """The rows without a number."""
        return np.isnan(self.values) & ~self.broken

    def problems(self, inputs: Dataset) -> Iterator[tuple[str, BoolArray]]:
        """Yield the rows with text that is not a number, or infinity."""
        yield "a label that is not a finite number", self.broken

    def outputs(self, used: IntArray, notes: list[str]) -> tuple[str, ...]:
        """Return the name of the column as that of the single output."""
        found = np.unique(self.values[used])
        if len(found) < 2:
            raise UserError(f"All examples of train have the number {found[0]:g}: regression needs different ones.")
        if len(found) == 2:
            notes.append(f"There are two numbers only ({found[0]:g} and {found[1]:g}): text_classification may fit.")
        return (self.column_name,)

    def numbered(self, outputs: tuple[str, ...], used: IntArray, role: str, unknown: str, known: str) -> Numbers:
        """Return the numbers unchanged."""
        return self

    def strata(self) -> tuple[IntArray, int]:
        """Return a single stratum: examples are sampled at random."""
        return np.zeros(len(self.values), dtype=np.int64), 1

    def column(self) -> Dataset:
        """Return the numbers as float64; the collator converts them to float32 after they are standardised."""
        import pyarrow as pa
        from datasets import Features, Value

        from hf_ft.tables import store

        numbers = pa.array(self.values, mask=~np.isfinite(self.values))
        return store([pa.table({"labels": numbers})], Features({"labels": Value("float64")}))


def number(value: Any) -> float:
    """Return a cell as a number: NaN if it is empty, infinity if it is anything but a finite number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    with suppress(ValueError):
        found = float(value)
        return found if not (math.isnan(found) and isinstance(value, str)) else math.inf
    return math.inf


def _spoken(value: float) -> str:
    """Return a number in about five digits, without an exponent where it is large."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.5g}"


# --- The task -------------------------------------------------------------------------------------------------------


class Number(Target):
    """One finite number per example."""

    name = "regression"
    problem_type = "regression"
    metrics = regression.HIGHER_IS_BETTER
    default_metric = "mse"
    baseline_name = "mean"
    baseline_note = "`mean` always answers with the mean of the training data"
    refused: Mapping[str, str] = {
        option: f"{option} applies to classes, and text_regression predicts numbers. Remove it."
        for option in CLASS_OPTIONS
    }

    def read(self, rows: Dataset, column: str, config: DataSettings) -> Numbers:
        """Read numbers, or texts that are numbers."""
        from hf_ft.tables import batches, holds_labels, is_list, type_name

        feature = rows.features[column]
        if is_list(feature) or not holds_labels(feature):
            held = "lists" if is_list(feature) else type_name(feature)
            raise UserError(f"Column '{column}' holds {held}, not numbers. Choose another with --label_column.")
        cells = (cell for batch in batches(rows.select_columns([column])) for cell in batch[column].to_pylist())
        found = np.fromiter(map(number, cells), dtype=np.float64)
        broken = np.isinf(found)
        if len(found) and broken.all():
            example = shorten((str(cell) for cell in rows[column][:3]), 3)
            raise UserError(
                f"Column '{column}' holds no number ({example}). For classes use --task text_classification, or choose "
                "another column with --label_column."
            )
        return Numbers(column, found, broken)

    def numbers(self, split: Dataset) -> tuple[float, float, float, float]:
        """Return the smallest, mean and largest number of a split, and the standard deviation."""
        found = regression.checked_numbers(split["labels"][:])
        return float(found.min()), float(found.mean()), float(found.max()), float(found.std())

    def learning(
        self, find_scale: FindScale, train: Dataset, labels: Sequence[str], config: Config, args: TrainingArguments
    ) -> Learning:
        """Standardise the numbers in training, and fold the scale into the head at its end.

        Metrics are in the user's units. The loss is the squared error. It replaces the model's own, because
        that of many models ignores `num_items_in_batch`, which `Trainer` relies on when it accumulates gradients.
        """
        from torch.nn.functional import mse_loss

        from hf_ft.tasks.losses import summed_loss

        scale = find_scale(np.asarray(train["labels"][:], dtype=np.float64))

        def restore(numbers: Any) -> Any:
            return regression.checked_numbers(numbers) * scale.unit + scale.shift

        def metrics(prediction: EvalPrediction) -> dict[str, float]:
            outputs = prediction.predictions
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            return regression.metric_values(restore(logits), restore(prediction.label_ids))

        loss = summed_loss(lambda logits, numbers: mse_loss(logits.flatten(), numbers.to(logits), reduction="sum"))
        start = partial(scale.fold, back=True) if config.keep_head else None
        return Learning(metrics, loss, scale.prepare, start, scale.fold, restore)

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Return numbers of shape `(examples,)`."""
        found, actual = super().decode(outputs, references, labels)
        return regression.checked_numbers(found), regression.checked_numbers(actual)

    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Return all metrics with their intervals."""
        return regression.score(outputs, references)

    def bootstrap(
        self, outputs: Any, references: Any, labels: Sequence[str], metric: str, threshold: float | None = None
    ) -> Floats:
        """Return one metric on resamples of the examples."""
        return regression.bootstrap(outputs, references, metric)

    def baseline(self, train: Dataset, split: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the scores of the mean of the training split, without correlations: a constant has none."""
        actual = regression.checked_numbers(split["labels"][:])
        constant = np.full(len(actual), regression.checked_numbers(train["labels"][:]).mean())
        found = regression.metric_values(constant, actual)
        return {name: found[name] for name in ("mse", "mae", "r2")}

    def answers(self, outputs: Any, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the number, named like the column."""
        return [[(labels[0], found)] for found in regression.checked_numbers(outputs).tolist()]

    def describe(self, labels: Sequence[str]) -> str:
        """Return the words for a single number."""
        return "a number"

    def columns(self, labels: Sequence[str]) -> list[str]:
        """Return the columns: the input and the predicted number."""
        return ["input", "prediction"]

    def results(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield `{"prediction": number}` for each row."""
        for found in regression.checked_numbers(outputs).tolist():
            yield {"prediction": float(f"{found:.7g}")}  # all the digits that float32 has

    def judged(
        self, rows: Dataset, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[Judged]:
        """Yield the numbers; the error is their distance."""
        pairs = zip(regression.checked_numbers(outputs), regression.checked_numbers(references), strict=True)
        for found, true in pairs:
            yield Judged(_spoken(true), _spoken(found), None, abs(float(found - true)), None)

    def predictions(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield one row per input."""
        for name, found in zip(rows["input"], self.results(rows, outputs, labels, threshold), strict=True):
            yield {"input": name, **found}


NUMBER = Number()

TASK = Task(
    name="text_regression",
    summary="one number per text or pair of texts",
    modality=get_modality("text"),
    auto_class="AutoModelForSequenceClassification",
    pipeline="text-classification",
    inputs=text_classification.TASK.inputs,
    optional_inputs=text_classification.TASK.optional_inputs,
    training=text_classification.TASK.training,
    encode=text_classification.encode,
    collator=text_classification.collator,
    limit=text_classification.longest,
    raw=text_classification.raw,
    gather=text_classification.TASK.gather,
    label_names=("label", "labels", "score", "target", "value", "rating", "stars", "similarity_score", "price"),
    targets=lambda: (NUMBER,),
    find_target=lambda rows, column, config: NUMBER,
)
