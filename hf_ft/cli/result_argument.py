"""The checks of the argument OUT, shared by the commands that read a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_ft.records import RunRecord
    from hf_ft.tasks import Task

HELP = "output folder of a training run, or ME/NAME or ME/NAME@REVISION on the Hub"


def check_result(folder: str) -> RunRecord:
    """Check that a folder holds a finished run, and return its record.

    Raises:
        UserError: no such folder, or no valid `run.json` in it.
    """
    from hf_ft.records import RunRecord, read_record
    from hf_ft.settings import check_path

    check_path(str(Path(folder).expanduser().absolute()), "result folder")
    return read_record(Path(folder).expanduser(), RunRecord)


def find_model(name: str) -> tuple[Path, Task]:
    """Return the folder of a trained model, downloaded first if it is one of the Hub, and its task.

    Raises:
        UserError: no such folder or repository, or no classifier in it.
    """
    from hf_ft.evaluation import locate, task_of_folder

    folder = locate(name)
    return folder, task_of_folder(folder, name)
