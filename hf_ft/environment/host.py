"""The machine that a run is on, and the versions of what decides what it does."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from hf_ft.errors import shorten

PACKAGES = ("accelerate", "datasets", "evaluate", "peft", "timm", "torch", "torchvision", "transformers")


def processes() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def alone() -> str:
    """A note where `accelerate launch` was asked for several processes and started one, as it does on CPUs."""
    # Its launcher for one process says nothing of their number; it sets the address at which several would meet.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if processes() > 1 or not launched or "WORLD_SIZE" in os.environ:
        return ""
    return (
        "accelerate launch was asked for several processes and has started one. On CPUs start them with: torchrun "
        "--nproc_per_node N -m hf_ft train ..."
    )


def machine() -> dict[str, Any]:
    """Processor or GPU, cores, processes and Python: what a timing has to be read with."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "device": shorten(gpus) if gpus else "CPU",
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "processes": processes(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a run does."""
    return {name: version(name) for name in PACKAGES}
