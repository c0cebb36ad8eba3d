"""The engine of all experiments: an output folder with one record and any number of trials.

    FOLDER/<record>.json      the record: compare.json, depth.json or rank.json
    FOLDER/trials/<id>.json   the result of a trial; it is there when the trial has ended
    FOLDER/trials/<id>.npy    an array that belongs to it, where there is one
    FOLDER/trials/<id>.log    what it printed

A trial is in one of three states: missing, failed, finished. The same command again runs those that are missing or
failed and adds to the record; a killed process loses the trial that was running. `compare`, `depth` and `rank` share
this class and differ in what a trial does and which trials follow from the results.
"""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from hf_ft.errors import UserError, shorten
from hf_ft.records import Record, drawing, from_json, read_finished, read_record, to_json, write_record
from hf_ft.reports import write_reports
from hf_ft.storage import json_text, output_folder, read_json

if TYPE_CHECKING:
    from hf_ft.metrics import Floats

TRIALS = "trials"
SCHEMA = 1
"""Schema version of the files of trials."""


class Result(Protocol):
    """The result of a trial: a dataclass whose `error` is empty when the trial finished."""

    error: str


R = TypeVar("R", bound=Record)
T = TypeVar("T", bound=Result)


class Experiment(Generic[R]):
    """An experiment in its output folder.

    Args:
        folder: The output folder.
        kind: Class of the record.
    """

    def __init__(self, folder: Path, kind: type[R]) -> None:
        self.root, self.kind, self.folder = folder, kind, folder / TRIALS

    # The experiment.

    def begin(self, record: R, overwrite: bool = False) -> R | None:
        """Start the experiment that a record describes, or continue it; returns the record of an earlier call.

        Args:
            record: What is about to run, without results.
            overwrite: Remove an earlier result first.

        Raises:
            UserError: The folder holds an experiment with other data or settings; nothing is changed.
        """
        if overwrite:
            self.discard()
        if not (self.root / self.kind.FILE).exists():
            return None
        earlier = read_record(self.root, self.kind)
        self.check_same(earlier.identity(), record.identity())
        return earlier

    def check_same(self, earlier: dict[str, tuple[Any, str]], now: dict[str, tuple[Any, str]]) -> None:
        """Raise where two identities differ (see `Record.identity`).

        Raises:
            UserError: Lists what differs.
        """
        unset = (None, "not set")
        names = [
            name for name in dict.fromkeys([*earlier, *now]) if earlier.get(name, unset)[0] != now.get(name, unset)[0]
        ]
        if names:
            listed = shorten(
                (f"{name} was {earlier.get(name, unset)[1]}, now {now.get(name, unset)[1]}" for name in names), 6
            )
            raise UserError(
                f"{self.root} holds a {self.kind.TITLE} with other settings or data: {listed}.",
                hint="Nothing was started. Restore them, choose another --output_dir, or pass --overwrite_output_dir.",
            )

    def discard(self) -> None:
        """Remove the files of the experiment, and nothing else from its folder."""
        output_folder.remove(self.root)

    def save(self, record: R) -> None:
        """Write the record atomically."""
        write_record(self.root, record)

    def finish(self, record: R) -> list[Path]:
        """Write the record and all its reports; returns the files of figures."""
        self.save(record)
        return publish(record, self.root)

    # Its trials.

    def state(self, trial: str, kind: type[T], array: bool = False) -> Literal["missing", "failed", "finished"]:
        """Return the state of a trial; see `result` for the arguments."""
        if self.result(trial, kind, array) is not None:
            return "finished"
        return "failed" if (self.folder / f"{trial}.json").exists() else "missing"

    def result(self, trial: str, kind: type[T], array: bool = False) -> T | None:
        """Return the result of a finished trial, None for one that is missing, failed or damaged.

        Args:
            trial: Its id.
            kind: Class of its result.
            array: Whether an array belongs to it.
        """
        path = self.folder / f"{trial}.json"
        if array and not path.with_suffix(".npy").exists():
            return None
        try:
            content = read_json(path)
            if content.pop("schema_version") != SCHEMA:
                return None
            found = from_json(kind, content)
        except (OSError, KeyError, TypeError, AttributeError, ValueError):  # missing or damaged: the trial runs again
            return None
        return None if found.error else found

    def array(self, trial: str) -> Floats:
        """Return the array of a finished trial."""
        import numpy as np

        found: Floats = np.load(self.folder / f"{trial}.npy", allow_pickle=False)
        return found

    def run_trial(
        self,
        trial: str,
        work: Callable[[], tuple[T, Floats | None]],
        failed: Callable[[Exception], T],
        log: bool = True,
    ) -> T:
        """Run a trial and store its result; one that fails does not stop the others.

        Args:
            trial: Its id, which names its files.
            work: Does it; returns the result, and an array that belongs to it or None.
            failed: Makes a result of an exception.
            log: Whether its output goes to a log file instead of the terminal.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log_file = self.folder / f"{trial}.log"
        with contextlib.ExitStack() as stack:
            stream = sys.stderr
            if log:
                output_folder.make_way(self.root, f"{TRIALS}/{log_file.name}")
                # The last to run: an interrupted trial leaves a log that the next call must know as ours.
                stack.callback(lambda: output_folder.record_files(self.root, [log_file]))
                stream = stack.enter_context(log_file.open("w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(stream))
            try:
                result, array = work()
            except Exception as error:  # as many kinds as there are models, kernels and devices
                if log or not isinstance(error, UserError):
                    traceback.print_exc(file=stream)
                result, array = failed(error), None
        if array is not None:
            output_folder.write(self.root, f"{TRIALS}/{trial}.npy", _bytes_of(array))
        content = {"schema_version": SCHEMA, **to_json(result)}
        output_folder.write(self.root, f"{TRIALS}/{trial}.json", json_text(content))
        gc.collect()
        return result


def _bytes_of(array: Floats) -> bytes:
    import numpy as np

    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def one_line(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def publish(record: Record, folder: Path) -> list[Path]:
    """Render all reports of a record into its folder, from the record alone; returns the files of figures."""
    with output_folder.staging(folder) as new:
        figures = write_reports(record, new)
    return [folder / path.relative_to(new) for path in figures]


def redraw(folder: Path, kind: type[R]) -> list[Path]:
    """Render all reports of a finished experiment again, byte for byte the same; returns the files of figures.

    Raises:
        UserError: There is no finished experiment, or its record is damaged.
    """
    record = read_finished(folder, kind)
    with output_folder.locked_if_ours(folder, kind.KIND), drawing(folder, kind):
        return publish(record, folder)
