"""The record of a comparison of methods, `compare.json`, and the results of single trials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_ft.records.record_files import DataRecord, Machine, ModelRecord, Record, Scores


@dataclass
class TrialResult:
    """The result of a trial: one training with its scores. A failed one has `error` and nothing else.

    `seconds` are those of training, with the features that it computed; `step_seconds` is the part spent on steps and
    their evaluations, `feature_seconds` on features and decoded images. `features` counts, for each model split,
    computed and used examples. `build_seconds` is what all features that were used took to compute, whoever computed
    them; `wall_seconds` runs from loading the model to the scores on test. `frozen` counts blocks that no stage
    trained, None with adapters; `uncached` lists why frozen layers ran in every epoch. `share` is the part of the
    method's own length that was trained.
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
        """Fill in `standalone_seconds`: the training as if nothing had been cached before."""
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

    `difference` is to the best method, over the seeds that both have: None for the best itself, and without a common
    seed. `indistinguishable` marks the best and methods whose difference includes zero; `inconclusive` those where two
    seeds disagree, so that nothing can be said. `incomplete`: a trial failed.
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
    """Seconds over all trials: of training, of training each alone, and of everything."""

    training: float
    standalone: float
    wall: float


@dataclass
class ExperimentRecord(Record):
    """What the records of experiments on one model and data set share; trials with equal ones can be compared."""

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
