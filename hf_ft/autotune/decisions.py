"""Decisions of earlier trials, remembered in a JSON file in the cache folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_ft.storage import read_json, write_json

FILE = "autotune.json"
FORMAT = 1


class Decisions:
    """The decisions in a folder by key; a file that cannot be read or written only means that they are made again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all decisions; none where the file is missing, damaged or of another format."""
        with suppress(OSError, ValueError):
            content = read_json(self.path)
            if isinstance(content, dict) and content.get("format") == FORMAT:
                found = content.get("decisions")
                return found if isinstance(found, dict) else {}
        return {}

    def remember(self, key: str, decision: dict[str, Any]) -> None:
        """Add a decision, which replaces an earlier one."""
        with suppress(OSError):
            write_json(self.path, {"format": FORMAT, "decisions": self.read() | {key: decision}})
