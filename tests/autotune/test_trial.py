"""A trial takes the faster form of a step, only where it is the same step, and leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from hf_ft.autotune import trial
from hf_ft.autotune.trial import Trial, try_variants
from hf_ft.autotune.variants import USUAL, Variant

LAST = Variant("channels_last")
CPU = torch.device("cpu")


class Network(nn.Module):
    """Two convolutions, dropout and BatchNorm, and a clock by which a step takes a given time in each form."""

    def __init__(self, usual: float, last: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Dropout(0.5)
        )
        self.takes, self.now, self.steps = (usual, last), 0.0, 0
        self.pixels = torch.randn(2, 3, 8, 8)

    @property
    def is_last(self) -> bool:
        """Whether the weights are stored channels last."""
        return not self.layers[0].weight.is_contiguous()

    def step(self) -> list[torch.Tensor]:
        """One step of training."""
        self.train()
        self.steps += 1
        self.now += self.takes[self.is_last]
        outputs: torch.Tensor = self.layers(self.pixels)
        outputs.square().mean().backward()
        return [outputs]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Network, Trial | None]]:
    """Try a network whose steps take the given seconds, for a run of so many steps."""

    def run(usual: float, last: float, steps: float = 1000, step: str = "step") -> tuple[Network, Trial | None]:
        model = Network(usual, last)
        monkeypatch.setattr(trial, "_clock", lambda _: lambda: model.now)
        return model, try_variants(model, [USUAL, LAST], getattr(model, step), CPU, steps)

    return run


@pytest.mark.parametrize(
    ("last", "best", "steps"),
    [
        (0.6, LAST, 6),  # clear after two rounds
        (0.95, LAST, 12),  # less clear: all five rounds
        (0.98, USUAL, 12),  # not enough of a gain
        (1.5, USUAL, 6),
    ],
)
def test_the_faster_form_is_taken_if_it_gains_clearly(
    last: float, best: Variant, steps: int, timed: Callable[..., tuple[Network, Trial | None]]
) -> None:
    """By medians of alternating rounds, fewer of them where all agree; both forms warm up."""
    model, found = timed(1.0, last)
    assert found is not None
    assert (found.best, model.steps) == (best, steps)
    assert found.seconds == pytest.approx({USUAL: 1.0, LAST: last})
    assert found.gain(USUAL) == pytest.approx(1 / last if best == LAST else 1)
    assert 0 < found.differences[LAST] < 1e-5 or found.differences[LAST] == 0


def test_a_short_run_is_not_tried(timed: Callable[..., tuple[Network, Trial | None]]) -> None:
    """Neither one of few seconds nor one shorter than ten times the trial; two steps find that out."""
    assert timed(0.001, 0.0005, steps=4000)[1] is None
    model, found = timed(1.0, 0.5, steps=59)
    assert found is None
    assert model.steps == 2
    assert timed(1.0, 0.5, steps=61)[1] is not None


def test_a_trial_leaves_no_trace(timed: Callable[..., tuple[Network, Trial | None]]) -> None:
    """Weights, running statistics, gradients, modes, strides and random numbers are as before."""
    plain = Network(1, 1)
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    expected = torch.rand(1), random.random(), np.random.rand()
    fresh = Network(1, 0.5)
    fresh.eval()
    fresh.layers[0].train()
    weight = cast(torch.Tensor, fresh.layers[0].weight)
    gradient = weight.grad = torch.ones_like(weight)
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    found = try_variants(fresh, [USUAL, LAST], fresh.step, CPU, 1e9)
    assert found is not None
    assert fresh.steps >= 6
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name]), name
        assert tensor.stride() == plain.state_dict()[name].stride()
    assert weight.grad is gradient
    assert all(one.grad is None for name, one in fresh.named_parameters() if name != "layers.0.weight")
    assert fresh.layers[0].training
    assert not fresh.layers[1].training


def test_other_random_numbers_are_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout between convolutions draws in the order of memory: channels last would be another training."""
    model = Network(1.0, 0.5)
    model.layers.insert(1, nn.Dropout(0.5))
    monkeypatch.setattr(trial, "_clock", lambda _: lambda: model.now)
    found = try_variants(model, [USUAL, LAST], model.step, CPU, 1e9)
    assert found is not None
    assert found.best == USUAL
    assert found.differences[LAST] > 0.1


class Diverging(Network):
    """Networks that are fast channels last because they do something else there."""

    def wrong(self) -> list[torch.Tensor]:
        """Other outputs."""
        found = self.step()
        return [found[0] * (1.001 if self.is_last else 1)]

    def untrained(self) -> list[torch.Tensor]:
        """The same outputs, but other gradients."""
        found = self.step()
        if self.is_last:
            cast(torch.Tensor, cast(torch.Tensor, self.layers[0].weight).grad).mul_(2)
        return found

    def broken(self) -> list[torch.Tensor]:
        """No outputs."""
        if self.is_last:
            raise RuntimeError("no kernel for these shapes")
        return self.step()

    def infinite(self) -> list[torch.Tensor]:
        """Outputs that are not finite."""
        return [self.step()[0] * (float("nan") if self.is_last else 1)]


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("step", ["wrong", "untrained", "broken", "infinite"])
def test_a_form_that_differs_is_dropped(step: str, noisy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it is, and although noise in the inputs would explain a little."""
    model = Diverging(1.0, 0.1)
    monkeypatch.setattr(trial, "_clock", lambda _: lambda: model.now)

    def with_noise() -> list[torch.Tensor]:
        noise = torch.randn(model.pixels.shape, generator=torch.Generator().manual_seed(0))
        pixels, model.pixels = model.pixels, model.pixels * (1 + trial.NOISE * noise)
        try:
            return cast(Callable[[], list[torch.Tensor]], getattr(model, step))()
        finally:
            model.pixels = pixels

    more = (with_noise,) if noisy else ()
    found = try_variants(model, [USUAL, LAST], getattr(model, step), CPU, 1e9, "float32", *more)
    assert found is not None
    assert found.best == USUAL
    assert [*found.seconds] == [USUAL]
    assert model.layers[0].weight.is_contiguous()


def test_without_memory_the_usual_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step of the run itself may need less, with gradient checkpointing for example."""
    model = Network(1.0, 0.1)

    def step() -> list[torch.Tensor]:
        raise torch.OutOfMemoryError

    assert try_variants(model, [USUAL, LAST], step, CPU, 1e9) is None


def test_batch_statistics_of_a_few_images_are_no_other_step(efficientnet: str) -> None:
    """They amplify rounding: gradients differ by a percent in another memory format, and by as much through noise."""
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(efficientnet, dtype=torch.float32)
    torch.manual_seed(0)
    pixels, more, labels = torch.randn(4, 3, 96, 96), torch.randn(4, 3, 96, 96), torch.arange(4)

    def step(noise: float = 0.0) -> list[torch.Tensor]:
        model.train()
        found = model(pixel_values=pixels * (1 + noise * more), labels=labels)
        found.loss.backward()
        return [found.logits]

    found = try_variants(model, [USUAL, LAST], step, CPU, 1e9, "float32", lambda: step(trial.NOISE))
    assert found is not None
    assert LAST in found.seconds
    assert found.differences[LAST] < 0.01
