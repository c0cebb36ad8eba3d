"""A greedy soup: the average of those of a stage's best checkpoints that validation agrees with.

https://arxiv.org/abs/2203.05482: checkpoints join the average from the best to the worst, each only if the metric on
validation does not fall. The best alone is the first soup, so the result is at least as good as it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_ft.environment import print_on_main
from hf_ft.training import checkpoints
from hf_ft.training.batch_statistics import recompute_statistics
from hf_ft.training.weight_average import batch_norms, trained_tensors


@dataclass(frozen=True)
class Scored:
    """A checkpoint on disk, with its score and loss on validation."""

    folder: Path
    score: float
    loss: float


def ranked(trainer: Any, metric: str) -> list[Scored]:
    """The checkpoints of a stage that were evaluated and are on disk, best first; equal scores by lower loss."""
    by_step = {}
    for entry in trainer.state.log_history:
        if f"eval_{metric}" in entry:
            step = entry["step"] - trainer.steps_before  # logs count over all stages
            by_step[f"checkpoint-{step}"] = entry[f"eval_{metric}"], entry.get("eval_loss", 0.0)
    stage, sign = Path(str(trainer.args.output_dir)), 1 if trainer.args.greater_is_better else -1
    found = [Scored(path, *by_step[path.name]) for path in checkpoints.steps(stage) if path.name in by_step]
    return sorted(found, key=lambda one: (-sign * one.score, one.loss))


def make_soup(trainer: Any, most: int, metric: str, in_eval: Sequence[nn.Module]) -> dict[str, Any]:
    """Leave the greedy soup of up to `most` checkpoints in the model of a stage that has ended.

    Where no second checkpoint joins, the model has the weights of the best one, exactly as without a soup. Running
    statistics of BatchNorm layers that train are computed anew for every average.

    Returns:
        Facts: see `hf_ft.records.SoupRecord`.
    """
    candidates = ranked(trainer, metric)[:most]
    model, sign = trainer.model, 1 if trainer.args.greater_is_better else -1
    live = trained_tensors(model, in_eval)
    norms = list(batch_norms(model, map(id, in_eval)).values())
    used, score, tried = candidates[:1], candidates[0].score, [candidates[0].score]
    soup: dict[str, torch.Tensor] = {}
    for one in candidates:
        _load(trainer, one.folder)
        if one is not candidates[0]:
            _mix(live, soup, len(used))
            recompute_statistics(trainer, norms)
            found = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval").metrics[f"eval_{metric}"]
            tried.append(found)
            if sign * found < sign * score:
                continue
            score, used = found, [*used, one]
        soup = {name: tensor.detach().clone() for name, tensor in live.items()}
    if len(used) == 1:
        _load(trainer, trainer.state.best_model_checkpoint or candidates[0].folder)
    else:
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(soup[name])
    names = [int(one.folder.name.removeprefix("checkpoint-")) for one in candidates]
    print_on_main(
        f"soup     {len(used)} of {len(candidates)} checkpoints averaged: {metric} {candidates[0].score:.4f} of the "
        f"best one, {score:.4f} of the average" + ("" if len(used) > 1 else ", which is that one"),
        trainer.args,
    )
    return {
        "candidates": names,
        "scores": tried,
        "used": [int(one.folder.name.removeprefix("checkpoint-")) for one in used],
        "best_single": candidates[0].score,
        "score": score,
    }


def _load(trainer: Any, folder: Path | str) -> None:
    """Load the weights of a checkpoint, of adapters too, into the model of the stage."""
    trainer._load_from_checkpoint(str(folder))


@torch.no_grad()
def _mix(live: dict[str, torch.Tensor], soup: dict[str, torch.Tensor], size: int) -> None:
    """Make the live tensors the average of themselves and of a soup of `size` checkpoints."""
    for name, tensor in live.items():
        tensor.lerp_(soup[name], size / (size + 1))
