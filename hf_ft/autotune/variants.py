"""Variants: the forms in which the same step can run, and how a model is switched from one to another.

In the memory format channels last, the weights of convolutions are stored with their channels innermost. A convolution
with such weights returns its output in the same format, and elementwise layers keep it, so that the weights decide for
the whole network: https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html. Depthwise convolutions
on a CPU gain most. Values, names and shapes of the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
FEWEST_CONVOLUTIONS = 2
"""Convolutions below which the memory format is not tried: a transformer has one, which makes its patches."""


@dataclass(frozen=True)
class Variant:
    """One form of a step.

    Args:
        memory_format: Of the weights of convolutions, a key of `FORMATS`.
        attention: The attention implementation in the names of transformers; None for the model's own.
    """

    memory_format: str = "contiguous"
    attention: str | None = None

    def changes(self) -> dict[str, str]:
        """Return what differs from `USUAL`, as JSON values; empty for `USUAL` itself."""
        found = {} if self.memory_format == "contiguous" else {"memory_format": self.memory_format}
        return found | ({"attention": self.attention} if self.attention else {})

    def __str__(self) -> str:
        return ", ".join(self.changes().values()).replace("_", " ") or "the usual form"


USUAL = Variant()
"""How a model runs by default."""


def variants_of(model: nn.Module, device: torch.device, precision: str) -> list[Variant]:
    """Return the variants that may suit a model on a device, `USUAL` first.

    Eager attention is none of them: on the CPUs measured it was never faster than `sdpa`, and takes more memory.

    Args:
        precision: The dtype in which matrix products run, such as `bfloat16`.
    """
    found = [USUAL]
    if sum(isinstance(module, nn.Conv2d) for module in model.modules()) >= FEWEST_CONVOLUTIONS:
        found.append(Variant("channels_last"))
    if device.type == "cuda" and precision != "float32" and _takes_flash(model):
        found.append(Variant(attention="flash_attention_2"))
    return found


def _takes_flash(model: nn.Module) -> bool:
    """Whether FlashAttention 2 is installed, and the model can be switched to it."""
    return (
        isinstance(model, PreTrainedModel)
        and bool(getattr(model, "_supports_flash_attn", False))
        and model.config._attn_implementation in ("sdpa", "eager")
        and model._can_set_attn_implementation()
        and is_flash_attn_2_available()
    )


@contextmanager
def applied(model: nn.Module, variant: Variant) -> Iterator[None]:
    """Within the block, a model runs as the variant says; afterwards as before, with its weights contiguous."""
    if not variant.changes():
        yield
        return
    earlier = _switched(model, variant.attention)
    try:
        if variant.memory_format != "contiguous":
            convert_conv2d_weight_memory_format(model, FORMATS[variant.memory_format])
        yield
    finally:
        if variant.memory_format != "contiguous":
            convert_conv2d_weight_memory_format(model, FORMATS["contiguous"])
        _switched(model, earlier)


def _switched(model: nn.Module, attention: str | None) -> str | None:
    """Switch the attention implementation of a model, unless it is None; returns the one that it had."""
    if attention is None or not isinstance(model, PreTrainedModel):
        return None
    earlier = str(model.config._attn_implementation)
    model.set_attn_implementation(attention)
    return earlier
