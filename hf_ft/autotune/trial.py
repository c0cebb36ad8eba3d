"""A trial: the same step in several variants, alternating, which leaves no trace in the model or the random numbers."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hf_ft.autotune.variants import Variant, applied

Step = Callable[[], Sequence[torch.Tensor]]
"""One step: a forward pass, or forward and backward; returns what the passes give, such as logits."""

WARM_UP, FEWEST_ROUNDS, MOST_ROUNDS = 1, 2, 5
"""Steps of a variant before it is timed, and how often at least and at most each is timed."""
CLEAR, GAIN = 1.08, 1.03
"""A variant is the faster one if each of the first rounds says so by `CLEAR`, or the medians of all by `GAIN`."""
SHARE = 0.1
"""A trial takes at most this share of the run that it is for."""
WORTHWHILE = 5.0
"""Seconds of a run below which nothing is tried."""
TOLERANCE, TOLERANCE_HALF = 1e-4, 2e-2
"""Largest difference of outputs, relative to their scale, that is rounding: in float32, in half precision or TF32.

That of gradients, relative to the norm of all, is ten times as large: they are sums over many activations.
"""
NOISE, AMPLIFIED = 1e-6, 10.0
"""What is sensitive to rounding may differ more: by `AMPLIFIED` times what noise of this share in the inputs changes.

A network with batch statistics of a few examples and many kinks changes its gradients by half a percent then, and by
one or two percent in another memory format.
"""


@dataclass
class Trial:
    """What a trial found.

    Attributes:
        best: The variant to run.
        seconds: Median seconds of a step by variant, without those that were dropped.
        differences: Largest relative difference of outputs from the first variant.
        took: Seconds of the whole trial.
    """

    best: Variant
    seconds: dict[Variant, float]
    differences: dict[Variant, float]
    took: float

    def gain(self, usual: Variant) -> float:
        """Return how many times as fast as `usual` the best variant is."""
        return self.seconds[usual] / self.seconds[self.best]


def try_variants(
    model: nn.Module,
    variants: Sequence[Variant],
    step: Step,
    device: torch.device,
    share_of_run: float,
    precision: str = "float32",
    noisy: Step | None = None,
) -> Trial | None:
    """Run a step in the variants, alternating; None where the run is too short for that, or memory does not suffice.

    Variants whose outputs or gradients differ by more than rounding are dropped. Buffers, gradients, modes and random
    states are afterwards as before.

    Args:
        variants: The usual one first.
        share_of_run: Steps like this one in the run that is to come; may be a fraction.
        noisy: The same step on inputs with noise of the share `NOISE`, which shows how sensitive the model is.
    """
    with _undisturbed(model, device):
        try:
            return _Rounds(model, variants, step, device, precision, noisy).run(share_of_run)
        except torch.OutOfMemoryError:
            return None


class _Rounds:
    """The rounds of a trial."""

    def __init__(
        self,
        model: nn.Module,
        variants: Sequence[Variant],
        step: Step,
        device: torch.device,
        precision: str,
        noisy: Step | None,
    ) -> None:
        self.noisy = noisy
        self.model, self.usual, self.others, self.step, self.device = model, variants[0], [*variants[1:]], step, device
        exact = precision == "float32" and device.type != "cuda"  # where convolutions use TF32 by default
        self.tolerance = TOLERANCE if exact else TOLERANCE_HALF
        self.seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
        self.differences: dict[Variant, float] = {}

    def run(self, steps: float) -> Trial | None:
        clock = _clock(self.device)
        started = clock()
        _, outputs, gradients = self._timed(self.usual)
        once = self._round(self.usual)
        whole = once * steps
        needed = once * (WARM_UP + FEWEST_ROUNDS) * (1 + len(self.others))
        if whole < WORTHWHILE or needed > SHARE * whole:
            return None
        for variant in [*self.others]:
            if self._agrees(variant, outputs, gradients):
                self._round(variant)
            else:
                self.others.remove(variant)
        del outputs, gradients
        for number in range(1, MOST_ROUNDS):
            taken = clock() - started
            long_enough = self._clear() or taken * (1 + 1 / number) > SHARE * whole
            if not self.others or (number >= FEWEST_ROUNDS and long_enough):
                break
            for variant in (self.usual, *self.others):
                self._round(variant)
        medians = {variant: statistics.median(self.seconds[variant]) for variant in (self.usual, *self.others)}
        best = min(medians, key=lambda variant: medians[variant])
        if medians[self.usual] < GAIN * medians[best]:
            best = self.usual
        return Trial(best, medians, self.differences, clock() - started)

    def _round(self, variant: Variant) -> float:
        seconds = self._timed(variant)[0]
        self.seconds[variant].append(seconds)
        return seconds

    def _timed(
        self, variant: Variant, step: Step | None = None
    ) -> tuple[float, list[torch.Tensor], list[torch.Tensor]]:
        """The seconds of a step, its outputs, and the gradients that it left, which are taken from the parameters."""
        _seed(self.device)
        with applied(self.model, variant):
            clock = _clock(self.device)
            _wait(self.device)
            started = clock()
            outputs = (step or self.step)()
            _wait(self.device)
            seconds = clock() - started
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            for parameter in self.model.parameters():
                parameter.grad = None
        return seconds, [tensor.detach() for tensor in outputs], gradients

    def _agrees(self, variant: Variant, outputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> bool:
        """Whether the first step of a variant gives what the usual one gave; False where it cannot run at all."""
        try:
            _, own, own_gradients = self._timed(variant)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, ImportError):  # a kernel that does not take these shapes or this dtype
            for parameter in self.model.parameters():
                parameter.grad = None
            return False
        if [one.shape for one in own] != [one.shape for one in outputs] or len(own_gradients) != len(gradients):
            return False
        found = _largest_difference(outputs, own), _distance(gradients, own_gradients)
        self.differences[variant] = found[0]
        if found[0] <= self.tolerance and found[1] <= 10 * self.tolerance:
            return True
        if self.noisy is None:
            return False
        _, noisy, noisy_gradients = self._timed(self.usual, self.noisy)
        by_noise = _largest_difference(outputs, noisy), _distance(gradients, noisy_gradients)
        allowed = (max(AMPLIFIED * by_noise[0], self.tolerance), max(AMPLIFIED * by_noise[1], 10 * self.tolerance))
        return found[0] <= allowed[0] and found[1] <= allowed[1]

    def _clear(self) -> bool:
        """Whether every round agrees about every variant: clearly faster, or not faster."""
        usual = self.seconds[self.usual]
        for variant in self.others:
            ratios = [a / b for a, b in zip(usual, self.seconds[variant], strict=True)]
            if not (min(ratios) >= CLEAR or max(ratios) <= 1):
                return False
        return True


def _largest_difference(usual: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> float:
    """The largest difference of all outputs, each relative to its scale."""
    return max((_difference(*pair) for pair in zip(usual, own, strict=True)), default=0.0)


def _difference(usual: torch.Tensor, own: torch.Tensor) -> float:
    """The largest difference relative to the scale of the first; infinite where one of them is not finite."""
    scale = max(float(usual.abs().max()), 1e-6) if usual.numel() else 1.0
    found = float((usual.float() - own.float()).abs().max()) / scale if usual.numel() else 0.0
    return found if found == found else float("inf")


def _distance(usual: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> float:
    """The norm of the difference of gradients relative to the norm of the first."""
    pairs = list(zip(usual, own, strict=True))
    apart = sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
    whole = sum(float(a.float().square().sum()) for a, _ in pairs)
    found = (apart / max(whole, 1e-24)) ** 0.5
    return found if found == found else float("inf")


def _clock(device: torch.device) -> Callable[[], float]:
    """The clock of a trial: on one thread of a CPU that of the process, which other processes do not disturb."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _wait(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _seed(device: torch.device) -> None:
    """Let every step draw the same random numbers, such as those of dropout."""
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.manual_seed(0)


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore at the end what a step changes: buffers, modes of modules, gradients, and all random states."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
