"""Running statistics of BatchNorm for averaged weights, which no model had in training: computed anew from its data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from transformers import Trainer

from hf_ft.feature_cache import PrebatchedCollator
from hf_ft.training.data_order import SeededRows
from hf_ft.training.run import Run

STATISTICS_BATCHES = 200
"""Most batches of training data that running statistics are computed from, as in https://arxiv.org/abs/2105.07576."""


@contextmanager
def statistics_trainer(run: Run) -> Iterator[Trainer]:
    """A trainer for `recompute_statistics` of a finished run: its model, and the training data as in training."""
    rows = run.task.encode(run.learning.prepare(run.splits.train), run.processor, run.config, True)
    collator = run.task.collator(run.processor)
    args = copy.copy(run.args)
    args.report_to, args.eval_strategy, args.save_strategy, args.load_best_model_at_end = [], "no", "no", False
    args.remove_unused_columns = args.push_to_hub = False
    with TemporaryDirectory() as folder:
        args.output_dir = folder
        seeded = SeededRows(rows, args.seed, collator)
        yield Trainer(model=run.model, args=args, train_dataset=seeded, data_collator=PrebatchedCollator(collator))


def recompute_statistics(trainer: Any, norms: Sequence[nn.Module]) -> None:
    """Compute the running statistics of some layers anew, from batches of training data in a fixed order.

    Args:
        trainer: Has the model and its training data.
        norms: The layers, of which the others keep their statistics.
    """
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
