"""The engine of experiments: the states of trials, what is resumed, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hf_ft import UserError
from hf_ft.experiments.experiment_engine import Experiment
from hf_ft.records.record_files import Record
from hf_ft.storage import output_folder


@dataclass
class Table(Record):
    FILE: ClassVar[str] = "table.json"
    TITLE: ClassVar[str] = "table"
    KIND: ClassVar[str] = "comparison"
    SCHEMA: ClassVar[int] = 1

    data: str

    def identity(self) -> dict[str, tuple[Any, str]]:
        return {"dataset": (self.data, f"'{self.data}'")}


@dataclass
class Number:
    value: int = 0
    error: str = ""


def fail(error: Exception) -> Number:
    return Number(error=str(error))


def raising() -> tuple[Number, None]:
    print("about to fail")
    raise RuntimeError("out of memory")


@pytest.fixture
def experiment(tmp_path: Path) -> Any:
    """An experiment whose folder is held, as `compare` holds its own."""
    with output_folder.locked(tmp_path / "out", Table.KIND):
        yield Experiment(tmp_path / "out", Table)


def test_states_of_a_trial(experiment: Experiment[Table]) -> None:
    assert experiment.state("a", Number) == "missing"
    assert experiment.run_trial("a", raising, fail).error == "out of memory"
    assert experiment.state("a", Number) == "failed"
    log = (experiment.folder / "a.log").read_text()
    assert "about to fail" in log
    assert "Traceback" in log
    assert experiment.run_trial("a", lambda: (Number(7), np.arange(3.0)), fail) == Number(7)
    assert experiment.state("a", Number, array=True) == "finished"
    assert experiment.result("a", Number) == Number(7)
    assert experiment.array("a").tolist() == [0.0, 1.0, 2.0]
    known = output_folder.files_of(experiment.root)
    assert {f"trials/a.{kind}" for kind in ("json", "npy", "log")} <= known.keys()


def test_damaged_trials_run_again(experiment: Experiment[Table]) -> None:
    experiment.run_trial("a", lambda: (Number(7), None), fail)
    path = experiment.folder / "a.json"
    for text in ("", "{}", path.read_text().replace('"schema_version": 1', '"schema_version": 9'), "[]"):
        path.write_text(text)
        assert experiment.result("a", Number) is None
        assert experiment.state("a", Number) == "failed"


def test_a_missing_array_makes_a_trial_missing(experiment: Experiment[Table]) -> None:
    experiment.run_trial("a", lambda: (Number(7), None), fail)
    assert experiment.result("a", Number, array=True) is None


def test_output_goes_to_the_terminal_without_a_log(experiment: Experiment[Table], capsys: Any) -> None:
    experiment.run_trial("a", raising, fail, log=False)
    printed = capsys.readouterr()
    assert "about to fail" in printed.out
    assert "Traceback" in printed.err
    assert not (experiment.folder / "a.log").exists()


def test_the_same_experiment_continues_and_another_is_refused(experiment: Experiment[Table]) -> None:
    record = Table(1, "", "", "digits")
    assert experiment.begin(record) is None
    experiment.save(record)
    experiment.run_trial("a", lambda: (Number(7), None), fail)
    assert experiment.begin(Table(1, "", "later", "digits")) == record
    with pytest.raises(UserError, match=r"dataset was 'digits', now 'letters'.*--overwrite_output_dir"):
        experiment.begin(Table(1, "", "", "letters"))
    assert experiment.result("a", Number) == Number(7)
    assert experiment.begin(Table(1, "", "", "letters"), overwrite=True) is None
    assert experiment.state("a", Number) == "missing"
