"""Memory of a process that trains or scores: the garbage collector of Python and the allocator of the C library."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of `mallopt`, https://man7.org/linux/man-pages/man3/mallopt.3.html."""
LARGE = 2**30
HIGHEST_DYNAMIC = 2**25
"""The most to which glibc raises its threshold for `mmap` by itself on 64 bits; that for trimming is twice it."""
VARIABLE = "HF_FT_MALLOC"
"""Environment variable: `default` leaves the allocator alone."""
OF_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
"""Environment variables of glibc with which users set the same thresholds; theirs are not changed."""


@contextmanager
def training_memory() -> Iterator[None]:
    """Spare a stage the work of scanning old objects and of returning memory that the next step asks for again.

    `gc.freeze` takes some hundred thousand objects, made by imports and loading, out of the collections that `Trainer`
    asks for. On a CPU under Linux, activations are freed and allocated anew in each step; glibc would return large
    pieces to the system, which clears each page before it hands it out again. Kept by the process, they take no more
    memory than the largest step. Measured: docs/performance.md.

    Both are undone at the end: free memory is returned, and the thresholds are set to where glibc's own adjustment ends
    (the adjustment itself cannot be switched on again). `HF_FT_MALLOC=default` leaves the allocator alone.
    """
    already_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    library = _allocator(os.environ)
    if library is not None:
        library.malloc_trim(0)  # free memory left by loading the data
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(TRIM_THRESHOLD, LARGE)
    try:
        yield
    finally:
        if not already_frozen:
            gc.unfreeze()
        if library is not None:
            library.mallopt(MMAP_THRESHOLD, HIGHEST_DYNAMIC)
            library.mallopt(TRIM_THRESHOLD, 2 * HIGHEST_DYNAMIC)
            library.malloc_trim(0)


def _allocator(environment: Mapping[str, str]) -> Any:
    """The C library where its thresholds matter and are ours to set: glibc, no accelerator, none set by the user."""
    import torch

    if torch.accelerator.is_available() or platform.libc_ver()[0] != "glibc":
        return None
    by_user = any(name in environment for name in OF_USERS) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
    return None if by_user or environment.get(VARIABLE) == "default" else ctypes.CDLL(None)
