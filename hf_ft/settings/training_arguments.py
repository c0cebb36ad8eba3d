"""`transformers.TrainingArguments`: its fields, read from its source text, our defaults, and building one.

Importing it takes ten seconds; a misspelt option has to be answered in a fraction of one.
"""

from __future__ import annotations

import ast
import functools
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_ft.environment import (
    ENUMERATIONS,
    class_body,
    device_facts,
    enum_values,
    missing_package,
    progress_shown,
    trackers,
)
from hf_ft.errors import UserError, choose
from hf_ft.settings.dry_run import try_arguments
from hf_ft.settings.precision import default_precision

if TYPE_CHECKING:
    from transformers import TrainingArguments

TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "weight_decay": 0.01,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "seed": 0,
    "report_to": "none",
    "dataloader_pin_memory": False,
}
"""Our defaults where they differ from those of `TrainingArguments`; methods and users may set others."""

OF_TRACKERS = "Install it, or all of them with pip install 'hf-ft[trackers]'."


@dataclass(frozen=True)
class TrainingField:
    """One field of `TrainingArguments` as read from its source: annotation, help text, and the values it may have."""

    annotation: str
    help: str
    choices: tuple[str, ...] = ()


@functools.cache
def training_fields() -> dict[str, TrainingField]:
    """The fields of the installed `transformers.TrainingArguments`, read without importing it."""
    found = {}
    for node in class_body("transformers", "training_args.py", "TrainingArguments"):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_init_field(node.value):
            metadata = _metadata(node.value)
            found[node.target.id] = TrainingField(
                ast.unparse(node.annotation), str(metadata.get("help", "")), tuple(metadata.get("choices", ()))
            )
    return found


def _is_init_field(value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return value is not None
    return not any(
        key.arg == "init" and isinstance(key.value, ast.Constant) and not key.value.value for key in value.keywords
    )


def _metadata(value: ast.expr | None) -> dict[str, Any]:
    """What `field(..., metadata={"help": ..., "choices": ...})` says in plain constants."""
    found: dict[str, Any] = {}
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Dict):
            for key, item in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("help", "choices"):
                    with suppress(ValueError):
                        found.setdefault(str(key.value), ast.literal_eval(item))
    return found


def training_choices(name: str) -> Sequence[str]:
    """The values that a field may have, empty where any will do."""
    entry = training_fields()[name]
    kinds = [kind for kind in ENUMERATIONS if kind in entry.annotation.split(" | ")]
    return enum_values(kinds[0]) if kinds else entry.choices


def check_training(training: Mapping[str, Any]) -> None:
    """Check that trackers exist, and that the packages which options need are installed.

    Raises:
        UserError: an unknown tracker, or the package to install.
    """
    wanted = training.get("report_to") or []
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        choose(str(tracker), ["none", "all", *trackers()], "value for 'report_to':", option="report_to")
        if tracker not in ("none", "all") and (package := missing_package(tracker)):
            raise UserError(
                f"--report_to {tracker}: the package {package} is not installed.",
                option="report_to",
                value=tracker,
                hint=OF_TRACKERS,
            )
    for option, package in (("deepspeed", "deepspeed"), ("use_liger_kernel", "liger_kernel")):
        if training.get(option) and missing_package(package):
            name = package.replace("_", "-")
            raise UserError(
                f"--{option} needs the package {name}, which is not installed: pip install {name}", option=option
            )


def make_arguments(training: Mapping[str, Any]) -> TrainingArguments:
    """Build the `TrainingArguments`, with the precision that suits the device; imports `transformers` and torch.

    Raises:
        UserError: a value that `TrainingArguments` or `Trainer` refuses, or that this machine has no device for.
    """
    from transformers import TrainingArguments
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    _check_device(training)
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = default_precision(training, device_facts(bool(training.get("use_cpu"))), launched)
    try:
        with warnings.catch_warnings():  # the old name is what everybody writes, and it works
            warnings.filterwarnings("ignore", "`gradient_checkpointing.* is deprecated", FutureWarning)
            arguments = TrainingArguments(**{"disable_tqdm": not progress_shown(), **training, **precision})
    except Exception as error:  # its checks, and those of what it reads, raise as many kinds as there are
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
    if arguments.fsdp and arguments.world_size == 1:
        raise UserError(
            "--fsdp splits a model over several GPUs, and this is one process.", option="fsdp", hint="Leave it out."
        )
    for tracker in arguments.report_to or ():  # some are installed and not set up
        known: Iterable[str] = get_available_reporting_integrations()
        choose(tracker, known, "value for 'report_to':", OF_TRACKERS, option="report_to")
    try_arguments(arguments)
    return arguments


def _check_device(training: Mapping[str, Any]) -> None:
    """Check what depends on the machine: precision, compiler, backend of several processes, log levels."""
    import torch
    from transformers.training_args import trainer_log_levels

    accelerator = bool(torch.accelerator.is_available())
    if training.get("fp16") and not (torch.cuda.is_available() or accelerator):
        raise UserError(
            "fp16 needs a GPU and this machine has none.", option="fp16", hint="Leave out --fp16 (float32 is used)."
        )
    if training.get("bf16") and not (accelerator or training.get("use_cpu")):
        raise UserError(
            "bf16 was set and this machine has no GPU.",
            option="bf16",
            hint="Leave out --bf16 (float32 is used), or add --use_cpu: processors with bfloat16 units gain from it, "
            "others lose.",
        )
    compiles = training.get("torch_compile") or training.get("torch_compile_mode")
    if compiles and training.get("torch_compile_backend") in (None, "inductor") and not _has_compiler():
        raise UserError(
            "--torch_compile needs a C++ compiler, and this machine has none (g++ or clang++; CXX names another).",
            option="torch_compile",
            hint="Install one, or leave out --torch_compile.",
        )
    if training.get("ddp_backend") and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise UserError(
            "--ddp_backend joins several processes, and this is one.", option="ddp_backend", hint="Leave it out."
        )
    for name in ("log_level", "log_level_replica"):
        if name in training:
            choose(training[name], trainer_log_levels, f"value for '{name}':", option=name)


def _has_compiler() -> bool:
    """Whether there is a compiler for the code that `torch.compile` generates."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name)
