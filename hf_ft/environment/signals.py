"""Signals that end a run: the step that is running is finished, a checkpoint is written, and the process ends.

Schedulers announce the end of a job (SIGTERM, SIGUSR1), terminals their own (SIGHUP), people press Ctrl-C (SIGINT).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)  # Windows has the first two
DEFAULT = (signal.SIG_DFL, signal.default_int_handler)
"""What stands for a signal that nobody has taken: others (`nohup` ignores SIGHUP, a notebook's own) are left alone."""


class Terminated(SystemExit):
    """The process was told to end; its exit code is the usual one, 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Stop:
    """What signals have asked for; `waiting` is set while a loop of steps looks at it, otherwise they end at once."""

    def __init__(self) -> None:
        self.number, self.waiting, self.process = 0, False, os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal where a checkpoint will be written for it; raise where not, or at a second Ctrl-C."""
        if os.getpid() != self.process:  # a worker that loads data, which inherits this: it ends when the loop does
            return
        first, self.number = not self.number, self.number or number
        if not self.waiting or (not first and number == signal.SIGINT):
            raise exception_of(number)
        if first:
            again = ", once more to end at once" if number == signal.SIGINT else ""
            # Printing is not safe here: the signal may have come in the middle of another print.
            text = f"{signal.Signals(number).name}: a checkpoint is written after this step, then the run ends{again}\n"
            os.write(2, text.encode())

    def check(self) -> None:
        """Raise what a signal asked for if that has not ended the process: some libraries catch every exception.

        `datasets` does so around its hashing, and whatever it was doing then is not to be trusted.
        """
        if self.number:
            raise exception_of(self.number)


def ignore_in_worker(then: Callable[[int], Any] | None, worker: int) -> None:
    """Begin a process that loads data: signals to the whole group of processes are for the one that trains.

    Without its workers that could not make the step after which it writes its checkpoint. They end when its loop does,
    or within seconds after it is gone. Inheriting its handlers is not enough: torch puts its own in their place.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)


def exception_of(number: int) -> BaseException:
    """What a signal becomes: `KeyboardInterrupt` for Ctrl-C, as everywhere in Python, else `Terminated`."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


_stops: list[Stop] = []


@contextmanager
def stoppable() -> Iterator[Stop]:
    """While it lasts, signals that would end the process let a loop of steps write a checkpoint before.

    Only in the main thread, and only those that nobody else has taken; within another one it is the same.
    """
    if _stops:
        yield _stops[0]
        return
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in ENDING if signal.getsignal(number) in DEFAULT}
    _stops.append(stop)
    try:
        for number in before:
            signal.signal(number, stop.handle)
        yield stop
    except Exception as error:
        if stop.number:  # it follows from an exception of ours that somebody caught
            raise exception_of(stop.number) from error
        raise
    finally:
        _stops.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)
