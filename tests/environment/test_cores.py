"""How many cores a process has."""

from __future__ import annotations

import os

import pytest

from hf_ft.environment import cores


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 6, 7}, raising=False)
    assert cores() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert cores() == 1
