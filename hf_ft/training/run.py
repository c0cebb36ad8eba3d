"""What a run is: its settings, data, plan and model, and the result of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from hf_ft.data import Splits
from hf_ft.feature_cache import name_of
from hf_ft.methods import Plan
from hf_ft.models import DepthGroups, LoadReport
from hf_ft.settings import Config
from hf_ft.tasks import Learning, Task, get_task
from hf_ft.training.extensions import Extensions


@dataclass
class StageResult:
    """What a stage did: time, memory, curve and proof. `frozen_checked` counts bit-identical frozen tensors.

    Steps and epochs in `history` are counted over all stages. `checkpoint` is the folder of the stage's weights,
    relative to the output folder; those of adapters are merged. `peak_memory` is in bytes: of the GPU where there is
    one, else the process's resident memory so far. `seconds` are those of computing features, training and its
    evaluations. `cache` says what frozen layers gave once instead of in every epoch, `uncached` why they ran in every
    one, `images` which were decoded once; `solver` how a linear head was fitted to convergence, None where steps
    trained.
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
    images: dict[str, float] | None = None
    solver: dict[str, Any] | None = None


@dataclass
class Run:
    """A trained model with all that describes how it came about; what `score` and `save` work on.

    `others` is that of `train`; `chosen` says how method `auto` came to the method that was trained. `adapter` is the
    folder of the adapter that stands for the result, without the name of its base; `resumed` says whether the run goes
    on where an earlier process stopped.
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
    chosen: dict[str, Any] | None = None
    adapter: Path | None = None
    resumed: bool = False
    extensions: Extensions = field(default_factory=Extensions)

    @property
    def groups(self) -> DepthGroups:
        """The depth groups of the model, as found when it was loaded."""
        return self.loaded.groups

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric that chooses the best epoch."""
        own = self.extensions.compute_metrics
        if own is not None and self.metric == getattr(own, "name", None):
            return bool(own.greater_is_better)  # type: ignore[union-attr]
        return self.splits.target.higher_is_better(self.metric)

    @property
    def shown(self) -> str:
        """The metric to look at: the one that chooses the best epoch, but a score where that is the loss."""
        return self.splits.target.default_metric if self.metric == "loss" else self.metric

    def described_extensions(self) -> dict[str, Any]:
        """The names of what the caller brought, for records; empty where that is nothing."""
        found = self.extensions.names()
        if self.task is not get_task(self.config.task):
            found = {"task": name_of(self.task.encode), **found}
        return {"extensions": found} if found else {}

    @property
    def output_dir(self) -> Path:
        """The folder of the result."""
        return Path(str(self.args.output_dir)).expanduser()


def epochs_of(stages: Sequence[StageResult]) -> float:
    """The epochs of stages that have ended, as they were logged, where they were; logs count over all stages."""
    epochs = 0.0
    for stage in stages:
        logged = [entry["epoch"] for entry in stage.history if "epoch" in entry]
        epochs = logged[-1] if logged else epochs + stage.epochs
    return epochs
