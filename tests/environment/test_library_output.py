"""Log files: our own lines, no progress bars, no escape codes, and no warning that nobody can act on."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ft.environment.console import progress_shown
from hf_ft.environment.library_output import HARMLESS_WARNINGS, PROGRESS_VARIABLES, silence_libraries

OURS = re.compile(
    r"|(Task|Data|Model|Method|Device|cache|solver|head|full) +\S.*| {8,}\S.*|depth group .*|[- ]+"
    r"|(stem|blocks? [\d-]+|neck|head) .*| +value .*|(validation|test) .*|Verified:|  \S.*"
    r"|class +precision .*|\S.*( +\d\.\d{3}){4} +\d+"
    r"|Training took .*|Stage .*|(the )?(frozen )?layers ran once .*|[A-Z]\S+ .*|The model is in .*"
)
"""The beginnings of all lines that a training prints."""


def logged(folder: Path, *words: str) -> tuple[bytes, bytes]:
    """What a command of a real process writes into two log files."""
    out, err = folder / "out.log", folder / "err.log"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        code = subprocess.call([sys.executable, "-m", "hf_ft", *words], stdout=stdout, stderr=stderr, cwd=folder)
    assert code == 0, err.read_text()
    return out.read_bytes(), err.read_bytes()


def test_a_log_file_holds_our_lines_only(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Training, scoring and loading back, in a process whose output goes into files; then predictions likewise."""
    data = ["--task", "text_classification", "--model", text_model, "--dataset", text_data]
    out, err = logged(tmp_path, "train", *data, "--num_train_epochs", "2", "--output_dir", "run")
    assert err == b""
    assert not re.search(rb"[\r\x1b\x08]|it/s|%\|", out)
    lines = out.decode().splitlines()
    assert len(lines) > 25
    assert [line for line in lines if not OURS.fullmatch(line)] == []
    assert sum(line.startswith("full ") for line in lines) >= 1
    machine = json.loads((tmp_path / "run" / "run.json").read_text())["machine"]
    assert machine["processes"] == 1
    assert "1 process" in next(line for line in lines if line.startswith("Device "))
    out, err = logged(tmp_path, "predict", "run", "a film")
    assert err == b""
    assert len(out.decode().splitlines()) == 2


def test_only_harmless_warnings_are_suppressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message of the list is suppressed, another one of the same logger is not, and only within the context."""
    for name, beginning in HARMLESS_WARNINGS.items():
        logger = logging.getLogger(name)
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record, said=said: said.append(record.getMessage())  # type: ignore[method-assign, misc]
        # on this very logger, so that neither what transformers has set above it nor pytest decides what arrives
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setattr(logger, "level", logging.WARNING)
        monkeypatch.setattr(logger, "propagate", False)
        logger._cache.clear()  # type: ignore[attr-defined]
        with silence_libraries():
            logger.warning("%s of this class.", beginning)
            logger.warning("something is wrong")
        logger.warning("%s of this class.", beginning)
        assert said == ["something is wrong", f"{beginning} of this class."]
        assert logger.filters == []


def test_harmless_warnings_are_those_of_transformers() -> None:
    """Each message stands in the source of the module whose logger it comes from, so that the list stays short."""
    import transformers

    root = Path(transformers.__file__).parent
    for name, beginning in HARMLESS_WARNINGS.items():
        source = root.joinpath(*name.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
        assert "backend is not available" in source if "backend" in beginning else beginning in source


def test_progress_bars_are_disabled_within_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, libraries draw no bars, and afterwards their settings are as before."""
    import datasets

    for name in PROGRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    datasets.enable_progress_bars()
    assert not progress_shown()
    with silence_libraries():
        assert not datasets.is_progress_bar_enabled()
        assert all(os.environ[name] == "1" for name in PROGRESS_VARIABLES)
    assert datasets.is_progress_bar_enabled()
    assert not any(name in os.environ for name in PROGRESS_VARIABLES)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with silence_libraries():
        assert datasets.is_progress_bar_enabled()
