"""Early stopping: when a stage ends because validation shows that more steps do not help.

By default (`auto`) it asks whether validation is large enough to tell. The accuracy p of n examples has a standard
error of sqrt(p (1 - p) / n), 0.03 for 0.9 of 100. Two evaluations of one stage read the same examples, so their
difference is less noisy: its standard error is sqrt(d / n), where d is the share of examples whose answers differ. One
drop says little all the same. What ends a stage is that neither the metric nor the loss on validation, which is much
smoother, has been better for several evaluations in a row. The schedule of the learning rate matters too: scores often
improve when it decays at the end, and a stage that is stopped never gets there. So the patience is a share of all
evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments

from hf_ft.methods import AppliedStage
from hf_ft.settings import Config
from hf_ft.training.stage_arguments import evaluations

MIN_VALIDATION = 100
"""Fewest validation examples for early stopping by default."""
LEAST_PATIENCE = 3
"""Fewest evaluations without improvement after which a stage ends by default."""
PATIENCE_SHARE = 0.25
"""The same, as a share of the evaluations that the stage plans."""


@dataclass(frozen=True)
class Patience:
    """After how many evaluations without improvement a stage ends.

    Args:
        evaluations: Their number.
        watches_loss: Whether a lower loss on validation counts as an improvement, as well as a better metric.
    """

    evaluations: int
    watches_loss: bool


def patience_of(
    config: Config, args: TrainingArguments, stage: AppliedStage, epoch: int, validation_examples: int
) -> Patience | None:
    """The patience of a stage; None where it does not end early.

    By default only a stage whose best weights are kept ends early: the last ones of a stopped stage would be its worst.
    """
    patience = config.early_stopping_patience
    if isinstance(patience, int):
        return Patience(patience, False) if patience else None
    planned = planned_evaluations(args, stage, epoch)
    if patience != "auto" or validation_examples < MIN_VALIDATION or not args.load_best_model_at_end:
        return None
    wait = max(LEAST_PATIENCE, math.ceil(PATIENCE_SHARE * planned))
    return Patience(wait, True) if wait < planned else None


def planned_evaluations(args: TrainingArguments, stage: AppliedStage, epoch: int) -> int:
    """How many evaluations a stage has if it trains to its end; `Trainer` adds one after the last step."""
    return math.ceil(evaluations(args, stage, epoch))


class EarlyStop(EarlyStoppingCallback):
    """`EarlyStoppingCallback` for which a lower loss on validation may count as an improvement, too.

    The names of its arguments are those of the base class, under which `Trainer` restores it from a checkpoint.
    """

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float | None = 0.0,
        watches_loss: bool = False,
    ) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.watches_loss = watches_loss
        self.lowest_loss: float | None = None

    def on_evaluate(  # type: ignore[override]  # as in the base class, whose own base has no `metrics`
        self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any
    ) -> None:
        """Count an evaluation without improvement, and end training after as many as the patience."""
        loss = metrics.get("eval_loss")
        lower = loss is not None and (self.lowest_loss is None or loss < self.lowest_loss)
        if lower:
            self.lowest_loss = loss
        if self.watches_loss and lower:
            self.early_stopping_patience_counter = 0
            return
        super().on_evaluate(args, state, control, metrics, **kwargs)  # type: ignore[no-untyped-call]

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        found = super().state()
        found["args"]["watches_loss"] = self.watches_loss
        found["attributes"]["lowest_loss"] = self.lowest_loss
        return found


def stopped_early(trainer: Any, patience: Patience | None, metric: str) -> dict[str, Any] | None:
    """Facts about a stage that patience has ended: see `hf_ft.records.StoppedEarly`; None if it trained to its end."""
    state = trainer.state
    if patience is None or not 0 < state.global_step < state.max_steps or _waited(trainer) < patience.evaluations:
        return None
    both = f"{metric} and loss" if patience.watches_loss and metric != "loss" else metric
    epochs = float(state.epoch or 0.0)
    planned, best = (epochs * step / state.global_step for step in (state.max_steps, state.best_global_step or 0))
    return {
        "epoch": round(epochs, 2),
        "planned_epochs": round(planned, 2),
        "best_epoch": round(best, 2),
        "reason": f"{both} on validation had not improved for {patience.evaluations} evaluations",
    }


def _waited(trainer: Any) -> int:
    """For how many evaluations a stage had waited; from its last checkpoint where an earlier process trained it."""
    saved = trainer.state.stateful_callbacks.get(EarlyStop.__name__) or {}
    listed = saved if isinstance(saved, list) else [saved]
    name = "early_stopping_patience_counter"
    counts = [one.get("attributes", {}).get(name, 0) for one in listed]
    counts += [getattr(one, name) for one in trainer.callback_handler.callbacks if isinstance(one, EarlyStop)]
    return max(counts, default=0)
