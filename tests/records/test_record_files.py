"""Records on disk: read back as they were written, and one clear error for whatever else is found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from hf_ft import UserError
from hf_ft.records import read_finished, read_record, write_record
from hf_ft.records.comparison import ComparisonRecord
from hf_ft.records.freeze_depth import FreezeDepthRecord
from hf_ft.records.ranking import RankingRecord
from hf_ft.records.record_files import Record, drawing
from hf_ft.records.run import RunRecord


@dataclass
class Small(Record):
    FILE: ClassVar[str] = "small.json"
    TITLE: ClassVar[str] = "small thing"
    KIND: ClassVar[str] = "run"
    SCHEMA: ClassVar[int] = 3

    values: list[float]


SMALL = Small(3, "0.0.0", "2026-01-01", [0.5, 1.0])


def written(folder: Path, **changes: object) -> Path:
    """A folder with the record, some of its fields changed; None removes one."""
    content = {name: value for name, value in {**SMALL.as_dict(), **changes}.items() if value is not None}
    (folder / "small.json").write_text(json.dumps(content))
    return folder


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_record(tmp_path, SMALL)
    assert read_record(tmp_path, Small) == SMALL
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "has schema version 2, and schema version 3 is supported"),
        ({"schema_version": 4}, "has schema version 4"),
        ({"schema_version": None}, "has no schema version"),
        ({"schema_version": True}, "has no schema version"),
        ({"values": None}, "'values' is missing"),
        ({"values": ["a"]}, r"'values\[0\]' is not valid"),
        ({"more": 1}, "'more' is unknown"),
    ],
)
def test_other_content_is_one_error(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_record(written(tmp_path, **changes), Small)
    assert "small.json" in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00", "3"])
def test_other_files_are_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "small.json").write_text(text)
    with pytest.raises(UserError, match=r"small\.json is not a"):
        read_record(tmp_path, Small)


def test_a_missing_record_names_the_option(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"holds no finished small thing.*--output_dir"):
            read_record(folder, Small)


def test_interrupted_experiments_are_not_finished(tmp_path: Path) -> None:
    @dataclass
    class Begun(Small):
        @property
        def finished(self) -> bool:
            return False

    with pytest.raises(UserError, match="has not finished"):
        read_finished(written(tmp_path), Begun)


def test_values_that_cannot_be_drawn_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"small\.json is not a valid record.*KeyError"), drawing(tmp_path, Small):
        {}["missing"]
    with pytest.raises(UserError, match="mine"), drawing(tmp_path, Small):
        raise UserError("mine")


def test_every_record_says_what_it_is() -> None:
    kinds = [RunRecord, ComparisonRecord, FreezeDepthRecord, RankingRecord]
    assert len({kind.FILE for kind in kinds}) == len({kind.KIND for kind in kinds}) == len(kinds)
    assert all(kind.SCHEMA >= 1 and kind.TITLE for kind in kinds)
