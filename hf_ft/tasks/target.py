"""Targets: what a task predicts. All that depends on the kind of label is asked of one value, a `Target`.

A target says how the label column is read and checked, what the model's outputs are called, which metrics score them,
and how predictions are written. `classes` holds those of classification; other tasks bring theirs in their own file.
numpy is all that is imported at the top, so that a task's file stays light.
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

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import EvalPrediction, TrainingArguments

    from hf_ft.metrics import Floats, Score
    from hf_ft.settings import Config, DataSettings

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Names = TypeVar("Names", bound="NamedLabels")


class Values(ABC):
    """The labels of a split, one entry per row of the data, as their target read them."""

    sampling: ClassVar[str] = "stratified"
    """How examples are sampled by these labels, for notes."""
    lacking: ClassVar[str] = "no label"
    """What a row without a label has, for errors."""

    @property
    @abstractmethod
    def missing(self) -> BoolArray:
        """The rows without a label."""

    def problems(self, inputs: Dataset) -> Iterator[tuple[str, BoolArray]]:
        """What else makes rows unusable ("not exactly one label"), and which rows."""
        yield from ()

    def remarks(self, role: str) -> list[str]:
        """Notes on what is unusual about these labels but valid."""
        return []

    @abstractmethod
    def outputs(self, used: IntArray, notes: list[str]) -> tuple[str, ...]:
        """The names of the outputs of a model trained on the rows `used`: for classes, the class names.

        Raises:
            UserError: all labels are the same.
        """

    @abstractmethod
    def numbered(self, outputs: tuple[str, ...], used: IntArray, role: str, unknown: str, known: str) -> Values:
        """These labels as numbers of `outputs`; `role`, `unknown` and `known` are words for the error.

        Raises:
            UserError: rows in use have labels outside `outputs`; lists them.
        """

    @abstractmethod
    def strata(self) -> tuple[IntArray, int]:
        """The stratum of each row and the number of strata; sampling preserves their proportions."""

    @abstractmethod
    def column(self) -> Dataset:
        """The column `labels`, on disk; null in rows without a label."""


@dataclass(frozen=True)
class NamedLabels(Values):
    """Labels as pairs: row `rows[i]` carries the label `names[codes[i]]`; `rows` ascends.

    `counts` is the number of labels of each row, -1 where they are missing. `declared` is the order of
    the labels that the data declare, empty if they declare none.
    """

    names: tuple[str, ...]
    rows: IntArray
    codes: IntArray
    counts: IntArray
    declared: tuple[str, ...]

    noun: ClassVar[str] = "label"
    unit: ClassVar[str] = "examples"
    """What carries a label, for errors."""

    @property
    def missing(self) -> BoolArray:
        """The rows without a label."""
        return self.counts < 0

    def label_counts(self, used: IntArray) -> dict[str, int]:
        """How often each label occurs in the rows `used`."""
        codes = self.codes[np.isin(self.rows, used)]
        counts = np.bincount(codes, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    def outputs(self, used: IntArray, notes: list[str]) -> tuple[str, ...]:
        """The labels that occur, in the order that the data declare, else in natural order."""
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
        """The order of labels where the data declare none."""
        return natural_order(names)

    def numbered(self: Names, outputs: tuple[str, ...], used: IntArray, role: str, unknown: str, known: str) -> Names:
        """Number the labels by their place in `outputs`."""
        place = {name: number for number, name in enumerate(outputs)}
        strange = {name: count for name, count in self.label_counts(used).items() if count and name not in place}
        if strange:
            listed = shorten((f"{name} ({strange[name]:,})" for name in natural_order(strange)), 10)
            raise UserError(
                f"{role} has {self.noun}s that {unknown}, with their number of {self.unit}: {listed}. {known}: "
                f"{shorten(outputs, 20)}. Take these examples out, or train on such {self.noun}s as well."
            )
        # Labels of rows that are not in use may be unknown; their pairs go.
        codes = np.array([place.get(name, -1) for name in self.names], dtype=np.int64)[self.codes]
        return dataclasses.replace(self, names=outputs, rows=self.rows[codes >= 0], codes=codes[codes >= 0])

    def strata(self) -> tuple[IntArray, int]:
        """For each row the rarest of its labels; a stratum of its own, the last, for rows without."""
        width = len(self.names)
        order = np.argsort(np.bincount(self.codes, minlength=width), kind="stable")
        rank = np.argsort(order)
        rarest = np.full(len(self.counts), width, dtype=np.int64)
        np.minimum.at(rarest, self.rows, rank[self.codes])
        return np.append(order, width)[rarest], width + 1


@dataclass(frozen=True)
class Learning:
    """What a target changes in training.

    `loss` replaces the model's own; `metrics` is what `Trainer` calls after an evaluation; `prepare` changes a split
    before it is encoded; `start` changes the model before it is trained, `finish` before it is saved. `restore`
    turns outputs and labels of training back into those of the data, where `prepare` changes them.
    """

    metrics: Callable[[EvalPrediction], dict[str, float]]
    loss: Callable[..., Any] | None = None
    prepare: Callable[[Dataset], Dataset] = lambda split: split
    start: Callable[[nn.Module], None] | None = None
    finish: Callable[[nn.Module], None] | None = None
    restore: Callable[[Any], Any] | None = None


class Scale(Protocol):
    """Shift and unit of standardised numbers: `hf_ft.models.Scale`."""

    @property
    def shift(self) -> float:
        """What is taken off."""

    @property
    def unit(self) -> float:
        """What the rest is divided by."""

    def prepare(self, split: Dataset) -> Dataset:
        """A split with standardised labels."""

    def fold(self, model: nn.Module, back: bool = False) -> None:
        """Let the head answer in the units of the data; `back` takes that out again."""


FindScale = Callable[["Floats"], Scale]
"""Finds the scale of numbers that the head of the model in training can hold."""


class Target(ABC):
    """What the toolkit asks about a kind of label.

    Args:
        name: The name recorded in `run.json` and taken by `--problem_type`.
        problem_type: That of the model's config; None where `transformers` has none for it.
        metrics: Each metric, and whether a larger value is better.
        default_metric: The metric that selects the best checkpoint by default.
        baseline_name: The heading of the column of scores that need no model.
        baseline_note: What these scores are, for reports.
        refused: Options that make no sense for these labels, and why.
    """

    name: str
    problem_type: str | None
    metrics: Mapping[str, bool]
    default_metric: str
    baseline_name: str
    baseline_note: str
    refused: Mapping[str, str] = {}

    def higher_is_better(self, metric: str) -> bool:
        """Whether a larger value is the better one; knows "loss" as well.

        By default, `Trainer` takes a greater value of every metric whose name does not end in "loss" as better, and
        would keep the checkpoint with the worst calibration or error: see `metric_for_best_model` in
        https://github.com/huggingface/transformers/blob/main/src/transformers/training_args.py.

        Raises:
            UserError: for an unknown metric, naming the nearest.
        """
        directions = {**self.metrics, "loss": False}
        return directions[choose(metric, directions, f"metric of {self.name}:")]

    # Data.

    @abstractmethod
    def read(self, rows: Dataset, column: str, config: DataSettings) -> Values:
        """Read the label column of a split.

        Raises:
            UserError: it holds something else.
        """

    def counts(self, split: Dataset, labels: Sequence[str]) -> list[int] | None:
        """How often each of `labels` occurs in a finished split; None for labels that are not classes."""
        return None

    # Training.

    @abstractmethod
    def learning(
        self, find_scale: FindScale, train: Dataset, labels: Sequence[str], config: Config, args: TrainingArguments
    ) -> Learning:
        """What to change in training; `find_scale` answers for the model that is to be trained."""

    # Scores. `outputs` are those of `evaluation.predict_outputs`, `references` the column `labels` of the split.

    def fit(self, outputs: Any, references: Any) -> float | None:
        """The threshold for `score` and `predictions`, fitted on validation; None for labels without one."""
        return None

    def decode(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> tuple[Any, Any]:
        """Outputs and references as metrics of `evaluate` take them: class ids, rows of 0 and 1, numbers, or tags."""
        return np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs), np.asarray(references)

    @abstractmethod
    def score(
        self, outputs: Any, references: Any, labels: Sequence[str], threshold: float | None = None
    ) -> dict[str, Score]:
        """Each metric with its 95 % bootstrap interval over examples."""

    @abstractmethod
    def bootstrap(
        self, outputs: Any, references: Any, labels: Sequence[str], metric: str, threshold: float | None = None
    ) -> Floats:
        """One metric on 1,000 resamples of the examples `(resamples,)`, from which `score` has its interval.

        The resamples depend on the number of examples alone, so those of two models can be subtracted one by one.
        """

    @abstractmethod
    def baseline(self, train: Dataset, split: Dataset, labels: Sequence[str]) -> dict[str, float]:
        """The scores on `split` of predictions that need no model, by the metrics that are defined for these."""

    def confusion(self, outputs: Any, references: Any) -> list[list[int]] | None:
        """How many examples of each class were predicted as each class; None for labels that are not classes.

        A list of true class, predicted class and count, for the pairs that occur: with thousands of classes, the whole
        table would be larger than the data.
        """
        return None

    # Words and predictions.

    @abstractmethod
    def answers(self, outputs: Any, labels: Sequence[str]) -> list[list[tuple[str, float]]]:
        """What a plain `pipeline` says of each example: label and score of every class, by name, or of every word."""

    @abstractmethod
    def describe(self, labels: Sequence[str]) -> str:
        """What is predicted, for tables and card: "3 classes"."""

    def usage(self, example: str, labels: Sequence[str], threshold: float | None) -> str:
        """The line of Python that uses the saved model by a `pipeline` called `classify`."""
        return f"classify({example})"

    @abstractmethod
    def columns(self, labels: Sequence[str]) -> list[str]:
        """The columns of the predictions."""

    @abstractmethod
    def predictions(
        self, rows: Dataset, outputs: Any, labels: Sequence[str], threshold: float | None
    ) -> Iterator[dict[str, Any]]:
        """The predictions for rows whose column `input` names each input."""

    def check_options(self, config: DataSettings, args: TrainingArguments | None = None) -> None:
        """Refuse options that make no sense for these labels.

        Raises:
            UserError: names the option and the reason.
        """
        for option, why in self.refused.items():
            if getattr(config, option, None) not in (None, "none") or getattr(args, option, None):
                raise UserError(why)


INTEGER = re.compile(r"[-+]?\d+")


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as people do, ignoring case: "2" before "10", "page 9" before "page 10"."""
    names = list(names)
    if all(INTEGER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))

    def key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
        chunks = re.split(r"(\d+)", name.casefold())
        return [(not chunk.isdecimal(), int(chunk) if chunk.isdecimal() else 0, chunk) for chunk in chunks], name

    return sorted(names, key=key)
