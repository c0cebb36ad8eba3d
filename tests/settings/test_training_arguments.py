"""TrainingArguments: fields and choices read from the source, our defaults, and what only the library refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hf_ft.environment.packages import ENUMERATIONS, enum_values, missing_package, trackers
from hf_ft.errors import UserError
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import TRAINING_DEFAULTS, training_fields
from tests.support.layers import settings


def test_values_that_training_arguments_refuse(tmp_path: Path) -> None:
    """What only `transformers` can tell is one line, too, and no traceback."""
    for change, message in (
        ({"fp16": True, "bf16": True}, r"fp16"),
        ({"debug": "everything"}, r"^everything is not a valid DebugOption"),
        ({"accelerator_config": "nosuch.json"}, r"nosuch\.json"),
        ({"log_level": "loud"}, r"^Unknown value for 'log_level': 'loud'\..* debug, info, "),
        ({"torch_compile_backend": "nosuch"}, r"'NOSUCH' is not a valid DynamoBackend"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            settings(tmp_path, **change).arguments()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": "galore_adamw"}, r"^--optim galore_adamw cannot be used: .*galore_torch"),
        ({"optim": "sgd", "optim_args": "momentum"}, r"^--optim sgd --optim_args momentum cannot be used: "),
        (
            {"optim": "sgd", "optim_args": "momentum=much"},
            r"^--optim sgd --optim_args momentum=much .*'much'\.$",
        ),
        (
            {"torch_compile_mode": "x"},
            r"^--torch_compile_mode x .* cannot be used: .*mode=x",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, r"^--lr_scheduler_type cosine_with_min_lr cannot .*min_lr"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, r"^--lr_scheduler_type cosine --lr_scheduler_kwargs .*'cycles'\.$"),
    ],
    ids=str,
)
def test_what_trainer_refuses_at_its_first_step(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Optimizers and schedules that cannot be made are answered while no data have been read, on one line."""
    with pytest.raises(UserError, match=message) as caught:
        settings(tmp_path, **change).arguments()
    assert "\n" not in str(caught.value)
    good = {"optim": "sgd", "optim_args": "momentum=0.9", "lr_scheduler_kwargs": {"num_cycles": 2}}
    assert settings(tmp_path, **good).arguments().optim_args == "momentum=0.9"


@pytest.mark.parametrize(
    ("name", "wrong", "near"),
    [
        ("optim", "adamw_torhc", "adamw_torch"),
        ("lr_scheduler_type", "cosin", "cosine"),
        ("eval_strategy", "epochs", "epoch"),
        ("logging_strategy", "step", "steps"),
        ("save_strategy", "bests", "best"),
        ("hub_strategy", "endd", "end"),
        ("train_sampling_strategy", "rndom", "random"),
        ("dataloader_multiprocessing_context", "forks", "fork"),
        ("ddp_backend", "glo", "gloo"),
        ("report_to", "wandbb", "wandb"),
    ],
)
def test_names_that_training_arguments_know(name: str, wrong: str, near: str, tmp_path: Path) -> None:
    """Enumerations and choices of `TrainingArguments` are read from its source: the nearest name is said at once."""
    with pytest.raises(UserError, match=rf"'{name}': '{wrong}'\. Did you mean '{near}'\?"):
        settings(tmp_path, **{name: wrong})


def test_enumerations_are_those_of_the_installed_library() -> None:
    """What is read from the source text is what the imported classes have."""
    from transformers import trainer_utils, training_args
    from transformers.integrations import integration_utils

    for name in ENUMERATIONS:
        real = getattr(trainer_utils, name, None) or getattr(training_args, name)
        assert set(enum_values(name)) == {item.value for item in real}
    assert set(trackers()) == set(integration_utils.INTEGRATION_TO_CALLBACK)
    there = {name for name in trackers() if not missing_package(name)}
    assert there >= set(integration_utils.get_available_reporting_integrations())


def test_training_fields_are_those_of_the_installed_library() -> None:
    """What is read from the source text is what the imported class has, name by name and in order."""
    from transformers import TrainingArguments

    real = [item.name for item in dataclasses.fields(TrainingArguments) if item.init]
    assert len(real) > 90
    assert list(training_fields()) == real
    assert all(entry.annotation for entry in training_fields().values())
    assert sum(bool(entry.help) for entry in training_fields().values()) > 0.9 * len(real)


def test_our_defaults_name_settings_that_exist() -> None:
    """No default of ours outlives the field that it is for, and none of our options hides one of the library."""
    assert set(TRAINING_DEFAULTS) <= set(training_fields())
    assert not set(config_fields()) & set(training_fields())
    assert len(config_fields()) >= 30
