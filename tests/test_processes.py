"""Processes that tests fork from one with torch are what `python` would be: the same code, streams and exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import fork_server
from tests.support.processes import python

PROGRAMS = {
    "output": ("print('out'); import sys; print('err', file=sys.stderr)", 0),
    "input and words": ("import sys; print(sys.stdin.read(), sys.argv[1:], __name__)", 0),
    "variables and folder": ("import os; print(os.environ['MINE'], os.environ.get('HOME'), os.getcwd())", 0),
    "modules of the folder": ("import mine; print(mine.NAME)", 0),
    "an exit code": ("import sys; sys.exit(7)", 7),
    "an exit with words": ("import sys; sys.exit('no')", 1),
    "an error": ("import sys; sys.tracebacklimit = 0; 1 / 0", 1),
    "a signal": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
    "what runs at the end": ("import atexit; atexit.register(print, 'over')", 0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_what_python_does(name: str, tmp_path: Path) -> None:
    """Compared with a process of `subprocess`; without variables of this one but those that are given."""
    program, code = PROGRAMS[name]
    (tmp_path / "mine.py").write_text("NAME = 'of the folder'")
    environment = {"PATH": os.environ["PATH"], "MINE": "a variable"}
    words = ["-c", program, "one", "two"]
    usual = subprocess.run(
        [sys.executable, *words], input="given", capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    forked = python(*words, environment=environment, folder=tmp_path, given="given")
    assert usual.returncode == forked.returncode == code
    assert forked.stdout == usual.stdout
    assert forked.stderr.splitlines()[-1:] == usual.stderr.splitlines()[-1:]


def test_scripts_and_modules(tmp_path: Path) -> None:
    """As the main module, beside what is in their folder."""
    (tmp_path / "other.py").write_text("NAME = 'other'")
    (tmp_path / "script.py").write_text("import other, sys; print(__name__, other.NAME, sys.argv[1:])")
    for words in ([str(tmp_path / "script.py"), "a"], ["-m", "script", "a"]):
        done = python(*words, folder=tmp_path)
        assert done.stdout == "__main__ other ['a']\n", done.stderr


def test_what_tests_are_about_is_not_there_yet() -> None:
    """A process imports hf_ft and what reads the environment itself; torch is there."""
    done = python("-c", "import sys; print(*sys.modules)")
    there = set(done.stdout.split())
    assert not {"hf_ft", "huggingface_hub", "transformers", "datasets", "accelerate", "peft", "timm"} & there
    assert "torch" in there
    assert set(fork_server.EARLY) & there >= {"torch._dynamo", "scipy.stats", "pandas", "matplotlib.pyplot"}


def test_processes_know_nothing_of_each_other() -> None:
    assert python("-c", "import os, sys; os.environ['LEFT'] = 'x'; sys.modules['left'] = sys").returncode == 0
    done = python("-c", "import os, sys; print(os.environ.get('LEFT'), 'left' in sys.modules)")
    assert done.stdout == "None False\n"
