"""Seconds by phase: each moment counts once, for the innermost phase, and runs do not mix."""

from __future__ import annotations

from contextlib import suppress

import pytest

from hf_ft.environment import phase, phase_seconds, phases_measured
from hf_ft.environment.phases import OTHER


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test moves."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_each_moment_counts_once(clock: list[float]) -> None:
    """A phase inside another pauses it; what is in none is `other`; a phase may come back."""
    with phases_measured():
        clock[0] += 1
        with phase("training"):
            clock[0] += 2
            with phase("features"):
                clock[0] += 4
            clock[0] += 8
        with phase("features"):
            clock[0] += 16
        assert phase_seconds() == {"training": 10, "features": 20, OTHER: 1}
        assert sum(phase_seconds().values()) == clock[0] - 100


def test_a_phase_that_fails_ends(clock: list[float]) -> None:
    """What comes after an error does not count for the phase that raised it."""
    with phases_measured():
        with suppress(ValueError), phase("data"):
            clock[0] += 1
            raise ValueError("broken")
        clock[0] += 2
        assert phase_seconds() == {"data": 1, OTHER: 2}


def test_a_run_within_a_run_has_its_own_clock(clock: list[float]) -> None:
    """And without a run nothing is measured."""
    with phase("data"):
        clock[0] += 1
    assert phase_seconds() == {}
    with phases_measured(), phase("scores"):
        with phases_measured(), phase("data"):
            clock[0] += 2
            assert phase_seconds() == {"data": 2, OTHER: 0}
        assert phase_seconds() == {"scores": 2, OTHER: 0}
