"""The machine and the processes of a run."""

from __future__ import annotations

import pytest

from hf_ft.environment.host import launcher_note


def test_accelerate_that_starts_one_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launcher sets an address to meet at where several were asked for; `torchrun` also sets their number."""
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launcher_note() == ""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert launcher_note() == ""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "torchrun --nproc_per_node" in launcher_note()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launcher_note() == ""
