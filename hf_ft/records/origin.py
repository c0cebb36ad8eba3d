"""Where a run was started, and from which model and data: `OUT/.local/origin.json`, which is never published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_ft.storage import LOCAL, read_json


@dataclass(frozen=True)
class Origin:
    """The settings `model` and `dataset` of a run as they were written, and the folder in which it was started."""

    cwd: str
    model: str
    dataset: str

    def located(self, name: str) -> str:
        """Return a path as it was meant where the run was started; what is no path there is returned as it is."""
        path = Path(self.cwd, Path(name).expanduser())
        return str(path) if path.exists() or Path(name).expanduser().is_absolute() else name


def read_origin(folder: Path) -> Origin | None:
    """Return the origin of the run in a folder; None if it is not there, as in a copy of what was published."""
    try:
        found = read_json(folder / LOCAL / "origin.json")
        return Origin(found["cwd"], found["model"], found["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
