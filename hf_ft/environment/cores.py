"""The cores of a process."""

from __future__ import annotations

import os


def cores() -> int:
    """The cores that this process may use; its share of them, where several processes train together."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
