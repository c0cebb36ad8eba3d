"""Trials: the trainings that an experiment consists of, by method, seed and training set size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_ft.records import TrialResult
from hf_ft.storage import text_digest
from hf_ft.training import Run


@dataclass(frozen=True)
class Trial:
    """One training: a method, a seed, a number of examples per class (None: all), and settings of its own."""

    method: str
    seed: int
    size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """The name of its files. Patterns of `train:` hold characters that file names cannot; they add a hash."""
        own = "".join(f"-{name}_{value}" for name, value in sorted(self.settings.items()))
        size = "all" if self.size is None else f"n{self.size}"
        method = re.sub(r"[^\w.-]+", "_", self.method)
        if method != self.method.replace(":", "_", 1):
            method += "-" + text_digest(self.method)[:8]
        return f"{method}-{size}{own}-seed{self.seed}"

    def failed(self, error: str) -> TrialResult:
        """Return the result of the trial when it raised an error."""
        return TrialResult(self.id, self.method, self.seed, self.size, error=error)


def trial_result(trial: Trial, run: Run) -> TrialResult:
    """Return the result of a trial from its trained run, without scores."""
    stages = run.stages
    cached = [stage.cache for stage in stages if stage.cache]
    images = [stage.images for stage in stages if stage.images]
    once = max((facts["build_seconds"] for facts in images), default=0.0)  # all stages read the same images
    blocks = [setting for group, setting in run.plan.combined() if group.role == "block"]
    adapted = any(stage.peft for stage in run.plan.stages)
    return TrialResult(
        trial.id,
        trial.method,
        trial.seed,
        trial.size,
        examples=len(run.splits.train),
        seconds=round(sum(stage.seconds for stage in stages), 3),
        step_seconds=round(sum(entry.get("train_runtime", 0.0) for stage in stages for entry in stage.history), 3),
        feature_seconds=round(sum(facts["seconds"] for facts in (*cached, *images)), 3),
        build_seconds=round(sum(facts["build_seconds"] for facts in cached) + once, 3),
        features={facts["split"]: [facts["computed"], facts["examples"]] for facts in cached},
        blocks=len(blocks),
        frozen=None if adapted else sum(setting.frozen for setting in blocks),
        trainable=max(stage.trainable for stage in stages),
        epochs=sum(stage.epochs for stage in stages),
        peak_memory=max(stage.peak_memory for stage in stages),
        uncached=[stage.uncached for stage in stages if stage.uncached],
    )
