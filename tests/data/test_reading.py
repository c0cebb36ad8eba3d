"""Reading ahead of the model: in order, the same as in one process, and with as many workers as are of use."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_ft.data import Readers, choose_readers, in_threads, read_ahead, reading


def chosen(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int = 10_000, passes: float = 5, cores: int = 8,
    threads: int = 1, device: str = "cpu", size: int = 100, platform: str = "linux",
) -> Readers:  # fmt: skip
    """What is chosen where reading a row takes so long."""
    monkeypatch.setattr(reading, "_measured", lambda read, rows: (seconds, size))
    monkeypatch.setattr(reading, "cores", lambda: cores)
    monkeypatch.setattr(reading.sys, "platform", platform)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    args: Any = SimpleNamespace(device=torch.device(device))
    return choose_readers(lambda indices: [{}], rows, passes, 32, args)


@pytest.mark.parametrize(
    ("situation", "workers", "reason"),
    [
        ({"seconds": 0.01, "device": "cuda"}, 7, "10.0 ms"),  # one core stays for the model's process
        ({"seconds": 0.001, "device": "cuda"}, 4, "1.0 ms"),  # 32 ms for a batch that should be ready in 10
        ({"seconds": 0.01, "threads": 8}, 0, "all 8 cores"),
        ({"seconds": 0.2, "threads": 2, "cores": 2}, 2, "200.0 ms"),  # decoding would use one core of two
        ({"seconds": 0.01, "threads": 1, "cores": 2}, 1, "10.0 ms"),
        ({"seconds": 0.2, "cores": 1}, 0, "only core"),
        ({"seconds": 0.01, "rows": 199, "passes": 1}, 0, "fewer than 200"),
        ({"seconds": 0.0001, "rows": 1_000}, 0, "0.5 s in all"),
        ({"seconds": 0.01, "device": "cuda", "size": 2**20}, 0, "too little room"),
        ({"seconds": 0.01, "device": "cuda", "size": 2**18}, 2, "10.0 ms"),
        ({"seconds": 0.01, "device": "cuda", "platform": "darwin"}, 0, "on Linux only"),
    ],
)
def test_workers_follow_from_cores_device_and_rate(
    situation: dict[str, Any], workers: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = chosen(monkeypatch, **situation)
    assert found.workers == workers
    assert reason in found.reason


def test_rows_in_memory_need_no_workers() -> None:
    args: Any = SimpleNamespace(device=torch.device("cuda"))
    assert choose_readers(None, 10**6, 10, 32, args) == Readers(0, "examples are in memory")


def test_a_few_rows_are_measured() -> None:
    """The first read imports what reading needs, so it is not timed."""
    read: list[list[int]] = []

    def rows(indices: Sequence[int]) -> dict[str, torch.Tensor]:
        read.append(list(indices))
        time.sleep(0.3 if len(read) == 1 else 0.02 * len(indices))
        return {"pixel_values": torch.zeros(len(indices), 3, 4)}

    seconds, size = reading._measured(rows, 100)
    assert read == [[0], [24, 49, 74, 99]]
    assert 0.02 <= seconds < 0.2
    assert size == 48


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_read_ahead_comes_in_order(workers: int) -> None:
    def read(item: int) -> tuple[int, int, int]:
        return item * 2, os.getpid(), torch.get_num_threads()

    found = list(read_ahead(read, list(range(9)), workers))
    assert [double for double, _, _ in found] == list(range(0, 18, 2))
    processes = {process for _, process, _ in found}
    assert len(processes) == max(1, workers)
    assert (os.getpid() in processes) == (workers == 0)
    if workers:
        assert {threads for _, _, threads in found} == {1}


@pytest.mark.parametrize("cores", [1, 3])
def test_threads_keep_the_order_and_raise(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "cores", lambda: cores)
    used: set[int] = set()

    def work(item: int) -> int:
        used.add(threading.get_ident())
        time.sleep(0.002 * (5 - item % 5))
        if item == 17:
            raise ValueError("unreadable")
        return -item

    assert list(in_threads(work, range(16))) == [-item for item in range(16)]
    assert (threading.get_ident() in used) == (cores == 1)
    with pytest.raises(ValueError, match="unreadable"):
        list(in_threads(work, range(20)))
