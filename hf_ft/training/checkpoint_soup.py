"""A greedy soup: the average of those of a stage's best checkpoints that validation agrees with.

https://arxiv.org/abs/2203.05482: checkpoints join the average from the best to the worst, each only if the metric on
validation does not fall. The best alone is the first soup, so the result is at least as good as it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from hf_ft.environment import print_on_main
from hf_ft.training import checkpoints
from hf_ft.training.weight_average import batch_norms, trained_tensors

STATISTICS_BATCHES = 200
"""Most batches of training data that running statistics are computed from, as in https://arxiv.org/abs/2105.07576."""


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
            _recompute_statistics(trainer, norms)
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


def _recompute_statistics(trainer: Any, norms: Sequence[nn.Module]) -> None:
    """Compute the running statistics of some layers anew, from batches of training data in a fixed order."""
    if not norms:
        return
    rows, args = trainer.train_dataset, trainer.args
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(args.seed)).tolist()
    listed = order[: STATISTICS_BATCHES * args.train_batch_size]
    loader = DataLoader(rows, args.train_batch_size, sampler=listed, collate_fn=trainer.data_collator, drop_last=False)
    trainer.model.eval()
    update_bn(loader, _StatisticsOnly(trainer, norms))


class _StatisticsOnly(nn.Module):
    """The model as `update_bn` takes it: of its modules, it finds, resets and trains only the layers in question.

    So frozen layers keep their statistics and dropout stays off.
    """

    def __init__(self, trainer: Any, norms: Iterable[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)
        self.trainer = trainer  # no module: `update_bn` would find all layers of its model

    def forward(self, batch: Any) -> None:
        """Run the model on a batch; its answer does not matter."""
        inputs = {name: value for name, value in self.trainer._prepare_inputs(batch).items() if name != "labels"}
        with self.trainer.compute_loss_context_manager():
            self.trainer.model(**inputs)
