"""What is printed while a stage trains."""

from __future__ import annotations

import math
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

from hf_ft.methods import AppliedStage


class Bar(ProgressCallback):
    """The progress bars of `Trainer`, without the dictionaries that it prints in between."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing: `Lines` does."""


class Lines(TrainerCallback):
    """One line for each evaluation."""

    def __init__(self, stage: AppliedStage, metric: str, epochs: float) -> None:
        self.stage, self.metric, self.epochs, self.loss = stage, metric, epochs, math.nan

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remember the training loss, and print when an evaluation is logged."""
        self.loss = logs.get("loss", self.loss)
        value = logs.get(f"eval_{self.metric}")
        if state.is_world_process_zero and value is not None:
            # A head that is fitted to convergence makes no steps.
            where = f"epoch {state.epoch:5.2f}/{self.epochs:g}" if state.global_step else "converged"
            tqdm.write(
                f"{self.stage.name:8} {where}  loss {self.loss:.4f}  "
                f"validation loss {logs.get('eval_loss', math.nan):.4f}  {self.metric} {value:.4f}"
            )
