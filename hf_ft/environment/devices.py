"""The device of a run: which number formats it computes with, and TF32 for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DeviceFacts:
    """What a run computes on.

    Args:
        kind: As `torch.device.type` names it: `cuda` (ROCm too), `mps`, `cpu`, ...
        bfloat16: Whether it has units for bfloat16; emulation does not count.
        tf32: Whether its matrix products and convolutions of float32 can round their inputs to TF32.
    """

    kind: str
    bfloat16: bool = False
    tf32: bool = False


def device_facts(use_cpu: bool = False) -> DeviceFacts:
    """Return the facts of the device that `Trainer` chooses; of several GPUs, what all of them have."""
    import torch

    if use_cpu or not torch.accelerator.is_available():
        units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public names for them
        return DeviceFacts("cpu", bfloat16=any(getattr(torch.cpu, name, lambda: False)() for name in units))
    kind = torch.accelerator.current_accelerator()
    if kind is None or kind.type != "cuda":
        return DeviceFacts(kind.type if kind else "cpu")
    supported = []
    for number in range(torch.cuda.device_count()):
        with torch.cuda.device(number):
            supported.append(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = [torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count())]
    return DeviceFacts("cuda", all(supported), torch.version.cuda is not None and min(capabilities) >= (8, 0))


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Allow or forbid TF32 within the block: GPUs then round the inputs of float32 products to ten bits of mantissa.

    Each kind of operation is set by itself. By default convolutions may use TF32 and matrix products may not, and what
    is set for an operation is stronger than `torch.backends.fp32_precision`, which `Trainer(tf32=...)` sets.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    new = hasattr(cudnn, "conv") and hasattr(cudnn.conv, "fp32_precision")  # torch >= 2.9, where both must not mix
    places = (matmul, cudnn.conv, cudnn.rnn) if new else (matmul, cudnn)
    name, value = ("fp32_precision", "tf32" if enabled else "ieee") if new else ("allow_tf32", enabled)
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, value)
        yield
    finally:
        for place, earlier in zip(places, before, strict=True):
            setattr(place, name, earlier)
