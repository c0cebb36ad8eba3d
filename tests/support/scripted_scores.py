"""Scores by script, so that a test decides which evaluation or stage is the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hf_ft.training import stage_runner


def scripted_losses(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let evaluations find these losses, one after the other."""
    original, found_next = stage_runner.StageTrainer.evaluation_loop, iter(losses)

    def evaluated(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(trainer, *args, **kwargs)
        found.metrics["eval_loss"] = next(found_next)
        return found

    monkeypatch.setattr(stage_runner.StageTrainer, "evaluation_loop", evaluated)


def scripted_stages(monkeypatch: pytest.MonkeyPatch, scores: Mapping[str, float]) -> None:
    """Let stages end with these scores, by name; 0 for the others."""
    original = stage_runner._result

    def scored(*args: Any) -> Any:
        found = original(*args)
        found.best_metric = scores.get(found.name, 0.0)
        return found

    monkeypatch.setattr(stage_runner, "_result", scored)
