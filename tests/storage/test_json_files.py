"""JSON files: whole or not there, readable, and the same values when they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_ft.storage.json_files import as_json, json_text, read_json, write_atomically, write_json


def test_values_come_back(tmp_path: Path) -> None:
    value = {"name": "Grüße", "path": "caf\udce9", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "deep" / "a.json", value)
    assert read_json(tmp_path / "deep" / "a.json") == value
    text = (tmp_path / "deep" / "a.json").read_text(encoding="utf-8")  # valid UTF-8, whatever file names hold
    assert "Grüße" in text
    assert text.endswith("}\n")


def test_a_refused_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert read_json(path) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_as_json_is_what_a_file_gives_back() -> None:
    assert as_json({"a": (1, 2), "b": Path("x")}) == {"a": [1, 2], "b": "x"}
    assert json_text([1]) == "[\n 1\n]\n"
