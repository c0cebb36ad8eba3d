"""How long training waits for data: in the process of the model, and of a GPU the time that it has nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

NOTABLE = 0.1
"""The share of time above which waiting is reported with a fix."""
KEPT = 1_000
"""Most pairs of events whose times are not read yet."""


class DataWait:
    """Seconds in which training steps waited for their batches, and in which they worked.

    Evaluations and checkpoints between two steps count as neither (`pausing`). On a GPU, whose work is queued, the wait
    of the process is not that of the device: events in its queue tell how long it was idle between two steps.
    """

    def __init__(self, events: bool = False) -> None:
        self.waited, self.worked, self.idle = 0.0, 0.0, 0.0
        self._ready: float | None = None
        self._paused = 0.0
        self._events, self._pairs, self._end = events, list[tuple[Any, Any]](), None

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Around fetching the batches of a step: what comes until the next call is work."""
        began = time.perf_counter()
        if self._ready is not None:
            self.worked += began - self._ready - self._paused
        end = self._event() if self._ready is not None else None
        yield
        self._ready, self._paused = time.perf_counter(), 0.0
        self.waited += self._ready - began
        if end is not None:
            self._pairs.append((end, self._event()))
            if len(self._pairs) > KEPT:
                self._read_events()

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Around what is no part of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began

    def facts(self) -> dict[str, float | None]:
        """Seconds that steps waited for data, the share of their time, and the idle share of the GPU if there is one.

        The last step is not counted.
        """
        self._read_events()
        whole = self.waited + self.worked
        idle = round(self.idle / whole, 4) if self._events and whole else None
        return {
            "waited": round(self.waited, 3),
            "share": round(self.waited / whole, 4) if whole else 0.0,
            "device_idle": idle,
        }

    def _event(self) -> Any:
        if not self._events:
            return None
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read_events(self) -> None:
        """Add up the times between the end of one step and the start of the next, in the queue of the GPU."""
        for end, start in self._pairs:
            start.synchronize()
            self.idle += end.elapsed_time(start) / 1000
        self._pairs.clear()


def waiting_line(what: str, share: float, workers: int, cores: int, idle: float | None = None) -> str:
    """What to do about a share of time spent waiting for data; empty where it is not notable."""
    if max(share, idle or 0.0) <= NOTABLE:
        return ""
    most = max(1, cores - 1) if idle is not None else cores
    if workers < most:
        fix = f"--dataloader_num_workers {min(most, max(2, 2 * workers))} reads it in more processes"
    else:
        fix = "store images closer to the size that the model reads, or use a machine with more cores"
    device = f" (the GPU was idle for {idle:.0%})" if idle is not None else ""
    return f"waiting  {what} waited {share:.0%} of its time for data{device}: {fix}"
