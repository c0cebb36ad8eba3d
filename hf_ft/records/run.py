"""The record of a training run, `run.json`: every number in its card, pages and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_ft.environment import Energy
from hf_ft.records.calibration import CalibrationRecord
from hf_ft.records.freeze_depth import DepthAlternative, DepthCost
from hf_ft.records.record_files import DataRecord, Machine, ModelRecord, Record, Scores


@dataclass
class DepthGroupRecord:
    """A depth group of the model and its number of parameters."""

    name: str
    role: str
    parameters: int


@dataclass
class GroupSettingRecord:
    """The setting of one depth group in a stage: `frozen`, `train` or `adapt ...`, and the learning rate."""

    mode: str
    rate: float


@dataclass
class PlannedStageRecord:
    """A stage as planned: its length and a setting for each depth group.

    `solved` marks a closed-form head; `objective` is what the stage learns in place of the task.
    """

    name: str
    epochs: float
    max_steps: int
    scheduler: str | None
    warmup: float | None
    solved: bool
    peft: str | None
    peft_options: dict[str, Any]
    settings: list[GroupSettingRecord]
    objective: str | None = None


@dataclass
class PlanRecord:
    """The depth groups of the model, and the stages that train them."""

    groups: list[DepthGroupRecord]
    stages: list[PlannedStageRecord]


@dataclass
class ClassesRecord:
    """How unequal the classes of the training split are, and what the run does about it.

    `total` counts all labels (words for tags). `macro_f1_by_default` is whether the classes are so unequal that macro
    F1 selects the best epoch unless the user chooses a metric. `rule` is the option `class_weights`, `weights` what it
    gives by class. `loss` is empty for a loss of the caller.
    """

    rarest: str
    rarest_count: int
    commonest: str
    commonest_count: int
    total: int
    macro_f1_by_default: bool
    loss: str
    rule: str
    weights: dict[str, float]
    sampler: str


@dataclass
class PrecisionRecord:
    """The precision of training: that of autocast (`compute`), while weights and optimizer are float32.

    `tf32` is whether the float32 operations of a GPU round their inputs to TF32. `explicit` is whether an option of the
    user set `compute`. `note` is advice for the reader.
    """

    compute: str
    tf32: bool
    explicit: bool
    note: str = ""


@dataclass(kw_only=True)
class RunDescription:
    """The part of the record that is known before training.

    `extensions` names code of the caller that takes part: callbacks, a loss, a task.
    """

    task: str
    pipeline: str
    auto_class: str
    method: str
    paper: str
    model: ModelRecord
    data: DataRecord
    plan: PlanRecord
    extensions: dict[str, Any] = field(default_factory=dict)
    classes: ClassesRecord | None = None
    precision: PrecisionRecord | None = None


@dataclass
class ExampleRecord:
    """An example on the card: its text shortened or the name of its file, and the true and predicted label.

    `probability` is that of the prediction, where there is one; `error` orders the mistakes.
    """

    input: str
    true: str
    predicted: str
    probability: float | None
    error: float


@dataclass
class ExamplesRecord:
    """Examples of a split that the user allowed to be shown (`--card_examples`).

    `sample` was drawn at random, `mistakes` are the worst, of `wrong` predictions that were not right.
    """

    split: str
    sample: list[ExampleRecord]
    mistakes: list[ExampleRecord]
    wrong: int | None


@dataclass
class StoppedEarly:
    """How early stopping ended a stage: after which epoch of how many, which was the best, and why."""

    epoch: float
    planned_epochs: float
    best_epoch: float
    reason: str


@dataclass
class AutotuneRecord:
    """How a step runs (`--autotune`): the fastest of several forms that give the same numbers up to rounding.

    `what` is `training`, `features` or `prediction`. `attention` is None for the model's own. `gain` is how many times
    as fast as the usual form it is, `ms_per_example` the median of each form, `difference` the largest difference of
    outputs relative to their scale. `source` is `tried`, `remembered` or `resumed`; `seconds` are those of the trial.
    """

    what: str
    memory_format: str = "contiguous"
    attention: str | None = None
    gain: float = 1.0
    ms_per_example: dict[str, float] = field(default_factory=dict)
    difference: float = 0.0
    seconds: float = 0.0
    source: str = "tried"


@dataclass
class SoupRecord:
    """A greedy soup of a stage's checkpoints.

    `candidates` are their steps, best first. `scores` are those of the first alone and of each average that was tried,
    in that order; `used` are the steps of those averaged. `score` is that of the result, `best_single` that of the best
    checkpoint alone.
    """

    candidates: list[int]
    scores: list[float]
    used: list[int]
    best_single: float
    score: float


@dataclass
class SoupMember:
    """A run that was tried in a soup of runs.

    `alone` is its own score on validation, `tried` that of the average with it, None for the best run, with which the
    soup begins. `seconds` are those of its training.
    """

    name: str
    method: str
    seed: int
    alone: float
    tried: float | None
    joined: bool
    seconds: float


@dataclass
class RunSoupRecord:
    """A greedy soup of several runs: its members, best first, and `metric` on validation, by which it was chosen.

    `score` is that of the result, `best_single` that of the best run alone. `recomputed` is the number of BatchNorm
    layers whose running statistics were computed anew.
    """

    metric: str
    members: list[SoupMember]
    best_single: float
    score: float
    recomputed: int


@dataclass
class TokenBatchesRecord:
    """Batches of a stage filled by tokens: most `tokens` of one, how many an epoch, and of the first epoch the mean
    number of `texts` and the share of tokens that are `padding`.
    """

    tokens: int
    batches: int
    texts: float
    padding: float


@dataclass
class ReadingRecord:
    """How a stage that trains by steps read its data.

    `workers` is the number of processes that read examples, and `reason` why; `row_seconds` the time that reading one
    took, None if it was not measured. `waited` are the seconds that steps waited for data, `share` that of their time,
    `device_idle` the share in which a GPU had nothing to do between two steps, None on other devices.
    """

    workers: int
    reason: str
    row_seconds: float | None
    waited: float
    share: float
    device_idle: float | None


@dataclass
class StageRecord:
    """A finished stage.

    `seconds` includes computing features and evaluating. `peak_memory` is in bytes. `history` is what `Trainer` logged,
    with steps and epochs counted over all stages. `frozen_checked` is the number of tensors that were verified to be
    unchanged. `cache` describes the cached features, or `uncached` says why frozen layers ran in every epoch, and
    `evaluated` the features of validation if those were cached all the same; `images` describes the image cache, and
    `solver` how a closed-form head was fitted. `ema` is the decay of the average of weights. `epochs` are those that
    were planned: `stopped` says where early stopping ended them. `autotune` is how steps ran where that was tried.
    """

    name: str
    epochs: float
    steps: int
    seconds: float
    peak_memory: int
    trainable: int
    total: int
    frozen_checked: int
    best_metric: float | None
    history: list[dict[str, Any]]
    notes: list[str]
    cache: dict[str, Any] | None
    uncached: str
    images: dict[str, float] | None
    solver: dict[str, Any] | None
    evaluated: dict[str, Any] | None = None
    ema: float | None = None
    stopped: StoppedEarly | None = None
    soup: SoupRecord | None = None
    token_batches: TokenBatchesRecord | None = None
    reading: ReadingRecord | None = None
    autotune: list[AutotuneRecord] = field(default_factory=list)


@dataclass
class Baseline:
    """The baseline without a model that reports show beside the scores."""

    name: str
    note: str


@dataclass
class HeadInputRecord:
    """Layer probes beside a linear probe on the head's input, for a model whose blocks are all frozen.

    `boundaries` are numbers of blocks below, `boundary_scores` the scores there. `difference` is the 95 % interval of
    the best boundary minus the head's input; `reads_less` is whether it lies above zero.
    """

    reads_less: bool
    best_boundary: int
    difference: list[float]
    suggested_method: str
    metric: str
    head_score: float
    boundaries: list[int]
    boundary_scores: list[float]
    examples: list[int]
    seconds: float


@dataclass
class NewTensors:
    """Tensors that were newly initialised, and how many were loaded from the checkpoint."""

    new: list[str]
    loaded: int


@dataclass
class ImageSizeProof:
    """Another image size than the checkpoint's: the tensors that were resampled for it, and how many are unchanged."""

    size: int
    checkpoint: int
    resampled: list[str]
    unchanged: int


@dataclass
class FrozenProof:
    """The number of frozen tensors that were verified to be bit-identical after each stage."""

    tensors: list[int]


@dataclass
class Proofs:
    """The verified properties of a run. `only_head_new` is None if training started from random weights."""

    only_head_new: NewTensors | None
    frozen: FrozenProof
    load_back: dict[str, Any] | None = None
    image_size: ImageSizeProof | None = None


@dataclass
class FreezeDepthChoice:
    """The freeze depth that method `auto` chose; for the fields see `DepthChoice` of `depth.json`."""

    by: str
    blocks: int
    frozen: int
    mean: float
    low: float
    high: float
    alternative: DepthAlternative | None
    cost: DepthCost


@dataclass
class ClassScoreRecord:
    """The scores of one class, or type of entity. `average_precision` is None without probabilities or examples."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    average_precision: float | None


ClassScores = list[ClassScoreRecord]


@dataclass
class ThresholdRecord:
    """The probability from which the rarer of two classes, `label`, is predicted by `hf-ft predict` and `evaluate`.

    A plain `pipeline` answers with the more probable class. `fitted` is whether the value was fitted on validation.
    `metrics[split]` and `by_class[split]` are scores of predictions with the threshold.
    """

    label: str
    value: float
    fitted: bool
    metrics: dict[str, Scores]
    by_class: dict[str, ClassScores]


@dataclass
class RepeatRecord:
    """What repeating a run takes beside its model and data.

    `settings` are those that decide the result, `explicit` the names of all that the user set. `threads` of `processor`
    computed it; others may round otherwise. `weights` is the SHA-256 of the saved files of weights.
    """

    settings: dict[str, Any]
    explicit: list[str]
    processor: str
    threads: int
    weights: str


@dataclass(kw_only=True)
class _RunResult(RunDescription):
    """The part of the record that training adds: settings, stages, scores and proofs."""

    settings: dict[str, Any]
    stages: list[StageRecord]
    metric: str
    selection_metric: str
    metrics: dict[str, Scores]
    metrics_without_duplicates: dict[str, Scores]
    baseline: dict[str, dict[str, float]]
    baseline_description: Baseline
    threshold: float | None
    usage: str
    confusion: dict[str, list[list[int]]]
    head_input: HeadInputRecord | None
    proofs: Proofs
    machine: Machine
    versions: dict[str, str]
    freeze_depth: FreezeDepthChoice | None = None
    custom_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    by_class: dict[str, ClassScores] = field(default_factory=dict)
    undefined_metrics: dict[str, dict[str, str]] = field(default_factory=dict)
    rare_class: ThresholdRecord | None = None
    soup: RunSoupRecord | None = None
    autotune: list[AutotuneRecord] = field(default_factory=list)
    calibration: CalibrationRecord | None = None
    phases: dict[str, float] = field(default_factory=dict)
    command: str = ""
    adapter: bool = False
    energy: Energy | None = None
    examples: ExamplesRecord | None = None
    repeat: RepeatRecord | None = None


@dataclass(kw_only=True)
class RunRecord(_RunResult, Record):
    """The content of `run.json`, without local paths and tokens.

    `metrics[split][name]` has an interval over examples; `metrics_without_duplicates` are the same metrics on examples
    that do not occur in the training split. `selection_metric` chose the checkpoint; `metric` is the one that reports
    show. `custom_metrics` are the caller's. `confusion[split]` lists true class, predicted class and count.
    `by_class[split]` are the scores of each class; `undefined_metrics[split]` are those that the labels of the split do
    not define, with the reason. `rare_class` is the threshold for the rarer of two classes, if one was set. `soup` says
    of which runs the weights are the average; settings, plan and stages are those of the best of them. `autotune` is
    how predictions for the scores ran where that was tried. `calibration` is what `--calibrate` folded into the last
    layer; all scores are those of the calibrated model. `phases` are the seconds of the run by phase,
    up to when this was written; empty where a recipe called the steps one by one. `command` is the `hf-ft` command line
    that asks for the same run, without local paths. `adapter` is whether the folder `adapter/` alone, on the source
    model, gives the result too. `repeat` is what `--from_run` reads; None for an average of several runs.
    """

    FILE: ClassVar[str] = "run.json"
    TITLE: ClassVar[str] = "training run"
    KIND: ClassVar[str] = "run"
    SCHEMA: ClassVar[int] = 1
