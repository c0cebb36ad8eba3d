"""Fresh processes that see a local Hub and nothing else, as users' processes do."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hub.server import LocalHub
from tests.support.processes import python

PRELUDE = """
import json
from huggingface_hub import HfApi
api = HfApi()

def answer(value):
    print("\\n" + json.dumps(value))

def attempt(call):
    '''What a call raises, or `done`.'''
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "done"
"""

COMMANDS = """
import contextlib, io, json, os, sys
from hf_ft.cli import main
found = {}
for name, (words, token) in json.loads(open("commands.json").read()).items():
    os.environ.pop("HF_TOKEN", None)
    os.environ |= {"HF_TOKEN": token} if token else {}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    found[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
open("outcomes.json", "w").write(json.dumps(found))
"""


def run(
    hub: LocalHub, command: list[str], token: str | None, home: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python command line, such as `["-m", "hf_ft", "train"]`, in a process that sees this Hub."""
    # Not `home` itself: a folder `hf_ft` in the working directory would hide the package.
    environment = hub.environment(token, home / "huggingface") | variables
    return python(*command, environment=environment, folder=home)


def ask(hub: LocalHub, program: str, token: str | None, home: Path) -> Any:
    """Run a program that has `api`, `attempt` and `answer`, and return what it gave to `answer`."""
    done = run(hub, ["-c", PRELUDE + textwrap.dedent(program)], token, home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run_commands(
    hub: LocalHub, commands: Mapping[str, tuple[list[str], str | None]], home: Path
) -> dict[str, dict[str, Any]]:
    """Run commands of `hf-ft` in one fresh process, one after another, for its imports take seconds.

    Args:
        commands: Words and token of each, by any name.

    Returns:
        By name: `code`, `out`, `err`.
    """
    (home / "commands.json").write_text(json.dumps(commands))
    done = run(hub, ["-c", COMMANDS], None, home)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads((home / "outcomes.json").read_text())
    return found
