"""A run: its settings, data, plan and model, and the results of its stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainingArguments

from hf_ft.data import Splits
from hf_ft.environment import Energy
from hf_ft.feature_cache import CachedStage, name_of
from hf_ft.heads import MAX_CLASSES
from hf_ft.methods import Plan
from hf_ft.models import DepthGroups, LoadReport
from hf_ft.records import ClassesRecord, FreezeDepthChoice, RunRecord, RunSoupRecord
from hf_ft.settings import Config
from hf_ft.tasks import Learning, Task, get_task
from hf_ft.training.extensions import Extensions
from hf_ft.training.token_batches import TokenBatches

Forms = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Stage -> kind of work -> how its form differs from the usual one."""


@dataclass
class StageResult:
    """What a stage did: time, memory, learning curve and proof.

    Args:
        steps: Optimizer steps; 0 where the head was solved.
        seconds: Of computing features, training and its evaluations.
        peak_memory: In bytes: of the GPU if there is one, else the process's resident memory so far.
        frozen_checked: Frozen tensors that are bit-identical after the stage.
        checkpoint: The folder of the stage's weights, relative to the output folder; adapters are merged in it.
        history: The logs of `Trainer`, with steps and epochs counted over all stages.
        cache: Facts about cached features; `uncached` is why there are none.
        evaluated: Facts about cached features of validation alone, in a stage whose training images change.
        images: Facts about images that were decoded once.
        solver: How the linear head was solved; None where it was trained by steps.
        ema: The decay of the average of weights that the stage's result has; None without one.
        stopped: How early stopping ended the stage, see `hf_ft.records.StoppedEarly`; None if it trained to its end.
        soup: The soup of the stage's checkpoints, see `hf_ft.records.SoupRecord`; None without one.
        token_batches: Batches by tokens, see `hf_ft.records.TokenBatchesRecord`; None for batches of examples.
        reading: How data were read, see `hf_ft.records.ReadingRecord`; None for a solved head.
        autotune: How its steps ran where that was tried, see `hf_ft.records.AutotuneRecord`.
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
    checkpoint: str | None
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cache: dict[str, Any] | None = None
    uncached: str = ""
    evaluated: dict[str, Any] | None = None
    images: dict[str, float] | None = None
    solver: dict[str, Any] | None = None
    ema: float | None = None
    stopped: dict[str, Any] | None = None
    soup: dict[str, Any] | None = None
    token_batches: dict[str, float] | None = None
    reading: dict[str, Any] | None = None
    autotune: list[dict[str, Any]] = field(default_factory=list)

    def best_loss(self, metric: str) -> float:
        """The loss on validation of the first evaluation with the best score; infinite if there is none."""
        found = (entry.get("eval_loss") for entry in self.history if entry.get(f"eval_{metric}") == self.best_metric)
        loss = next(found, None)
        return math.inf if loss is None else loss


@dataclass(frozen=True)
class Averaged:
    """The finished runs whose average a model is.

    Args:
        soup: Which of them joined, and why.
        folders: Their result folders, best first.
        best: The record of the best of them, whose settings and plan the record of the average has.
    """

    soup: RunSoupRecord
    folders: tuple[Path, ...]
    best: RunRecord


@dataclass
class Run:
    """A training run and its model, as `score` and `save` take it.

    Args:
        metric: Selects the best checkpoint.
        default_metric: The metric that does so by default on these data; empty for that of the target.
        others: As in `train`.
        chosen: How method `auto` came to the method that was trained.
        adapter: The folder of the adapter that makes up the whole result, without the name of its base model.
        resumed: Whether the run continues one of an earlier process.
        extensions: The caller's own code.
        averaged: The runs that the model is the average of; None for a model that was trained.
        batches: Of each stage whose batches are filled by tokens, see `token_batches`.
        forms: Of each stage, and of scores under "", how its steps ran in the run that this one repeats, as `Autotuner`
            takes them; None where that is tried.
        cached: The last stage as it ran from cached features, which scores are computed from too; None if it did not.
        energy: The energy of training; None where it was not measured as a whole.
    """

    config: Config
    args: TrainingArguments
    splits: Splits
    plan: Plan
    loaded: LoadReport
    model: PreTrainedModel
    processor: Any
    metric: str
    stages: list[StageResult]
    task: Task
    learning: Learning
    others: int = 0
    default_metric: str = ""
    chosen: FreezeDepthChoice | None = None
    adapter: Path | None = None
    resumed: bool = False
    extensions: Extensions = field(default_factory=Extensions)
    averaged: Averaged | None = None
    batches: dict[str, TokenBatches] = field(default_factory=dict)
    forms: Forms | None = None
    cached: CachedStage | None = field(default=None, repr=False)
    energy: Energy | None = None

    @property
    def groups(self) -> DepthGroups:
        """The depth groups of the model, as found when it was loaded."""
        return self.loaded.groups

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the metric that selects the best checkpoint is better."""
        own = self.extensions.compute_metrics
        if own is not None and self.metric == getattr(own, "name", None):
            return bool(own.greater_is_better)  # type: ignore[union-attr]
        return self.splits.target.higher_is_better(self.metric)

    @property
    def shown(self) -> str:
        """The metric to report: the one that selects the best checkpoint, or the default metric if that is the loss."""
        return (self.default_metric or self.splits.target.default_metric) if self.metric == "loss" else self.metric

    @property
    def probes_layers(self) -> bool:
        """Whether what the head reads is compared with what the layers offer: all blocks are frozen in all stages.

        Where a block trains, it can supply what the head lacks.
        """
        blocks = [setting for group, setting in self.plan.combined() if group.role == "block"]
        comparable = self.task.reduce is None and self.learning.loss is not None and self.args.world_size <= 1
        frozen = bool(blocks) and all(setting.frozen for setting in blocks)
        return frozen and comparable and len(self.splits.labels) <= MAX_CLASSES

    def described_extensions(self) -> dict[str, Any]:
        """Return the names of the caller's own code that took part, for the record."""
        if self.averaged is not None:
            return self.averaged.best.extensions
        found = self.extensions.names()
        if self.task is not get_task(self.config.task):
            found = {"task": name_of(self.task.encode), **found}
        return found

    def described_classes(self) -> ClassesRecord | None:
        """Return how unequal the classes are, and what is done about it; None for labels that are not classes."""
        splits, config = self.splits, self.config
        counts = splits.target.counts(splits.train, splits.labels)
        if counts is None:
            return None
        rarest, commonest = int(np.argmin(counts)), int(np.argmax(counts))
        return ClassesRecord(
            rarest=splits.labels[rarest],
            rarest_count=counts[rarest],
            commonest=splits.labels[commonest],
            commonest_count=counts[commonest],
            total=sum(counts),
            macro_f1_by_default=self.default_metric not in ("", splits.target.default_metric),
            loss=config.loss if self.extensions.loss is None else "",
            rule=config.class_weights if isinstance(config.class_weights, str) else "by name",
            weights=splits.target.weights(config, splits.train, splits.labels),
            sampler=config.sampler,
        )

    @property
    def output_dir(self) -> Path:
        """The folder of the result."""
        return Path(str(self.args.output_dir)).expanduser()


def epochs_of(stages: Sequence[StageResult]) -> float:
    """The epochs of the stages that have ended, by their logs if they have any; logs count over all stages."""
    epochs = 0.0
    for stage in stages:
        logged = [entry["epoch"] for entry in stage.history if "epoch" in entry]
        epochs = logged[-1] if logged else epochs + stage.epochs
    return epochs
