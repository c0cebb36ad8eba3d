"""The process of the load-back proof, started ahead of a run: claimed, given up, or never started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hf_ft.evaluation import plain_process
from hf_ft.evaluation.plain_process import PlainProcess, claimed_process, process_ahead


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_process, "cores", lambda: 2)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PlainProcess]]:
    """The processes that a test starts."""
    found: list[PlainProcess] = []

    class Counted(PlainProcess):
        """A process that is counted."""

        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            found.append(self)

    monkeypatch.setattr(plain_process, "PlainProcess", Counted)
    yield found
    for process in found:
        process.stop()


def running(process: PlainProcess) -> bool:
    return process._process.poll() is None


def test_the_process_that_runs_already_is_claimed(started: list[PlainProcess], text_model: str) -> None:
    """It imports one more module and answers; no other is started."""
    with process_ahead(True) as ahead:
        assert claimed_process(["transformers.models.bert.modeling_bert"], ahead) is ahead
        assert ahead is not None
        ahead.give_up()  # the time is up, but it is claimed
        ahead.ask({"folder": text_model, "pipeline": "text-classification", "inputs": ["fine"], "options": {}})
        assert ahead.answer()["names"] == ["LABEL_0", "LABEL_1"]
    assert len(started) == 1


def test_a_long_run_gets_its_memory_back(started: list[PlainProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends when it has waited for long, and another one is started when it is needed."""
    monkeypatch.setattr(plain_process, "PATIENCE", 0.1)
    with process_ahead(True) as ahead:
        assert ahead is not None
        ahead._process.wait(timeout=30)
        assert claimed_process([], ahead) is not ahead
    assert [running(process) for process in started] == [False, True]


def test_it_ends_with_the_run(started: list[PlainProcess]) -> None:
    """A run that fails leaves no process behind."""

    def fail() -> None:
        with process_ahead(True):
            assert running(started[0])
            raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        fail()
    assert not running(started[0])


@pytest.mark.parametrize("why", ["not wanted", "one core", "another process writes"])
def test_it_is_not_started(why: str, started: list[PlainProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no proof, where it would cost the run time, and in all processes but the first."""
    if why == "one core":
        monkeypatch.setattr(plain_process, "cores", lambda: 1)
    if why == "another process writes":
        monkeypatch.setenv("RANK", "1")
    with process_ahead(why != "not wanted") as ahead:
        assert ahead is None
    assert not started
