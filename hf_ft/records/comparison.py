"""The record of a comparison of methods, `compare.json`, and the results of single trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_ft.records.record_files import DataRecord, Machine, ModelRecord, Record, Scores


@dataclass
class TrialResult:
    """The result of a trial: one training run with its scores. A failed trial has only `error`.

    Args:
        trial: The id of the trial.
        method: The method as the user wrote it.
        seed: The seed of training and sampling.
        size: Training examples per class; None for the whole split.
        examples: Number of training examples.
        seconds: Time of training, including the features that it computed.
        step_seconds: The part of `seconds` spent on steps and their evaluations.
        feature_seconds: The part of `seconds` spent on features and decoded images.
        build_seconds: Time to compute all features that were used, in this trial or an earlier one.
        standalone_seconds: Time of training as if nothing had been cached before; computed from the others.
        features: Model split -> number of examples computed and used.
        wall_seconds: Time from loading the model to the scores on test.
        blocks: Number of blocks of the model.
        frozen: Number of blocks that no stage trained; None with adapters.
        trainable: Largest number of trainable parameters in a stage.
        epochs: Epochs of all stages.
        peak_memory: Peak memory in bytes.
        uncached: Why frozen layers ran in every epoch, if they did.
        metrics: Split -> metric -> score.
        share: The part of the method's own length that was trained.
        error: Why the trial failed.
    """

    trial: str
    method: str
    seed: int
    size: int | None
    examples: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    feature_seconds: float = 0.0
    build_seconds: float = 0.0
    standalone_seconds: float = 0.0
    features: dict[str, list[int]] = field(default_factory=dict)
    wall_seconds: float = 0.0
    blocks: int = 0
    frozen: int | None = None
    trainable: int = 0
    epochs: float = 0.0
    peak_memory: int = 0
    uncached: list[str] = field(default_factory=list)
    metrics: dict[str, Scores] = field(default_factory=dict)
    share: float = 1.0
    error: str = ""

    def __post_init__(self) -> None:
        """Compute `standalone_seconds`."""
        self.standalone_seconds = round(self.seconds - self.feature_seconds + self.build_seconds, 3)

    def score(self, split: str, metric: str) -> float:
        """Return the value of a metric on a split."""
        return self.metrics[split][metric].value


@dataclass
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class ComparisonRow:
    """One method at one training set size, over its seeds.

    `values`, `seconds_per_trial` and `seeds` are in the same order; `std` is None for a single seed. `difference` is
    to the best method, over common seeds: None for the best itself and without a common seed. `indistinguishable` marks
    the best and methods whose difference includes zero, `inconclusive` methods with two seeds that disagree,
    `incomplete` methods with a failed trial.
    """

    method: str
    size: int | None
    examples: int
    seeds: list[int]
    values: list[float]
    mean: float
    low: float
    high: float
    std: float | None
    seconds: float
    seconds_per_trial: list[float]
    blocks: int
    frozen: int | None
    trainable: int
    incomplete: bool
    best: bool
    difference: Interval | None
    indistinguishable: bool
    inconclusive: bool


@dataclass
class ComparisonSeconds:
    """Seconds over all trials: of training, of training each trial alone with an empty cache, and in total."""

    training: float
    standalone: float
    wall: float


@dataclass
class ExperimentRecord(Record):
    """The common fields of experiments on one model and data set; trials with equal `identity` are comparable."""

    task: str
    model: ModelRecord
    data: DataRecord
    settings: dict[str, Any]
    metric: str
    metric_title: str
    higher_is_better: bool
    split: str
    machine: Machine
    versions: dict[str, str]

    def identity(self) -> dict[str, tuple[Any, str]]:
        """Return task, content of model and data, settings and metric; names and places do not count."""
        model, data = self.model, self.data
        return {
            "task": (self.task, f"'{self.task}'"),
            "model": (model.digest, f"'{model.name}' (content {str(model.digest)[:8]})"),
            "dataset": (data.fingerprint, f"'{data.name}' (content {data.fingerprint[:8]})"),
            **{name: (value, f"'{value}'") for name, value in self.settings.items()},
            "metric": (self.metric, f"'{self.metric}'"),
        }


@dataclass
class ComparisonRecord(ExperimentRecord):
    """The content of `compare.json`. While trials are missing, `seconds` is None and `rows` are empty."""

    FILE: ClassVar[str] = "compare.json"
    TITLE: ClassVar[str] = "comparison"
    KIND: ClassVar[str] = "comparison"
    SCHEMA: ClassVar[int] = 1

    notes: list[str]
    runs: list[TrialResult] = field(default_factory=list)
    rows: list[ComparisonRow] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    uncached: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    seconds: ComparisonSeconds | None = None

    @property
    def finished(self) -> bool:
        """Whether all trials have run."""
        return self.seconds is not None

    @property
    def sizes(self) -> list[int | None]:
        """The training set sizes, in examples per class; None is the whole split."""
        return list(dict.fromkeys(row.size for row in self.rows))
