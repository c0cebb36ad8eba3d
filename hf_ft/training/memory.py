"""Memory of the process while it trains: what Python searches for garbage, and what freed memory goes back for."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TRIM, MAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, https://man7.org/linux/man-pages/man3/mallopt.3.html."""
LARGE = 2**30


@contextmanager
def settled_heap() -> Iterator[None]:
    """While it lasts, the garbage collector leaves alone what importing and loading made, and freed memory is kept.

    The first are some hundred thousand objects, which `Trainer` has searched when it begins, and Python now and then.
    The second concerns training on a CPU under Linux: activations are freed and allocated anew in each step, and the
    C library gives large pieces back to the system, which clears each page before it lends it again. Kept, they take
    no more memory than the step that needs most; they are given back at the end. Measured: docs/performance.md.
    """
    frozen = gc.get_freeze_count()
    gc.freeze()
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)  # what loading the data left behind
        library.mallopt(MAP, LARGE)
        library.mallopt(TRIM, LARGE)
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        if library is not None:
            library.mallopt(TRIM, 2**25)  # beyond what the library would have raised it to by itself
            library.malloc_trim(0)


def _glibc() -> Any:
    """The C library where what it does with freed memory matters and can be told; else None."""
    if torch.accelerator.is_available() or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
