"""The check of the argument OUT, shared by the commands that read a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_ft.records import RunRecord


def check_result(folder: str) -> RunRecord:
    """Check that a folder holds a finished run, and return its record.

    Raises:
        UserError: no such folder, or no valid `run.json` in it.
    """
    from hf_ft.records import RunRecord, read_record
    from hf_ft.settings import check_path

    check_path(str(Path(folder).expanduser().absolute()), "result folder")
    return read_record(Path(folder).expanduser(), RunRecord)
