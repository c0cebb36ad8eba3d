"""A small sample of the kill campaign (`tests/support/kills.py`): processes really killed end with the same tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

SCRIPT = Path(__file__).parents[1] / "support" / "kills.py"


@pytest.mark.parametrize("case", ["image full", "text lp_ft"])
def test_killed_runs_end_with_the_same_tensors(case: str) -> None:
    """Two kills at file operations under the checkpoints, one at random, and one signal."""
    counts = ["--aimed=2", "--random=1", "--signals=1", "--seed=7"]
    words = [sys.executable, str(SCRIPT), f"--cases={case}", *counts]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 end with the very tensors" in done.stdout


def test_a_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one tensor, and checkpoints that are left: the campaign can fail."""
    from tests.support import kills

    def result(name: str, value: float) -> Path:
        (tmp_path / name).mkdir()
        save_file({"weight": torch.tensor([1.0, value])}, tmp_path / name / "model.safetensors")
        return tmp_path / name

    case = kills.Case.__new__(kills.Case)
    case.folder = tmp_path
    result("whole", 2.0)
    assert case.different(result("same", 2.0)) == ""
    assert "1 of 1 tensors" in case.different(result("other", 2.0000002))
    (tmp_path / "same/checkpoints").mkdir()
    assert case.different(tmp_path / "same") == "checkpoints are left"
