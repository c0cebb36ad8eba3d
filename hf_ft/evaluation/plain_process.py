"""A process in which hf_ft is never imported, and which answers for a saved model; see `fresh_process`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_ft.environment import cores
from hf_ft.evaluation.fresh_process import ARRAY, IMPORTS

PATIENCE = 60.0
"""Seconds for which a process that has been started ahead waits: a longer run gets its memory back, and a new one."""


@contextmanager
def process_ahead(wanted: bool) -> Iterator[PlainProcess | None]:
    """Start a `PlainProcess` at the very beginning of a run, whose own imports need one core.

    None where it is not `wanted`, or where there is no second core on which it would cost the run nothing. It ends with
    the block, and after `PATIENCE` unless it is claimed.
    """
    if not wanted or cores() < 2 or os.environ.get("RANK", "0") != "0":
        yield None
        return
    process = PlainProcess()
    timer = threading.Timer(PATIENCE, process.give_up)
    timer.daemon = True
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.stop()


def claimed_process(modules: Sequence[str], ahead: PlainProcess | None = None) -> PlainProcess:
    """Return the process that was started ahead, if it still runs, or a new one; it imports the modules meanwhile."""
    return ahead if ahead is not None and ahead.claim(modules) else PlainProcess(modules)


class PlainProcess:
    """The `fresh_process` script, running.

    It imports torch and transformers as soon as it starts, which takes seconds. So it is started before there is a
    saved model to ask it about, and asked before its answer is needed.

    Args:
        modules: What else it imports meanwhile, such as the module of the model's class.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._claimed, self._deciding = False, threading.Lock()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe that nobody reads would block the process
        self._process = subprocess.Popen(
            [sys.executable, fresh_script(), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=fresh_environment(),
            cwd="/",
        )

    def claim(self, modules: Sequence[str]) -> bool:
        """Let it import modules and wait for a request, however long that takes; returns whether it still runs."""
        with self._deciding:
            self._claimed = True
        running = self._process.poll() is None
        if running and modules:
            self.ask({IMPORTS: list(modules)})
        return running

    def give_up(self) -> None:
        """End it unless it has been claimed."""
        with self._deciding:
            if not self._claimed:
                self.stop()

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send the one request that it answers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encoded_request(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended, and `answer` says why
            pass

    def answer(self) -> dict[str, Any]:
        """Wait for the answer; the process has ended then."""
        answered, _ = self._process.communicate()
        if self._process.returncode or not answered:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            return {"error": (lines or ["no output"])[-1]}
        found: dict[str, Any] = json.loads(answered)
        return found

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    __del__ = stop


def encoded_request(request: Mapping[str, Any]) -> str:
    """Return a request as JSON, with arrays (such as waveforms) in the form that `fresh_process.restored` reads."""
    import numpy as np  # what starts the process ahead has no use for it

    return json.dumps(request, default=lambda value: {ARRAY: np.asarray(value).tolist()})


def fresh_script() -> str:
    """Return the path of the `fresh_process` script."""
    return str(Path(__file__).parent / "fresh_process.py")


def fresh_environment() -> dict[str, str]:
    """Return the environment variables of the fresh process: no network, no GPU."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
