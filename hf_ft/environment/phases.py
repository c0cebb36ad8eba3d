"""Where the time of a run goes: seconds by phase, such as data, features and scores.

A phase is a block, `with phase("scores")`. The seconds of a phase within another one count for the inner one alone, so
all of them together are the seconds of the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OTHER = "other"
"""The phase of whatever is in no phase."""


class PhaseClock:
    """Seconds by phase, in the order in which phases began."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open, self._since = [OTHER], time.perf_counter()

    def enter(self, name: str) -> None:
        """Begin a phase; the one around it pauses."""
        self._charge()
        self._seconds.setdefault(name, 0.0)
        self._open.append(name)

    def leave(self) -> None:
        """End the innermost phase."""
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase up to now, rounded to milliseconds; the rest of the run is `other`."""
        self._charge()
        rest = self._seconds.get(OTHER, 0.0)
        named = {name: round(spent, 3) for name, spent in self._seconds.items() if name != OTHER}
        return {**named, OTHER: round(rest, 3)}


_clock: ContextVar[PhaseClock | None] = ContextVar("clock", default=None)


@contextmanager
def phases_measured() -> Iterator[PhaseClock]:
    """Measure the phases within the block; a run within a run, such as a trial, has a clock of its own."""
    clock = PhaseClock()
    before = _clock.set(clock)
    try:
        yield clock
    finally:
        _clock.reset(before)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of the block for a phase of the run that is measured, if one is."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    clock.enter(name)
    try:
        yield
    finally:
        clock.leave()


def phase_seconds() -> dict[str, float]:
    """Return the seconds by phase of the run that is measured, up to now; empty if none is."""
    clock = _clock.get()
    return {} if clock is None else clock.seconds
