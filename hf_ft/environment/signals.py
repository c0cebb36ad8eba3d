"""Signals that end a run: finish the current step, write a checkpoint, end the process.

Schedulers send SIGTERM or SIGUSR1 before the end of a job, closing terminals SIGHUP, Ctrl-C SIGINT.
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
"""Handlers that may be replaced; others stay (`nohup` ignores SIGHUP, notebooks install their own)."""


class Terminated(SystemExit):
    """A signal ended the process; the exit code is the usual one, 128 plus the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Stop:
    """The request of a signal to stop; while a training loop checks it (`waiting`), signals do not raise."""

    def __init__(self) -> None:
        self.number, self.waiting, self.process = 0, False, os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Record the signal where a checkpoint will be written for it; raise otherwise, and at a second Ctrl-C."""
        if os.getpid() != self.process:  # a data loader worker inherits this handler; it ends when the loop does
            return
        first, self.number = not self.number, self.number or number
        if not self.waiting or (not first and number == signal.SIGINT):
            raise exception_of(number)
        if first:
            again = ", once more to end at once" if number == signal.SIGINT else ""
            # `print` is not safe here: the signal may have interrupted another one.
            text = f"{signal.Signals(number).name}: a checkpoint is written after this step, then the run ends{again}\n"
            os.write(2, text.encode())

    def check(self) -> None:
        """Raise if a signal has not ended the process yet, because some libraries catch every exception.

        `datasets` does so around its hashing, and the result of the interrupted work cannot be trusted.
        """
        if self.number:
            raise exception_of(self.number)


def ignore_in_worker(then: Callable[[int], Any] | None, worker: int) -> None:
    """Ignore the signals in a data loader worker: those to the whole process group are for the training process.

    Without its workers that process could not finish the step before its checkpoint. Workers end with its loop, or
    within seconds after it is gone. Inheriting its handlers is not enough: torch replaces them.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)


def exception_of(number: int) -> BaseException:
    """The exception for a signal: `KeyboardInterrupt` for Ctrl-C, as everywhere in Python, else `Terminated`."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


_stops: list[Stop] = []


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within this context, signals that would end the process let a training loop write a checkpoint first.

    Only in the main thread, and only signals with a default handler; a nested context is the outer one.
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
        if stop.number:  # caused by an exception of ours that a library caught
            raise exception_of(stop.number) from error
        raise
    finally:
        _stops.remove(stop)
        for number, handler in before.items():
            signal.signal(number, handler)
