"""The exponential moving average (EMA) of the weights that train in a stage.

Training continues from the plain weights; evaluations, checkpoints and the result of the stage have the averaged ones,
as in timm (`timm.utils.ModelEmaV3`). The average itself is that of `torch.optim.swa_utils`; here it covers only what
trains, so that it takes one copy of that, and frozen tensors stay bit-identical.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

from hf_ft.models import has_statistics

FILE = "training_weights.pt"
"""In a checkpoint, beside the averaged weights of the model: the weights that training continues from.

Not a safetensors file: all of those in a checkpoint are the model.
"""
AUTO = "auto"
AUTO_SHARE = 0.1
"""With `auto`, the average reaches back over this share of the stage's steps."""
HIGHEST = 0.9999
WARMUP_POWER = 2 / 3
"""The decay rises as 1 - (1 + updates)^(-2/3), as timm's default: an average over 30 of 300 steps, 100 of 1,000."""


def decay_of(ema: float | str, steps: int) -> float:
    """The decay that the option `ema` means in a stage of so many steps."""
    return ema if isinstance(ema, float) else min(HIGHEST, 1 - 1 / max(1.0, AUTO_SHARE * steps))


def warmed_up(decay: float, updates: int) -> float:
    """The decay of an update: low at first, so that the weights before training do not linger in the average."""
    return min(decay, 1 - (1 + updates) ** -WARMUP_POWER)


def trained_tensors(model: nn.Module, in_eval: Iterable[nn.Module]) -> dict[str, torch.Tensor]:
    """What a stage changes: its trainable parameters, and the running statistics of BatchNorm layers that train.

    Args:
        model: The model of the stage, with adapters if it has some.
        in_eval: Modules that stay in evaluation mode.
    """
    held = {id(module) for module in in_eval}
    found: dict[str, torch.Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for name, layer in batch_norms(model, held).items():
        found |= {f"{name}.running_mean": layer.running_mean, f"{name}.running_var": layer.running_var}
    return found


def batch_norms(model: nn.Module, held: Iterable[int]) -> dict[str, Any]:
    """The normalisation layers with running statistics that are not held in evaluation mode (`held` has their ids)."""
    held = set(held)
    return {name: module for name, module in model.named_modules() if id(module) not in held and has_statistics(module)}


class _Tensors(nn.Module):
    """Tensors as a module, which is what `AveragedModel` copies and updates."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(str(i), tensor.detach())


class WeightAverage:
    """The average of some tensors of a model, which are averaged in place of being held in a second model.

    Args:
        tensors: What trains, by name: see `trained_tensors`.
        decay: The highest decay.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], decay: float) -> None:
        self.tensors, self._live, self._swapped = dict(tensors), _Tensors(tensors.values()), False
        self._average = AveragedModel(
            self._live,
            multi_avg_fn=lambda averages, current, updates: get_ema_multi_avg_fn(warmed_up(decay, int(updates)))(
                averages, current, updates
            ),
            use_buffers=True,
        )

    @property
    def updates(self) -> int:
        """How many states of the weights are in the average."""
        return int(self._average.n_averaged)

    def update(self) -> None:
        """Add the current weights to the average."""
        self._average.update_parameters(self._live)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights; calls within each other change nothing."""
        if self._swapped:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, average in zip(self._live.buffers(), self._average.module.buffers(), strict=True):
            current = live.clone()
            live.copy_(average)
            average.copy_(current)
        self._swapped = not self._swapped

    @torch.no_grad()
    def settle(self) -> None:
        """Give the model the averaged weights for good."""
        for live, average in zip(self._live.buffers(), self._average.module.buffers(), strict=True):
            live.copy_(average)

    def save(self, folder: Path) -> None:
        """Write the weights that training continues from; the averaged ones are the model of the checkpoint."""
        weights = {name: tensor.detach() for name, tensor in self.tensors.items()}
        torch.save({"updates": self.updates, "weights": weights}, folder / FILE)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Continue from a checkpoint whose averaged weights have just been loaded into the model."""
        found = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        for live, average in zip(self._live.buffers(), self._average.module.buffers(), strict=True):
            average.copy_(live)
        for name, tensor in self.tensors.items():
            tensor.detach().copy_(found["weights"][name])
        self._average.n_averaged.fill_(found["updates"])


class AverageUpdates(TrainerCallback):
    """Makes the average of a `StageTrainer` when training begins, and updates it after each step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the average, or continue it; the model is on its device and has the weights of a checkpoint by now."""
        self.trainer.begin_average()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the average, unless the step was skipped, as happens in half precision (fp16)."""
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.average.update()
