"""The autotuner: decides once for a model, shape and machine how a step runs, and remembers it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_ft.autotune.decisions import Decisions
from hf_ft.autotune.trial import FEWEST_ROUNDS, NOISE, SHARE, WARM_UP, Trial, try_variants
from hf_ft.autotune.variants import FORMATS, USUAL, Variant, variants_of
from hf_ft.environment import processor_name
from hf_ft.records import AutotuneRecord
from hf_ft.storage import json_digest

EXAMPLES = 4
"""Examples of the batch that is tried on a CPU, where a larger one costs more and mostly decides alike.

Other devices need the batch of the run: a small one would only measure how fast kernels are launched.
"""

RUNS = {"training": "training runs", "features": "the frozen layers run", "prediction": "prediction runs"}
"""How each kind of work is spoken of."""

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What is to run in the fastest variant.

    Args:
        what: `training`, `features` or `prediction`.
        model: The module whose convolutions and attention are switched.
        batch: Makes a batch of so many examples on the device.
        step: Runs one step on a batch; gradients are left in the parameters.
        examples: How many examples run in all, each counted as often as it runs.
        batch_size: Of the run.
        device: Where it runs.
        precision: The dtype in which matrix products run.
    """

    what: str
    model: nn.Module
    batch: Callable[[int], Batch]
    step: Callable[[Batch], Sequence[torch.Tensor]]
    examples: float
    batch_size: int
    device: torch.device
    precision: str = "float32"

    @property
    def tried(self) -> int:
        """The examples of the batch that is tried."""
        return min(EXAMPLES, self.batch_size) if self.device.type == "cpu" else self.batch_size


class Autotuner:
    """Finds the variant for each kind of work; use one for each stage, command or scoring.

    Args:
        folder: Where decisions are remembered.
        say: Prints a line.
        pinned: What was decided when an interrupted run began, by what it is for: the changes of a variant, none for
            the usual one.

    Attributes:
        choices: What was decided, for the record, one for each `what`.
    """

    def __init__(
        self, folder: Path, say: Callable[[str], None], pinned: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.decisions, self.say, self.pinned = Decisions(folder), say, dict(pinned or {})
        self.choices: list[AutotuneRecord] = []

    def choose(self, work: Work) -> Variant:
        """Return the variant for some work: as pinned, as remembered, or by a trial; `USUAL` where a run is too short.

        The choice is printed once, and added to `choices`.
        """
        if work.what in self.pinned:
            return self._pinned(work.what)
        variants = variants_of(work.model, work.device, work.precision)
        if len(variants) == 1:
            return USUAL
        known = self.decisions.read()
        steps = work.examples / work.tried
        pays = SHARE * steps >= (WARM_UP + FEWEST_ROUNDS) * len(variants)
        if not known and not pays:
            return USUAL
        batch = work.batch(work.tried)
        about = _key(work, batch, variants)
        key = json_digest(about)
        if (found := _remembered(known.get(key), work.what, variants)) is not None:
            return self._chosen(found)
        if not pays:
            return USUAL
        trial = try_variants(
            work.model,
            variants,
            lambda: work.step(batch),
            work.device,
            steps,
            work.precision,
            lambda: work.step(_with_noise(batch)),
        )
        if trial is None:
            return USUAL
        found = _record(work, trial)
        self.decisions.remember(key, {**vars(found), "about": about})
        return self._chosen(found)

    def _pinned(self, what: str) -> Variant:
        changes = self.pinned[what]
        if not changes:
            return USUAL
        variant = Variant(**changes)
        return self._chosen(AutotuneRecord(what, variant.memory_format, variant.attention, source="resumed"))

    def _chosen(self, record: AutotuneRecord) -> Variant:
        if all(earlier.what != record.what for earlier in self.choices):
            self.choices.append(record)
            self.say(f"autotune {spoken(record)}")
        return Variant(record.memory_format, record.attention)


def spoken(record: AutotuneRecord) -> str:
    """Return a choice as a sentence without its full stop."""
    variant = Variant(record.memory_format, record.attention)
    how = {"tried": f"tried in {record.seconds:.1f} s", "remembered": "remembered"}.get(record.source, "")
    runs = RUNS.get(record.what, f"{record.what} runs")
    if record.source == "resumed":
        return f"{runs} {variant}, as when the run began"
    if variant == USUAL:
        return f"{runs} as usual: no other form of a step is clearly faster ({how})"
    return f"{runs} {variant}, {record.gain:.2f} times as fast as usual ({how})"


def _record(work: Work, trial: Trial) -> AutotuneRecord:
    """A trial as it is recorded and remembered."""
    each = {str(variant): round(1000 * found / work.tried, 3) for variant, found in trial.seconds.items()}
    return AutotuneRecord(
        what=work.what,
        memory_format=trial.best.memory_format,
        attention=trial.best.attention,
        gain=round(trial.gain(USUAL), 3),
        ms_per_example=each,
        difference=trial.differences.get(trial.best, 0.0),
        seconds=round(trial.took, 3),
        source="tried",
    )


def _remembered(found: Any, what: str, variants: Sequence[Variant]) -> AutotuneRecord | None:
    """A decision as it is recorded; None where there is none, or one that this version cannot read or run."""
    if not isinstance(found, dict):
        return None
    with suppress(TypeError, ValueError):
        own = {name: value for name, value in found.items() if name != "about"}
        record = AutotuneRecord(**{**own, "what": what, "seconds": 0.0, "source": "remembered"})
        if record.memory_format in FORMATS and Variant(record.memory_format, record.attention) in variants:
            record.gain = float(record.gain)
            return record
    return None


def _key(work: Work, batch: Batch, variants: Sequence[Variant]) -> dict[str, Any]:
    """All that a decision depends on, as JSON values."""
    model = work.model
    structure = [
        *((name, list(value.shape), value.requires_grad) for name, value in model.named_parameters()),
        *((name, type(module).__name__) for name, module in model.named_modules()),
    ]
    return {
        "model": type(model).__name__,
        "structure": json_digest(structure),
        "what": "training" if work.what == "training" else "inference",
        "shapes": {name: _shapes(value) for name, value in sorted(batch.items())},
        "precision": work.precision,
        "variants": [str(variant) for variant in variants],
        "machine": _machine(work.device),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def _with_noise(batch: Batch) -> Batch:
    """The batch with noise of the share `NOISE` in its real numbers, such as pixels; tokens stay as they are.

    The noise has a generator of its own, so that dropout draws what it draws without noise.
    """
    generator = torch.Generator().manual_seed(0)
    found = dict(batch)
    for name, value in batch.items():
        if torch.is_tensor(value) and value.is_floating_point() and value.ndim >= 3:
            found[name] = value * (1 + NOISE * torch.randn(value.shape, generator=generator)).to(value)
    return found


def _shapes(value: Any) -> Any:
    """The shape of an input, or of several; lengths of texts, which vary, are rounded up to a power of two."""
    if isinstance(value, list | tuple):
        return [_shapes(one) for one in value]
    if not torch.is_tensor(value):
        return None
    return list(value.shape) if value.ndim >= 4 else [1 << (size - 1).bit_length() for size in value.shape if size]


def _machine(device: torch.device) -> dict[str, Any]:
    """The device and, for a CPU, its cores and the threads that use them."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    if device.type != "cpu":
        return {"device": device.type, "processor": platform.machine()}
    return {"device": processor_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
