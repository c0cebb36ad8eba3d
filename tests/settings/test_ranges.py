"""Every number has a range, which refuses what makes no sense and nothing else."""

from __future__ import annotations

import dataclasses
import re

import pytest

from hf_ft.errors import UserError
from hf_ft.settings.merge import normalise
from hf_ft.settings.ranges import RANGES
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import TRAINING_DEFAULTS, training_fields


def numeric_settings() -> dict[str, str]:
    """Every setting that holds a number, ours and those of `TrainingArguments`, with its annotation."""
    kinds = {name: str(item.type) for name, item in config_fields().items()}
    kinds |= {name: entry.annotation for name, entry in training_fields().items()}
    return {name: kind for name, kind in kinds.items() if {"int", "float"} & set(re.findall(r"\w+", kind))}


def test_every_number_has_a_range() -> None:
    """A new field of `TrainingArguments` or a new option must find its range; others are of plans and one command."""
    assert set(numeric_settings()) - set(RANGES) == set(), "give these a row in hf_ft/settings/ranges.py"
    assert set(RANGES) - set(numeric_settings()) == {"share", "scale", "warmup", "older_than"}


SENSIBLE = {
    "-1": {"max_steps", "local_rank"},
    "0": {
        *("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "label_smoothing_factor"),
        *("eval_delay", "seed", "data_seed", "dataloader_num_workers", "neftune_noise_alpha", "lora_dropout"),
        *("local_rank", "random_erasing", "mixup", "cutmix", "drop_path", "early_stopping_patience"),
        *("focal_gamma", "card_examples"),
    },
    "inf": set(),
    "nan": set(),
    "1e30": set(),
}
"""Number -> the settings for which it makes sense; all others refuse it."""


@pytest.mark.parametrize("value", SENSIBLE)
def test_numbers_that_make_no_sense_are_refused(value: str) -> None:
    """Every numeric setting, as text and as a number: accepted where that makes sense, else one error that names it."""
    for given in (value, float(value), *([int(value)] if value in ("-1", "0") else [])):
        refused = {}
        for name in numeric_settings():
            try:
                normalise({name: given}, "here")
            except UserError as error:
                refused[name] = str(error)
        assert numeric_settings().keys() - refused.keys() == SENSIBLE[value], given
        assert [
            told for name, told in refused.items() if not re.match(rf"'{name}' (must be|takes) .{{,90}}$", told)
        ] == []


def test_numbers_in_the_range_are_accepted() -> None:
    """No range is so narrow that it refuses what a setting is by default, or 1 (a half for shares of one)."""
    from transformers import TrainingArguments

    defaults = {name: item.default for name, item in config_fields().items()}
    defaults |= {item.name: item.default for item in dataclasses.fields(TrainingArguments)} | TRAINING_DEFAULTS
    for name in numeric_settings():
        below_one = RANGES[name].high == 1
        for good in (0.5 if below_one else max(1, RANGES[name].low), defaults[name]):
            if isinstance(good, int | float):
                assert normalise({name: good}, "here") == {name: good}
