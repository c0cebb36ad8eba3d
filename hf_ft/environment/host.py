"""The machine that a run is on, and the versions of the packages that determine its result."""

from __future__ import annotations

import functools
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hf_ft.errors import shorten

PACKAGES = ("accelerate", "datasets", "evaluate", "peft", "timm", "torch", "torchvision", "transformers")


def processes() -> int:
    """The number of processes that train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def launcher_note() -> str:
    """A note where `accelerate launch` started one process in place of several, as it does on CPUs; else empty."""
    # Its launcher for one process sets no number of processes, but does set the address at which several would meet.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if processes() > 1 or not launched or "WORLD_SIZE" in os.environ:
        return ""
    return (
        "accelerate launch has started one process instead of several. On CPUs, start them with: torchrun "
        "--nproc_per_node N -m hf_ft train ..."
    )


def machine() -> dict[str, Any]:
    """Processor or GPU, cores, processes and Python: the context of every timing."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "device": shorten(gpus) if gpus else "CPU",
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "processes": processes(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


@functools.cache
def processor_name() -> str:
    """The name of the processor and its instruction set; `platform.processor()` is empty or general on Linux."""
    found = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), found)
    return f"{found} ({torch.backends.cpu.get_cpu_capability()})"


def versions() -> dict[str, str]:
    """Versions of `PACKAGES`."""
    return {name: version(name) for name in PACKAGES}
