"""The paired bootstrap: what it must find, what it must not, and its agreement with theory."""

from __future__ import annotations

import numpy as np
import pytest

from hf_ft.metrics.bootstrap import Floats, resample
from hf_ft.metrics.significance import Difference, SeedScores, difference, mean_interval

N = 400


def draws(right: Floats) -> Floats:
    """Accuracy on resamples of examples that were answered rightly (1) or not (0)."""
    return resample({"accuracy": lambda weights: right @ weights / len(right)}, len(right))["accuracy"]


def answers(seed: int, accuracy: float, seeds: int = 3) -> list[Floats]:
    """Which examples models of some seeds get right, each independent of the others."""
    random = np.random.default_rng(seed)
    return [(random.random(N) < accuracy).astype(float) for _ in range(seeds)]


def test_equal_methods_are_noise_and_far_ones_are_not() -> None:
    one, same, worse = answers(0, 0.8), answers(1, 0.8), answers(2, 0.6)

    def between(a: list[Floats], b: list[Floats]) -> object:
        return difference(*(SeedScores([float(x.mean()) for x in one], [draws(x) for x in one]) for one in (a, b)))

    assert between(one, same).noise
    found = between(one, worse)
    assert not found.noise
    assert found.low > 0.1
    back = between(worse, one)
    assert back.value == pytest.approx(-found.value)
    assert back.high == pytest.approx(-found.low)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    base = answers(3, 0.7, 1)[0]
    better = base.copy()
    better[np.flatnonzero(base == 0)[:8]] = 1  # two points more, on the same examples
    a, b = float(better.mean()), float(base.mean())
    found = difference(SeedScores([a], [draws(better)]), SeedScores([b], [draws(base)]))
    assert found.value == pytest.approx(0.02)
    assert found.low > 0
    one, other = mean_interval(SeedScores([a], [draws(better)])), mean_interval(SeedScores([b], [draws(base)]))
    assert one.low < other.high  # the intervals of the two overlap by far


def test_interval_of_one_seed_is_that_of_the_binomial() -> None:
    right = answers(4, 0.5, 1)[0]
    found = mean_interval(SeedScores([float(right.mean())], [draws(right)]))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / N), rel=0.15)


def test_seeds_that_differ_widen_the_interval() -> None:
    right = answers(5, 0.5, 1)[0]
    steady = mean_interval(SeedScores([0.5] * 3, [draws(right)] * 3))
    shaken = mean_interval(SeedScores([0.3, 0.5, 0.7], [draws(right) + shift for shift in (-0.2, 0.0, 0.2)]))
    assert shaken.high - shaken.low > 2 * (steady.high - steady.low)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.06])
def test_equal_methods_are_called_different_as_rarely_as_is_said(seeds: int, spread: float) -> None:
    """Two methods alike whose seeds differ by so much: at 95 %, one in twenty pairs is called different.

    The interval may be too wide where examples and seeds cannot be told apart, but not too narrow.
    """
    random, trials = np.random.default_rng(seeds), 300
    weights = random.multinomial(N, np.full(N, 1 / N), size=200) / N
    wrong = 0
    for _ in range(trials):
        hard = random.random(N)  # how likely each example is to be answered rightly, by all alike

        def scored(hard: Floats = hard) -> SeedScores:
            shifts = random.normal(0, spread, seeds)
            right = [(random.random(N) < np.clip(hard + shift, 0, 1)).astype(float) for shift in shifts]
            return SeedScores([float(one.mean()) for one in right], [weights @ one for one in right])

        wrong += not difference(scored(), scored()).noise
    assert wrong / trials < 0.09  # 0.05 and three standard errors of 300 trials


def test_three_seeds_far_apart_tell_nothing() -> None:
    """Differences of one sign by chance: three of three, which is one chance in four."""
    ahead = SeedScores([0.71, 0.75, 0.80], [np.full(1000, value) for value in (0.71, 0.75, 0.80)])
    gap = difference(ahead, SeedScores([0.7] * 3, [np.full(1000, 0.7)] * 3))
    assert gap.noise
    assert gap.high - gap.value == pytest.approx(4.303 * np.std([0.01, 0.05, 0.10], ddof=1) / np.sqrt(3), rel=1e-3)


def test_two_seeds_that_do_not_agree_are_said_to_tell_nothing() -> None:
    """The t of one degree of freedom is 12.7; two seeds that agree to the digit, and three seeds, are no such case."""

    def against(*values: float) -> Difference:
        flat = [np.full(1000, value) for value in values]
        return difference(SeedScores(values, flat), SeedScores([0.5] * len(values), [np.full(1000, 0.5)] * len(values)))

    apart = against(0.40, 0.53)
    assert apart.undecided
    assert (apart.low, apart.high) == pytest.approx((-0.861, 0.791), abs=0.001)
    assert not against(0.700, 0.701).noise
    assert not against(0.700, 0.701).undecided
    assert against(0.40, 0.53, 0.45).noise
    assert not against(0.40, 0.53, 0.45).undecided
    assert not against(0.40).undecided
    unsure = SeedScores([0.5, 0.5], [np.linspace(0.3, 0.7, 1000)] * 2)  # for want of examples, not of seeds
    assert difference(unsure, SeedScores([0.5, 0.5], [np.full(1000, 0.5)] * 2)).noise
    assert not difference(unsure, SeedScores([0.5, 0.5], [np.full(1000, 0.5)] * 2)).undecided


def test_answers_that_are_all_right_are_not_certain() -> None:
    """No resample differs from another then: the interval is that of the scores themselves."""
    perfect, flat = (0.9638, 1.0), [np.ones(1000)]
    found = mean_interval(SeedScores([1.0], flat, [perfect]))
    assert (found.low, found.high) == pytest.approx(perfect)
    gap = difference(SeedScores([1.0], flat, [perfect]), SeedScores([1.0], flat, [perfect]))
    assert (gap.low, gap.value, gap.high) == pytest.approx((-0.0362, 0, 0.0362))
    gap = difference(SeedScores([1.0], flat, [perfect]), SeedScores([0.0], [np.zeros(1000)], [(0.0, 0.0362)]))
    assert not gap.noise
    assert (gap.low, gap.high) == pytest.approx((1 - 0.0362, 1))
    right = answers(6, 0.7, 1)[0]
    usual = SeedScores([float(right.mean())], [draws(right)])
    assert mean_interval(usual) == mean_interval(SeedScores(usual.values, usual.draws, [(0.0, 1.0)]))
