"""Divergence: a loss or gradient that is not finite ends training at once, and the error says what to do.

`Trainer` would go on with weights that are NaN, and hides the loss from its logs (`logging_nan_inf_filter`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hf_ft.errors import UserError

FP16_PATIENCE = 10
"""Losses in a row that may not be finite with fp16: its steps are skipped while the scale of gradients is found."""
LOWER = 10
"""How many times lower a rate the error proposes."""


@dataclass
class DivergenceGuard:
    """Raises where the training of a stage diverges.

    Args:
        stage: The name of the stage.
        rate: Its learning rate; that of the head may be higher.
        option: The setting to change and a lower value for it, as the user writes it.
        warms_up: Whether the stage has warm-up steps.
        kept: The folder of the best weights so far, empty if there is none.
    """

    stage: str
    rate: float
    option: str
    warms_up: bool
    kept: Callable[[], str]
    in_a_row: int = 0

    def check_loss(self, loss: torch.Tensor, trainer: Any) -> None:
        """Check the loss of a batch.

        With several processes the norm of the gradients alone is checked: it is the same in all, so that all end.

        Raises:
            UserError: It is not finite.
        """
        if trainer.args.world_size > 1 or bool(torch.isfinite(loss).all()):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if trainer.accelerator.scaler is None or self.in_a_row > FP16_PATIENCE:
            raise self.error("loss", float(loss.mean()), trainer)

    def check_gradient(self, norm: Any, trainer: Any) -> None:
        """Check the norm of the gradients of a step, before it is taken.

        With fp16 an infinite norm is normal: the step is skipped, and the gradients are scaled less.

        Raises:
            UserError: It is not finite.
        """
        if norm is not None and trainer.accelerator.scaler is None and not math.isfinite(norm):
            raise self.error("norm of the gradients", float(norm), trainer)

    def check_evaluation(self, loss: float | None, trainer: Any) -> None:
        """Check the loss of an evaluation during training, before its weights can become the best ones.

        Raises:
            UserError: It is NaN, or infinite without fp16.
        """
        if loss is not None and (math.isnan(loss) or (math.isinf(loss) and trainer.accelerator.scaler is None)):
            raise self.error("loss on validation", loss, trainer)

    def error(self, what: str, value: float, trainer: Any) -> UserError:
        """The error: where it happened, what is kept, and the fix."""
        step, kept = trainer.state.global_step, self.kept()
        where = f"Stage '{self.stage}' diverged in step {step + 1:,} of {trainer.state.max_steps:,}: its {what} is"
        if step == 0:  # no weight has changed
            return UserError(
                f"{where} {value} before anything was trained, so it is not the learning rate.",
                hint="Check the weights of the model, the inputs and, if there is one, your own loss=.",
            )
        stored = f"The best weights so far are in {kept}" if kept else "No weights were saved before"
        remedies = [f"a rate {LOWER} times lower ({self.option})"]
        remedies += [] if self.warms_up else ["a warm-up (--warmup_steps 0.1)"]
        remedies += ["--bf16 or float32 in place of --fp16"] if trainer.args.fp16 else []
        return UserError(
            f"{where} {value} at learning rate {self.rate:g}. {stored}.",
            option="learning_rate",
            value=self.rate,
            hint=f"Train with {', or '.join(remedies)}.",
        )
