"""Command lines, YAML files and recipes as layers of settings, and their help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_ft.errors import UserError
from hf_ft.finetuning import parse
from hf_ft.settings.merge import FORMER
from hf_ft.settings.parse import command_line
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import TRAINING_DEFAULTS, training_fields
from hf_ft.tasks.registry import task_names
from tests.support.layers import TASK, settings, yaml_layer


def test_recipe_yaml_and_command_line_through_parse(tmp_path: Path, text_model: str) -> None:
    """A recipe gets a Config and a real TrainingArguments with the winning values."""
    path = tmp_path / "settings.yaml"
    path.write_text("learning_rate: 1e-3\nweight_decay: 0.05\nmax_length: 64\n")
    own = {"task": TASK, "model": text_model, "dataset": "org/data", "max_length": 32}
    training = {"learning_rate": 0.5, "weight_decay": 0.5, "adam_beta1": 0.8, "output_dir": str(tmp_path / "out")}
    config, args = parse(own, training, ["--config", str(path), "--lr", "2e-3", "--gradient_checkpointing"])
    assert (args.learning_rate, args.weight_decay, args.adam_beta1) == (2e-3, 0.05, 0.8)
    assert args.gradient_checkpointing is True
    assert args.per_device_eval_batch_size == TRAINING_DEFAULTS["per_device_eval_batch_size"]
    assert config.max_length == 64
    assert {"learning_rate", "adam_beta1", "gradient_checkpointing", "max_length"} <= config.explicit
    assert "per_device_eval_batch_size" not in config.explicit


def test_misspelt_keys_of_a_recipe(tmp_path: Path) -> None:
    """A recipe's dictionaries take the fields of their own kind only, and say which those are."""
    good = {"task": TASK, "model": "org/model", "dataset": "org/data"}
    with pytest.raises(
        UserError,
        match=r"^Unknown setting in CONFIG: 'datset'\. Did you mean 'dataset'\? Choose from \d+, such as dataset,",
    ):
        parse(good | {"datset": "x"}, {}, [])
    with pytest.raises(
        UserError, match=r"^Unknown setting in TRAINING: 'sed'\. Did you mean 'seed'\? Choose from \d+, such as seed"
    ):
        parse(good, {"sed": 1}, [])
    with pytest.raises(UserError, match=r"^Unknown setting in CONFIG: 'learning_rate'\."):
        parse(good | {"learning_rate": 1}, {}, [])


def test_words_that_belong_to_no_option() -> None:
    """A stray word, a second value, and an option without its value are refused; no abbreviation is guessed."""
    with pytest.raises(UserError, match=r"^Unexpected 'beans' on the command line"):
        command_line(["beans"])
    with pytest.raises(UserError, match=r"^Unexpected '1' on the command line"):
        command_line(["--seed", "0", "1"])
    with pytest.raises(UserError, match=r"--learning_rate: expected one argument"):
        command_line(["--learning_rate"])
    with pytest.raises(UserError, match=r"Unknown option '--learning' .* Did you mean 'learning_rate'\?"):
        command_line(["--learning", "1"])


CONFIG_FILES = [
    ("", r"settings\.yaml must hold `option: value` lines, not NoneType\.$"),
    ("- a\n- b\n", r"settings\.yaml must hold `option: value` lines, not list\.$"),
    ("just text", r"settings\.yaml must hold `option: value` lines, not str\.$"),
    ("a: [1, 2\nb: 3", r"settings\.yaml is not valid YAML: while parsing a flow sequence .* line 1, column 4"),
    ("\t- x", r"settings\.yaml is not valid YAML: "),
    ("training:\n  seed: 1\n", r"^Unknown option 'training' in .*settings\.yaml\."),
    ("1: 2\n", r"^Unknown option '1' in .*settings\.yaml\."),
    ("on: 2\n", r"^Unknown option 'True' in .*settings\.yaml\."),
    ("sed: 1\n", r"^Unknown option 'sed' in .*settings\.yaml\. Did you mean 'seed'\?"),
    ("warmup_ratio: 0.1\n", r"^`warmup_ratio` in .*settings\.yaml is not supported\. Use `--warmup_steps 0\.1`"),
]


@pytest.mark.parametrize(("text", "message"), CONFIG_FILES)
def test_config_files_that_are_no_settings(text: str, message: str, tmp_path: Path) -> None:
    """The answer names the file and what is wrong with it, on one line."""
    with pytest.raises(UserError, match=message) as caught:
        settings(tmp_path, *yaml_layer(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_config_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file, a folder, and a file that is no text."""
    with pytest.raises(UserError, match=r"^No such settings file: .*nowhere\.yaml\. --config takes a YAML file"):
        command_line(["--config", str(tmp_path / "nowhere.yaml")])
    with pytest.raises(UserError, match=r"cannot be read: .*Is a directory"):
        command_line(["--config", str(tmp_path)])
    (tmp_path / "weights.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(UserError, match=r"weights\.yaml cannot be read: "):
        command_line(["--config", str(tmp_path / "weights.yaml")])


def test_help_lists_our_options_and_not_the_hundred_others(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option with its help; the fields of TrainingArguments are named as a whole."""
    with pytest.raises(SystemExit) as stopped:
        command_line(["--help"], "Fine-tune a model.", "hf-ft train")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^ +--(\w+)", text, re.MULTILINE)
    extra = {"config", "output_dir", "help_training"}
    assert sorted(listed) == sorted([*config_fields(), *extra])
    assert text.startswith("Fine-tune a model.\n\nusage: hf-ft train [options]")
    assert "--help_training" in text
    assert "TrainingArguments" in text
    assert all(name in text for name in task_names())
    assert max(map(len, text.splitlines())) <= 80


def test_help_training_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    """All fields of TrainingArguments that can be set, with type and help."""
    with pytest.raises(SystemExit) as stopped:
        command_line(["--help_training"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    settable = [name for name in training_fields() if name not in FORMER]
    assert len(settable) == len(training_fields()) - len(FORMER.keys() & training_fields().keys())
    assert len(settable) > 100
    assert re.findall(r"^--(\w+) \(", text, re.MULTILINE) == settable
    assert "--learning_rate (float)\n    " in text
