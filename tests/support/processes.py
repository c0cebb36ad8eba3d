"""Python processes as users start them, without the seconds that importing torch takes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.support import fork_server


def python(
    *words: str, environment: Mapping[str, str] | None = None, folder: Path | str = ".", given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `python WORDS`; returns its exit code, output and errors, as `subprocess.run` does.

    The process is forked from one that has imported what does not depend on the environment. Tests of what is imported,
    and of processes that are watched or killed, start theirs by `subprocess`.

    Args:
        words: `-m MODULE`, `-c PROGRAM` or a script, and its arguments.
        environment: All environment variables, by default those of this process.
        given: Its standard input.
    """
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("in", "out", "err")]
        for path in files:
            path.write_text(given if path.name == "in" else "")
        request = {
            "words": [os.fspath(word) for word in words],
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(Path(folder).resolve()),
            "files": [str(path) for path in files],
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        code = os.waitstatus_to_exitcode(int(server.stdout.readline()))
        _, out, err = (path.read_text() for path in files)
    return subprocess.CompletedProcess([sys.executable, *words], code, out, err)


@cache
def _server() -> subprocess.Popen[str]:
    """The one that forks, which ends with this process: its requests end then."""
    command = [sys.executable, fork_server.__file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
