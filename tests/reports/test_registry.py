"""The registry of reports: every report is found by its decorator, and writes its files from the record alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from hf_ft.records import ComparisonRecord, FreezeDepthRecord, RankingRecord, RunRecord
from hf_ft.records.record_files import Record
from hf_ft.reports import registry
from hf_ft.reports.registry import figure_files, report, reports_of, write_reports
from hf_ft.reports.style import new_figure


@dataclass
class Numbers(Record):
    FILE: ClassVar[str] = "numbers.json"
    TITLE: ClassVar[str] = "list of numbers"
    KIND: ClassVar[str] = "run"
    SCHEMA: ClassVar[int] = 1

    values: list[int]


@pytest.fixture(autouse=True)
def _only_here() -> Iterator[None]:
    """Reports that a test registers are gone after it."""
    registry._import_reports()
    before = list(registry._REPORTS)
    yield
    registry._REPORTS[:] = before


def test_text_and_figures_are_written(tmp_path: Path) -> None:
    @report(Numbers, "numbers.txt")
    def text(record: Numbers) -> str:
        return f"{record.values}\n"

    @report(Numbers, "figures/line.png", "figures/line.svg", applies=lambda record: len(record.values) > 1)
    def figure(record: Numbers) -> object:
        drawn, axis = new_figure(1, 2.0, 2.0)
        axis.plot(record.values)
        return drawn

    record = Numbers(1, "", "", [1, 3, 2])
    figures = write_reports(record, tmp_path)
    assert (tmp_path / "numbers.txt").read_text() == "[1, 3, 2]\n"
    assert figures == [tmp_path / "figures/line.png", tmp_path / "figures/line.svg"]
    assert all(path.stat().st_size > 500 for path in figures)
    assert figure_files(record) == ["figures/line.png"]
    assert figure_files(Numbers(1, "", "", [1])) == []


def test_reports_are_found_by_their_file() -> None:
    """A module of the room that nobody imports is found: a new format is one file."""
    kinds = {one.record for one in registry._REPORTS}
    assert {RunRecord, ComparisonRecord, FreezeDepthRecord, RankingRecord} <= kinds
    files = [name for one in registry._REPORTS for name in one.files]
    assert {"README.md", "compare.md", "depth.md", "rank.md"} <= set(files)
    assert len(files) == len(set(files))
    assert "hf_ft.reports.confusion_figure" in sys.modules


def test_records_without_reports_have_none() -> None:
    assert reports_of(Numbers(1, "", "", [])) == []
