"""The precision of training where no option sets it: a function of the device, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_ft.environment import DeviceFacts

LAUNCHED = {"bf16": "bf16", "fp16": "fp16"}
"""What the mixed precision of `accelerate launch` passes on -> the option of `TrainingArguments` that says the same."""


def default_precision(training: Mapping[str, Any], device: DeviceFacts, launched: str = "no") -> dict[str, bool]:
    """Return the options of `TrainingArguments` that the user left to us: `bf16` on a GPU that has units for it.

    Autocast keeps the weights, their gradients and the optimizer in float32, and bfloat16 needs no scaling of the loss.
    Elsewhere training is in float32: on a CPU bfloat16 is slower than float32 unless the processor has units for it,
    and then the gain depends on the model.

    Args:
        training: Options of `TrainingArguments`; those in it always win.
        device: Of the run.
        launched: The value of `ACCELERATE_MIXED_PRECISION`. `no` is also what a launcher without the option sets.
    """
    explicit = {name for name in ("bf16", "fp16") if training.get(name) is not None}
    if explicit & {"bf16"} or training.get("fp16") or training.get("deepspeed"):  # DeepSpeed's file has its own
        return {}
    if launched != "no":
        return {LAUNCHED[launched]: True} if launched in LAUNCHED else {}
    return {"bf16": True} if device.kind == "cuda" and device.bfloat16 else {}


def uses_tf32(tf32: bool | None, plain: bool, device: DeviceFacts) -> bool:
    """Return whether what stays float32 is computed with TF32.

    Args:
        tf32: The option; None if it is not set.
        plain: Whether training is in float32 because the user asked for it: that means every bit of it.
        device: Of the run.
    """
    return device.tf32 and not plain if tf32 is None else tf32
