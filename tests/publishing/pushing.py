"""`push_to_hub.py` and `hf-ft push` as users start them: processes that see a local Hub alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hub import LocalHub
from tests.support.processes import python
from tests.support.structure import PACKAGE

ROOT = PACKAGE.parent
SCRIPT, COMMAND = [str(ROOT / "push_to_hub.py")], ["-m", "hf_ft", "push"]


@dataclass
class Pusher:
    """A user who pushes a folder.

    Attributes:
        token: None is a user who has none.
        variables: More environment variables.
        path: A folder that comes first where modules are looked up.
    """

    hub: LocalHub
    token: str | None
    folder: Path
    home: Path
    variables: dict[str, str]
    path: str = ""

    def begun(self, repo_id: str, *words: str, command: list[str] = SCRIPT, **replaced: Any) -> subprocess.Popen[str]:
        """Start a push."""
        return subprocess.Popen(
            [sys.executable, *self._words(repo_id, words, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(replaced),
            cwd=self.home,
        )

    def __call__(self, repo_id: str, *words: str, command: list[str] = SCRIPT, **replaced: Any) -> tuple[int, str, str]:
        """Push; returns exit code, output, and errors."""
        done = python(*self._words(repo_id, words, command), environment=self._environment(replaced), folder=self.home)
        return done.returncode, done.stdout, done.stderr

    def _words(self, repo_id: str, words: Sequence[str], command: list[str]) -> list[str]:
        return [*command, str(self.folder), "--repo_id", repo_id, *words]

    def _environment(self, replaced: dict[str, Any]) -> dict[str, str]:
        environment = self.hub.environment(self.token, self.home) | self.variables | replaced
        return environment | {"PYTHONPATH": os.pathsep.join(filter(None, (self.path, str(ROOT))))}
