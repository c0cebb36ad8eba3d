"""The range of each numeric setting, in one table, checked before anything heavy is imported.

`TrainingArguments` checks few of its own fields, and what it accepts can end in a traceback, an endless run, or
weights that are NaN. The limits are generous: they refuse a learning rate of 1e30, not an unusual one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_ft.errors import UserError

MOST = 2**31 - 1
"""The largest count: what a C `int` holds, in which samplers and data loaders of torch count."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without an end that is `open`; `also` are single values outside."""

    low: float
    high: float
    open: str = ""
    also: tuple[float, ...] = ()

    def violated(self, value: float) -> str:
        """How a number violates the range (`must be greater than 0`), empty where it does not."""
        if value in self.also:
            return ""
        if value != value:
            return "must be a number"
        if value < self.low or (value == self.low and "low" in self.open):
            other = "".join(f"{one:g} or " for one in self.also)
            return f"must be {other}{'greater than' if 'low' in self.open else 'at least'} {self.low:g}"
        if value > self.high or (value == self.high and "high" in self.open):
            return f"must be {'less than' if 'high' in self.open else 'at most'} {_plain(self.high)}"
        return ""


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


COUNT, COUNT_OR_NONE = Range(1, MOST), Range(0, MOST)
FRACTION, BETWEEN = Range(0, 1, open="high"), Range(0, 1, open="low high")
RATE, FACTOR = Range(0, 1000, open="low"), Range(0, 1e6, open="low")
STEPS = Range(0, MOST, open="low")
"""Steps as `Trainer` reads them: a value below 1 is a fraction of all steps."""

RANGES: dict[str, Range] = {
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("eval_accumulation_steps", "torch_empty_cache_steps", "save_total_limit", "dataloader_prefetch_factor"),
            *("ddp_bucket_cap_mb", "ddp_timeout", "lora_r", "max_length", "tokens_per_batch"),
            "image_size",
            *("max_train_examples", "max_eval_examples", "examples_per_class", "val_examples_per_class"),
        ),
        COUNT,
    ),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), STEPS),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor", "lora_dropout"), FRACTION),
    **dict.fromkeys(("seed", "data_seed"), Range(0, 2**32 - 1)),
    **dict.fromkeys(("warmup_steps", "warmup", "eval_delay", "early_stopping_patience"), COUNT_OR_NONE),
    **dict.fromkeys(("num_train_epochs", "head_lr_multiplier", "lora_alpha", "share", "scale"), FACTOR),
    "learning_rate": RATE,
    "random_erasing": Range(0, 1),
    **dict.fromkeys(("mixup", "cutmix"), Range(0.01, 100, also=(0,))),
    "drop_path": FRACTION,
    "layer_decay": Range(0, 1, open="low"),
    "validation_fraction": BETWEEN,
    "ema": BETWEEN,
    "soup": Range(2, 100),
    "augment_views": Range(1, 1000),
    "card_examples": Range(0, 100),
    "max_steps": Range(1, MOST, also=(-1,)),
    "weight_decay": Range(0, 1000),
    "adam_epsilon": Range(0, 1, open="low"),
    "max_grad_norm": Range(0, 1e6),
    "neftune_noise_alpha": Range(0, 1000),
    "dataloader_num_workers": Range(0, 1024),
    "local_rank": Range(0, MOST, also=(-1,)),
    "cache_max_gb": FACTOR,
    "focal_gamma": Range(0, 100),
    "logit_adjustment_tau": Range(0, 100, open="low"),
    "threshold": BETWEEN,
    "older_than": Range(0, 1e6),
}
"""Numeric setting, number in a stage of a plan, or days of `hf-ft cache clear` -> its range."""


def check_range(name: str, value: float, spoken: str) -> None:
    """Check that a number is in the range of its setting; one without a range must be finite.

    Raises:
        UserError: It is not; the message calls the setting `spoken`.
    """
    if name in RANGES:
        wrong = RANGES[name].violated(value)
    else:
        wrong = "" if -math.inf < value < math.inf else "must be a finite number"
    if wrong:
        raise UserError(f"{spoken} {wrong}, not {value}.", option=name, value=value)
