"""The command on the card: the explicit settings of a run, without paths and tokens, as the command line takes them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from hf_ft.cli.app import module_of
from hf_ft.settings.argument_parser import Parser
from hf_ft.settings.merge import build
from hf_ft.settings.parse import settings_layers
from hf_ft.settings.schema import Config
from hf_ft.training.public_command import public_command


def config_of(settings: dict[str, Any]) -> Config:
    """The checked settings of a call."""
    return build(("the call", settings)).config


def parsed(command: str, places: dict[str, str]) -> Config:
    """The settings that a command line asks for, with paths in place of the names that stand for them."""
    words = shlex.split(command)
    assert words[:2] == ["hf-ft", "train"]
    parser = Parser("train")
    module_of("train").add_arguments(parser)
    options, rest = parser.parse_known_args([places.get(word, word) for word in words[2:]])
    parser.refuse(rest)
    return build(*settings_layers(vars(options))).config


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"method": "last_n:2", "learning_rate": 3e-5, "num_train_epochs": 2, "bf16": False, "seed": 3},
        {"method": "lora", "lora_r": 4, "peft_options": {"use_dora": True}},
        {"class_weights": {"a b": 2.0, "it's": 1.0}, "lr_scheduler_type": "constant_with_warmup", "ema": 0.999},
        {"max_length": 64, "text_column": "body --seed 7", "label_template": "{label}", "head_init": "label_names"},
        {"early_stopping_patience": 0, "cache": "off", "eval_strategy": "steps", "eval_steps": 0.25},
    ],
)
def test_the_command_asks_for_the_same(own: dict[str, Any], text_model: str, text_data: str, tmp_path: Path) -> None:
    """Parsed again, it gives the same settings."""
    usual = {"task": "text_classification", "model": text_model, "dataset": text_data, "output_dir": str(tmp_path)}
    config = config_of(usual | own)
    command = public_command(config)
    assert str(Path(text_model).parent) not in command
    places = {Path(text_model).name: text_model, Path(text_data).name: text_data, "OUT": str(tmp_path)}
    again = parsed(command, places)
    assert again.must_match == config.must_match
    assert again.model == config.model


def test_what_does_not_change_the_result_is_left_out(text_model: str, text_data: str, tmp_path: Path) -> None:
    """No token, tracker, cache or name of a run; where model and data come from is in it."""
    secret = "hf_" + "a" * 34
    config = config_of(
        {
            "task": "text_classification",
            "model": text_model,
            "dataset": "org/films:reviews",
            "dataset_revision": "v1",
            "output_dir": str(tmp_path / "out"),
            "push_to_hub": True,
            "hub_token": secret,
            "run_name": "mine",
            "cache_dir": str(tmp_path),
            "load_back_proof": False,
            "card_examples": 3,
        }
    )
    words = shlex.split(public_command(config))
    assert secret not in words
    left_out = {"--push_to_hub", "--hub_token", "--run_name", "--cache_dir", "--load_back_proof", "--card_examples"}
    assert not left_out & set(words)
    assert words[words.index("--dataset") + 1] == "org/films:reviews"
    assert words[words.index("--dataset_revision") + 1] == "v1"
    assert words[-2:] == ["--output_dir", "OUT"]
