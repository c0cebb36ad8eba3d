"""The allocator and the garbage collector during a stage, and after it."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys

import pytest
import torch

from hf_ft.environment.memory import OF_USERS, VARIABLE, _allocator, training_memory

PROGRAM = """
import ctypes, sys
from hf_ft.environment.memory import training_memory
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "fsmblks uordblks fordblks keepcost".split()]

library.mallinfo2.restype = Info

def mapped():
    before = library.mallinfo2().hblks
    piece = library.malloc(64 * 2**20)
    found = library.mallinfo2().hblks - before
    library.free(piece)
    return found

before = mapped()
with training_memory():
    inside = mapped()
print(before, inside, mapped())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or torch.accelerator.is_available()
    or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="glibc on a CPU",
)
@pytest.mark.parametrize(("setting", "expected"), [("", "1 0 1"), ("default", "1 1 1")])
def test_the_allocator_is_as_before_after_a_stage(setting: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pieces come from the heap during a stage and from `mmap` again after it; or nothing changes at all."""
    monkeypatch.setenv(VARIABLE, setting)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_thresholds_of_the_user_are_left_alone() -> None:
    """Variables of glibc that set the same thresholds win."""
    assert all(_allocator({name: "1"}) is None for name in OF_USERS)
    assert _allocator({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}) is None


def test_the_collector_is_as_before() -> None:
    """Objects frozen for a stage are collected again after it, unless they were frozen before."""
    frozen = gc.get_freeze_count()
    with training_memory():
        assert gc.get_freeze_count() > 0
    assert bool(gc.get_freeze_count()) == bool(frozen)
