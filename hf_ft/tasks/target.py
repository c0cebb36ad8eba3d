"""The `Target` class: everything that depends on the kind of label that a task predicts.

A target defines how the label column is read and checked, how the model's outputs are named, which metrics score them,
and how predictions are written. `classes` has the targets of classification; other tasks define theirs in their own
module. Only numpy is imported at the top, so that importing a task is fast.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hf_ft.errors import UserError, choose, shorten
from hf_ft.tasks.class_options import NEUTRAL

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import EvalPrediction, TrainingArguments

    from hf_ft.metrics import Calibration, CalibrationScore, ClassScore, Floats, Score
    from hf_ft.settings import Config, DataSettings, TrainingSettings

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Names = TypeVar("Names", bound="NamedLabels")


class Values(ABC):
    """The labels of a split as read by their target, one entry per row."""

    sampling: ClassVar[str] = "stratified"
    """How examples are sampled with these labels, for notes."""
    lacking: ClassVar[str] = "no label"
    """The words for a missing label in errors."""

    @property
    @abstractmethod
    def missing(self) -> BoolArray:
        """The rows without a label."""

    def problems(self, inputs: Dataset) -> Iterator[tuple[str, BoolArray]]:
        """Yield further reasons why rows are unusable ("not exactly one label"), each with a mask of these rows."""
        yield from ()

    def remarks(self, role: str) -> list[str]:
        """Return notes on labels that are unusual but valid."""
        return []

    @abstractmethod
    def outputs(self, used: IntArray, notes: list[str]) -> tuple[str, ...]:
        """Return the names of the outputs of a model trained on the rows `used`; for classes, the class names.

        Raises:
            UserError: All labels are equal.
        """

    @abstractmethod
    def numbered(self, outputs: tuple[str, ...], used: IntArray, role: str, unknown: str, known: str) -> Values:
        """Return these labels with codes that index `outputs`; `role`, `unknown` and `known` are words for the error.

        Raises:
            UserError: Rows in `used` have labels outside `outputs`; lists them.
        """

    @abstractmethod
    def strata(self) -> tuple[IntArray, int]:
        """Return the stratum of each row and the number of strata; sampling preserves their proportions."""

    @abstractmethod
    def column(self) -> Dataset:
        """Return the column `labels`, stored on disk; null in rows without a label."""


@dataclass(frozen=True)
class NamedLabels(Values):
    """Labels as pairs: row `rows[i]` has the label `names[codes[i]]`.

    Args:
        names: The distinct label names.
        rows: The row of each pair, ascending.
        codes: The label of each pair, as an index into `names`.
        counts: The number of labels of each row; -1 if they are missing.
        declared: The label names that the data declare, in order; empty if they declare none.
    """

    names: tuple[str, ...]
    rows: IntArray
    codes: IntArray
    counts: IntArray
    declared: tuple[str, ...]

    noun: ClassVar[str] = "label"
    unit: ClassVar[str] = "examples"
    """The word for the things that have a label, for errors."""

    @property
    def missing(self) -> BoolArray:
        """The rows without a label."""
        return self.counts < 0

    def label_counts(self, used: IntArray) -> dict[str, int]:
        """Return how often each label occurs in the rows `used`."""
        codes = self.codes[np.isin(self.rows, used)]
        counts = np.bincount(codes, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    def outputs(self, used: IntArray, notes: list[str]) -> tuple[str, ...]:
        """Return the labels that occur, in the order that the data declare, else in natural order."""
        counts, noun = self.label_counts(used), self.noun
        present = [name for name, count in counts.items() if count]
        if len(present) < 2:
            has = f"All {self.unit} of train have the {noun} '{present[0]}'" if present else None
            what = has or f"No {self.unit.removesuffix('s')} of train has a {noun}"
            raise UserError(f"{what}: classification needs at least two {noun}s.")
        if absent := [name for name in self.declared if not counts.get(name)]:
            notes.append(
                f"{noun.capitalize()}s that the data declare but no training example has are dropped: "
                f"{shorten(absent)}."
            )
        return tuple(name for name in self.declared or self.order(present) if counts.get(name))

    def order(self, names: Sequence[str]) -> list[str]:
        """Return the names in the order to use if the data declare none."""
        return natural_order(names)

    def numbered(self: Names, outputs: tuple[str, ...], used: IntArray, role: str, unknown: str, known: str) -> Names:
        """Return the labels with codes that index `outputs`."""
        place = {name: number for number, name in enumerate(outputs)}
        strange = {name: count for name, count in self.label_counts(used).items() if count and name not in place}
        if strange:
            listed = shorten((f"{name} ({strange[name]:,})" for name in natural_order(strange)), 10)
            raise UserError(
                f"{role} has {self.noun}s that {unknown}, with their number of {self.unit}: {listed}. {known}: "
                f"{shorten(outputs, 20)}. Take these examples out, or train on such {self.noun}s as well."
            )
        # Rows outside `used` may have unknown labels; their pairs are dropped.
        codes = np.array([place.get(name, -1) for name in self.names], dtype=np.int64)[self.codes]
        return dataclasses.replace(self, names=outputs, rows=self.rows[codes >= 0], codes=codes[codes >= 0])

    def strata(self) -> tuple[IntArray, int]:
        """Return the rarest label of each row as its stratum; rows without labels form the last stratum."""
        width = len(self.names)
        order = np.argsort(np.bincount(self.codes, minlength=width), kind="stable")
        rank = np.argsort(order)
        rarest = np.full(len(self.counts), width, dtype=np.int64)
        np.minimum.at(rarest, self.rows, rank[self.codes])
        return np.append(order, width)[rarest], width + 1


@dataclass(frozen=True)
class Learning:
    """The changes that a target makes to training.

    Args:
        metrics: The function that `Trainer` calls after an evaluation.
        loss: Replaces the model's own loss.
        prepare: Changes a split before it is encoded.
        start: Changes the model before it is trained.
        finish: Changes the model before it is saved.
        restore: Converts outputs and labels of training back to those of the data, if `prepare` changes them.
        solver_loss: Replaces `loss` where a linear head is solved on fixed features instead of trained by steps.
    """

    metrics: Callable[[EvalPrediction], dict[str, float]]
    loss: Callable[..., Any] | None = None
    prepare: Callable[[Dataset], Dataset] = lambda split: split
    start: Callable[[nn.Module], None] | None = None
    finish: Callable[[nn.Module], None] | None = None
    restore: Callable[[Any], Any] | None = None
    solver_loss: Callable[..., Any] | None = None

    @property
    def of_fixed_features(self) -> Callable[..., Any] | None:
        """The loss with which a linear head is solved on fixed features."""
        return self.solver_loss or self.loss


class Scale(Protocol):
    """Shift and unit of standardised numbers: `hf_ft.models.Scale`."""

    @property
    def shift(self) -> float:
        """The number that is subtracted."""

    @property
    def unit(self) -> float:
        """The number that the difference is divided by."""

    def prepare(self, split: Dataset) -> Dataset:
        """Return a split with standardised labels."""

    def fold(self, model: nn.Module, back: bool = False) -> None:
        """Fold shift and unit into the head, so that it predicts in the units of the data; `back` reverts that."""


FindScale = Callable[["Floats"], Scale]
"""Returns the scale of numbers, as far as the head of the model in training can represent it."""


@dataclass(frozen=True)
class Judged:
    """A prediction beside the true label, both in words.

    Args:
        probability: That of the prediction; None where there is no single one.
        error: How far off it is: larger is worse.
        right: Whether it is right; None for numbers.
    """

    true: str
    predicted: str
    probability: float | None
    error: float
    right: bool | None


class Target(ABC):
    """A kind of label: how it is read, learnt, scored and written.

    Args:
        name: The name in `run.json` and for `--problem_type`.
        problem_type: The `problem_type` of the model config; None if `transformers` has none for these labels.
        metrics: Metric -> whether a greater value is better.
        default_metric: The metric that selects the best checkpoint by default.
        baseline_name: The column heading of the baseline scores.
        baseline_note: One sentence on the baseline, for reports.
        refused: Options that do not apply to these labels -> the error message.
        takes_shares: Whether the loss takes shares of labels, (examples, outputs), as mixing makes them.
        contrasts: Whether two examples are either of one class or of two, as a contrastive stage needs it.
        named: Whether the outputs are classes of a whole example, so that a text about each can be embedded.
    """

    name: str
    problem_type: str | None
    metrics: Mapping[str, bool]
    default_metric: str
    baseline_name: str
    baseline_note: str
    refused: Mapping[str, str] = {}
    takes_shares: bool = False
    contrasts: bool = False
    named: bool = False

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a greater value of a metric, or of "loss", is better.

        By default `Trainer` assumes so for every metric whose name does not end in "loss", and would keep the
        checkpoint with the worst calibration or error: see `metric_for_best_model` in
        https://github.com/huggingface/transformers/blob/main/src/transformers/training_args.py.

        Raises:
            UserError: Unknown metric; suggests the nearest name.
        """
        directions = {**self.metrics, "loss": False}
        return directions[choose(metric, directions, f"metric of {self.name}:")]

    # Data.

    @abstractmethod
    def read(self, rows: Dataset, column: str, config: DataSettings) -> Values:
        """Read the label column of a split.

        Raises:
            UserError: The column contains another kind of value.
        """

    def counts(self, split: Dataset, labels: Sequence[str]) -> list[int] | None:
        """Return how often each of `labels` occurs in a finished split; None for labels that are not classes."""
        return None

    def numbers(self, split: Dataset) -> tuple[float, float, float, float] | None:
        """Return the smallest, mean and largest label of a split, and their deviation; None for classes."""
        return None

    def default_metric_of(self, train: Dataset, labels: Sequence[str]) -> str:
        """Return the metric that selects the best checkpoint by default, for this training split."""
        return self.default_metric

    def weights(self, config: TrainingSettings, train: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the class weights by name; empty for none.

        Raises:
            UserError: A weight for a class that does not exist.
        """
        return {}

    # Training.

    @abstractmethod
    def learning(
        self, find_scale: FindScale, train: Dataset, labels: Sequence[str], config: Config, args: TrainingArguments
    ) -> Learning:
        """Return the changes to training.

        Args:
            find_scale: Returns the scale of numbers that the model's head can represent.
            train: The training split.
            labels: The names of the model's outputs.
            config: The settings of the run.
            args: The arguments of `Trainer`.
        """

    # Scores. `outputs` are returned by `evaluation.predict_outputs`; `references` is the column `labels` of the split.

    def threshold_problem(self, labels: Sequence[str]) -> str:
        """Return why a threshold cannot be set for these labels; empty if it can."""
        return ""

    def rarer_class(self, train: Dataset, labels: Sequence[str]) -> str | None:
        """Return the class that a threshold is for: the rarer of two; None for other labels."""
        return None

    def deciding(self, label: str, labels: Sequence[str]) -> Target:
        """Return the target of predictions by a threshold for one of two classes, which `pipeline` does not apply.

        Its `fit`, `score`, `by_class` and `predictions` take the threshold.
        """
        return self

    def fit(self, outputs: Any, references: Any, chosen: str | float | None = None) -> float | None:
        """Return the threshold for `score` and `predictions`, fitted on validation; None for labels without one.

        A number that the user has `chosen` is returned as it is.
        """
        return None

    def calibration(
        self, outputs: Any, references: Any, labels: Sequence[str], chosen: str | float | None, rarer: str | None
    ) -> Calibration:
        """Return the scale and shift of the outputs with which their probabilities fit, fitted on validation.

        Args:
            outputs: Those of validation.
            references: Their labels.
            labels: The names of the model's outputs.
            chosen: The setting `threshold`; it becomes 0.5.
            rarer: The class that a threshold is for; see `rarer_class`.
        """
        raise NotImplementedError(f"{self.name} refuses the option calibrate")

    def calibration_score(self, outputs: Any, references: Any) -> CalibrationScore:
        """Return how well the probabilities of outputs fit."""
        raise NotImplementedError(f"{self.name} refuses the option calibrate")

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Return predictions and references for metrics of `evaluate`: class ids, rows of 0 and 1, numbers, or tags."""
        return np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs), np.asarray(references)

    def mean(self, outputs: Sequence[Any]) -> Any:
        """Return the mean of several outputs for the same examples, such as those for views of an image."""
        return np.mean(outputs, axis=0)

    @abstractmethod
    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Return each metric with its 95 % bootstrap interval over examples."""

    def undefined(self, references: Any, labels: Sequence[str], by_data: bool = False) -> dict[str, str]:
        """Return the metrics that are left out of scores with these references, with the reasons.

        `by_data` leaves out those that never apply to so many classes.
        """
        return {}

    def by_class(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> list[ClassScore] | None:
        """Return the scores of each class, or type of entity; None for labels that are not classes."""
        return None

    @abstractmethod
    def bootstrap(
        self, outputs: Any, references: Any, labels: Sequence[str], metric: str, threshold: float | None = None
    ) -> Floats:
        """Return one metric on 1,000 resamples of the examples, `(resamples,)`: the basis of the interval in `score`.

        The resamples depend only on the number of examples, so values of two models can be subtracted one by one.
        """

    @abstractmethod
    def baseline(self, train: Dataset, split: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """Return the scores on `split` of predictions that need no model, by the metrics that are defined for them."""

    def confusion(self, outputs: Any, references: Any) -> list[list[int]] | None:
        """Return the confusion matrix as a list of true class, predicted class and count.

        Only pairs that occur are listed, because with thousands of classes the full matrix would be larger than the
        data. None for labels that are not classes.
        """
        return None

    # Reports and predictions.

    @abstractmethod
    def answers(self, outputs: Any, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Return the expected output of a plain `pipeline`: label and score of every class, by name, or every word."""

    @abstractmethod
    def describe(self, labels: Sequence[str]) -> str:
        """Return what is predicted, for tables and the card: "3 classes"."""

    def usage(self, example: str, labels: Sequence[str], threshold: float | None) -> str:
        """Return the line of Python that calls the saved model, with a `pipeline` named `classify`."""
        return f"classify({example})"

    @abstractmethod
    def columns(self, labels: Sequence[str]) -> list[str]:
        """Return the names of the columns of the predictions."""

    @abstractmethod
    def results(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any] | list[dict[str, Any]]]:
        """Yield what is predicted for each row, as Python values."""

    @abstractmethod
    def predictions(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """Yield the lines of a table of predictions for rows whose column `input` names each input."""

    def judged(
        self, rows: Dataset, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[Judged]:
        """Yield each prediction of a split beside its label, for examples on the card; by default there are none."""
        yield from ()

    def check_options(self, config: DataSettings, args: TrainingArguments | None = None) -> None:
        """Check that no option is set that does not apply to these labels.

        Raises:
            UserError: One is set; names it and the reason.
        """
        for option, why in self.refused.items():
            if getattr(config, option, None) not in NEUTRAL or getattr(args, option, None):
                raise UserError(why)


INTEGER = re.compile(r"[-+]?\d+")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names in natural order, ignoring case: "2" before "10", "page 9" before "page 10"."""
    names = list(names)
    if all(INTEGER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))

    def key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
        chunks = re.split(r"(\d+)", name.casefold())
        return [(not chunk.isdecimal(), int(chunk) if chunk.isdecimal() else 0, chunk) for chunk in chunks], name

    return sorted(names, key=key)
