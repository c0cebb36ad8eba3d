"""The precision of a run: its record, and TF32 while a stage trains."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from transformers import TrainingArguments

from hf_ft.environment import device_facts, tf32
from hf_ft.feature_cache import precision_of
from hf_ft.records import PrecisionRecord
from hf_ft.settings import Config, uses_tf32


def describe_precision(config: Config, args: TrainingArguments) -> PrecisionRecord:
    """Return the precision of training, and what an option could change about it."""
    device, explicit = device_facts(args.use_cpu), {"bf16", "fp16"} & config.explicit
    compute, note = precision_of(args), ""
    plain = compute == "float32" and "bf16" in explicit
    if device.kind == "cuda" and not device.bfloat16:
        if compute == "bfloat16":
            note = "this GPU has no bfloat16 units and emulates them: --fp16 is faster"
        elif compute == "float32":
            note = "this GPU has no bfloat16 units: --fp16 is faster for most models"
    return PrecisionRecord(compute, uses_tf32(args.tf32, plain, device), bool(explicit), note)


def float32_format(config: Config, args: TrainingArguments) -> AbstractContextManager[None]:
    """Return a block in which a GPU computes with TF32 what stays float32, or does not, as the run has it.

    Only training and its features are in the block: scores are computed as a plain `pipeline` does it.
    """
    if args.device.type != "cuda":
        return nullcontext()
    return tf32(describe_precision(config, args).tf32)
