"""A process in which hf_ft is never imported, and which answers for a saved model; see `fresh_process`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_ft.evaluation.fresh_process import ARRAY


class PlainProcess:
    """The `fresh_process` script, running.

    It imports torch and transformers as soon as it starts, which takes seconds. So it is started before there is a
    saved model to ask it about, and asked before its answer is needed.

    Args:
        modules: What else it imports meanwhile, such as the module of the model's class.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
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
    return json.dumps(request, default=lambda value: {ARRAY: np.asarray(value).tolist()})


def fresh_script() -> str:
    """Return the path of the `fresh_process` script."""
    return str(Path(__file__).parent / "fresh_process.py")


def fresh_environment() -> dict[str, str]:
    """Return the environment variables of the fresh process: no network, no GPU."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
