"""Settings: where each value comes from, what is refused and with which words, and that it all answers at once."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import hf_ft
from hf_ft import settings as room
from hf_ft.environment.packages import ENUMERATIONS, enum_values, missing_package, trackers
from hf_ft.errors import UserError
from hf_ft.finetuning import parse
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.methods.registry import METHODS
from hf_ft.settings.merge import ALIASES, FORMER, Settings, build, normalise
from hf_ft.settings.parse import command_line
from hf_ft.settings.ranges import RANGES
from hf_ft.settings.schema import SECTIONS, Config, config_fields
from hf_ft.settings.training_arguments import TRAINING_DEFAULTS, training_fields
from hf_ft.tasks.registry import get_task, task_names

TASK = "text_classification"


def settings(tmp_path: Path, *layers: tuple[str, Mapping[str, Any]], **own: Any) -> Settings:
    """Build settings from a complete first layer and whatever layers a test puts on it."""
    base = {"task": TASK, "model": "org/model", "dataset": "org/data", "output_dir": str(tmp_path / "out")}
    return build(("the recipe", base | own), *layers)


def value_of(found: Settings, name: str) -> Any:
    """A setting by name, wherever it is kept."""
    return getattr(found.config, name) if name in config_fields() else found.training.get(name)


def yaml_layer(tmp_path: Path, text: str) -> list[tuple[str, Any]]:
    """The layers that `--config FILE` makes of a YAML file with this text."""
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return command_line(["--config", str(path)])


# --- Precedence -----------------------------------------------------------------------------------------------------

PRECEDENCE = [
    # setting, value in the recipe, in the YAML file, on the command line (text), and what that means
    ("learning_rate", 0.003, "2e-4", "1e-5", [0.003, 2e-4, 1e-5]),
    ("num_train_epochs", 7, "8.5", "9", [7, 8.5, 9.0]),
    ("weight_decay", 0.2, "0.3", "0.0", [0.2, 0.3, 0.0]),
    ("seed", 5, "6", "7", [5, 6, 7]),
    ("head_lr_multiplier", 2.0, "3", "4.5", [2.0, 3, 4.5]),
    ("bad_examples", "skip", "error", "skip", ["skip", "error", "skip"]),
    ("method", "lora", "head", "last_n:2", [MethodSpec("lora"), MethodSpec("head"), MethodSpec("last_n", "2")]),
    ("save_strategy", "epoch", "steps", "no", ["epoch", "steps", "no"]),
]


def test_precedence_rows_are_counted() -> None:
    """The table of settings below has as many rows as were written."""
    assert len(PRECEDENCE) == 8


@pytest.mark.parametrize(("name", "recipe", "yaml", "words", "meanings"), PRECEDENCE, ids=[r[0] for r in PRECEDENCE])
def test_later_layers_win(name: str, recipe: Any, yaml: str, words: str, meanings: list[Any], tmp_path: Path) -> None:
    """Method defaults < recipe < YAML < command line, one step at a time; only what was written is `given`."""
    default = settings(tmp_path)
    expected = TRAINING_DEFAULTS | Config.method.defaults(get_task(TASK).modality.method_defaults)
    own = config_fields()[name].default if name in config_fields() else None
    assert value_of(default, name) == expected.get(name, own)
    assert name not in default.config.explicit
    path = tmp_path / "settings.yaml"
    path.write_text(f"{name}: {yaml}\n")
    from_recipe = settings(tmp_path, **{name: recipe})
    from_yaml = settings(tmp_path, *command_line(["--config", str(path)]), **{name: recipe})
    everything = command_line([f"--{name}", words, "--config", str(path)])
    from_words = settings(tmp_path, *everything, **{name: recipe})
    found = [value_of(each, name) for each in (from_recipe, from_yaml, from_words)]
    assert found == meanings
    assert [type(value) for value in found] == [type(value) for value in meanings]
    assert all(name in each.config.explicit for each in (from_recipe, from_yaml, from_words))


def test_given_is_what_was_written(tmp_path: Path) -> None:
    """Aliases count under their one name; a value of None, and the defaults, do not count."""
    found = settings(tmp_path, ("the command line", {"lr": "1e-3", "text_column_name": "body", "max_steps": None}))
    base = {"task", "model", "dataset", "output_dir"}
    assert found.config.explicit == base | {"learning_rate", "text_column"}
    assert value_of(found, "text_column") == "body"
    assert "num_train_epochs" in found.training
    assert "max_steps" not in found.training


def test_none_takes_a_setting_back(tmp_path: Path) -> None:
    """`none` on the command line undoes what the recipe set, and the default is back."""
    layer = ("the command line", {"max_train_examples": "none"})
    found = settings(tmp_path, layer, max_train_examples=100)
    assert found.config.max_train_examples is None
    assert "max_train_examples" not in found.config.explicit


def test_none_is_a_value_where_it_is_a_choice(tmp_path: Path) -> None:
    """`--augment none` means no augmentation, and not the method's default, which augments."""
    found = settings(tmp_path, *command_line(["--augment", "none"]), task="image_classification", method="full")
    assert MethodSpec("full").defaults("image")["augment"] != "none"
    assert found.config.augment == "none"
    assert "augment" in found.config.explicit


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("method", METHODS)
def test_method_brings_its_own_defaults(method: str, task: str, tmp_path: Path) -> None:
    """Each default of the chosen method arrives where the setting is kept."""
    argument = {"N": ":2", "NAME": ":ia3", "PATTERN": ":*norm*", None: ""}[METHODS[method].argument]
    spelled = f"{method}{argument}"
    found = settings(tmp_path, task=task, method=spelled)
    defaults = MethodSpec.parse(spelled).defaults(get_task(task).modality.method_defaults)
    assert len(defaults) >= 2
    assert {name: value_of(found, name) for name in defaults} == defaults
    assert found.config.method.definition == METHODS[method]


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


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_arrive_under_their_one_name(alias: str) -> None:
    """Every other spelling works on the command line, with `_` and with `-`, and in a dictionary."""
    target = ALIASES[alias]
    assert target in {**config_fields(), **training_fields()}
    text = {"text_column": "body", "image_column": "pic", "label_column": "y", "model": "m", "dataset": "d"}.get(
        target, "3"
    )
    if target in ("train_split", "validation_split", "resume_from_checkpoint"):
        text = "name"
    (_, words), (_, dashed) = command_line([f"--{alias}", text])[-1], (None, {alias.replace("_", "-"): text})
    assert list(words) == [alias]
    assert list(normalise(words, "here")) == list(normalise(dashed, "here")) == [target]


def test_aliases_are_counted() -> None:
    """Those that the example scripts of this field use are among them."""
    assert len(ALIASES) == 14
    assert {"model_name_or_path", "dataset_name", "max_train_samples", "max_eval_samples", "text_column_name"} <= set(
        ALIASES
    )
    assert not set(ALIASES) & {*config_fields(), *training_fields()}


TWICE = [
    ({"lr": 1e-3, "learning_rate": 1e-4}, "learning_rate"),
    ({"model": "a/b", "model_name_or_path": "c/d"}, "model"),
    ({"text-column": "a", "text_column": "b"}, "text_column"),
    ({"epochs": 1, "num_train_epochs": 1}, "num_train_epochs"),
]


@pytest.mark.parametrize(("layer", "name"), TWICE)
def test_same_setting_under_two_spellings(layer: dict[str, Any], name: str) -> None:
    """Two spellings in one place contradict each other, whatever their values."""
    assert len(TWICE) == 4
    with pytest.raises(UserError, match=rf"^'{name}' is set twice in recipe\.yaml \(as '[\w-]+' and under another"):
        normalise(layer, "recipe.yaml")


def test_two_spellings_in_two_places_are_no_contradiction(tmp_path: Path) -> None:
    """A later layer may spell a setting in its own way."""
    found = settings(tmp_path, ("a.yaml", {"lr": 1e-3}), ("the command line", {"learning_rate": "1e-4"}))
    assert found.training["learning_rate"] == 1e-4


@pytest.mark.parametrize("name", FORMER)
def test_former_options_say_what_to_write_today(name: str) -> None:
    """It is none of our options, and every option named as its successor exists."""
    known = {*config_fields(), *training_fields(), *ALIASES}
    assert name not in {*config_fields(), *ALIASES}
    for option in re.findall(r"--(\w+)", FORMER[name]):
        assert option in known
    with pytest.raises(UserError, match=rf"^`(--)?{name}` in the command line is not supported\.") as of_words:
        build(*command_line([f"--{name}", "1"]))
    with pytest.raises(UserError, match=rf"^`{name}` in old\.yaml is not supported\.") as of_file:
        normalise({name: 1}, "old.yaml")
    for caught in (of_words, of_file):
        assert (caught.value.option, caught.value.hint) == (name, FORMER[name])


def test_former_options_are_counted() -> None:
    """Those that are asked for most are among them."""
    assert len(FORMER) == 16
    assert {"warmup_ratio", "evaluation_strategy", "group_by_length", "no_cuda", "push_to_hub"} <= set(FORMER)


MISSPELT = [
    ("lerning_rate", "learning_rate"),
    ("learning-rte", "learning_rate"),
    ("modle", "model"),
    ("max_train_example", "max_train_examples"),
    ("per_device_batch_size", "per_device_eval_batch_size"),
    ("model_name_or_pth", "model_name_or_path"),
    ("txt_column", "text_column"),
    ("BF16", "bf16"),
    ("qqq", None),
]


def test_misspelt_options_are_counted() -> None:
    """The table of misspelt options has as many rows as were written."""
    assert len(MISSPELT) == 9


@pytest.mark.parametrize(("written", "near"), MISSPELT)
def test_misspelt_options_name_the_nearest(written: str, near: str | None, tmp_path: Path) -> None:
    """On the command line (with `=` too), in a YAML file, and as an argument of `finetune`."""
    hint = rf" Did you mean '{near}'\?" if near else ""
    message = rf"^Unknown option '{{}}' in {{}}\.{hint} The options are those of --help and all fields of transf"
    path = tmp_path / "run.yaml"
    path.write_text(f"{written}: 1\n")
    for words in ([f"--{written}", "1"], [f"--{written}=1"], [f"--{written}"]):
        with pytest.raises(UserError, match=message.format(f"--{written}", "the command line")):
            command_line(words)
    with pytest.raises(UserError, match=message.format(written, re.escape(str(path)))):
        settings(tmp_path, *command_line(["--config", str(path)]))
    with pytest.raises(UserError, match=message.format(written, r"the call of finetune\(\)")):
        hf_ft.finetune(**{written: 1})


def test_misspelt_keys_of_a_recipe(tmp_path: Path) -> None:
    """A recipe's dictionaries take the fields of their own kind only, and say which those are."""
    good = {"task": TASK, "model": "org/model", "dataset": "org/data"}
    with pytest.raises(
        UserError,
        match=r"^Unknown setting in CONFIG: 'datset'\. Did you mean 'dataset'\? Choose from 43, such as dataset,",
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


# --- Values ---------------------------------------------------------------------------------------------------------

CONVERTED = [
    # setting, text on the command line, its meaning
    ("learning_rate", "1e-3", 0.001),
    ("learning_rate", "3", 3.0),
    ("warmup_steps", "0.1", 0.1),
    ("max_steps", "12", 12),
    ("max_steps", "-1", -1),
    ("num_train_epochs", "0.5", 0.5),
    ("keep_head", "true", True),
    ("keep_head", "False", False),
    ("keep_head", "yes", True),
    ("keep_head", "0", False),
    ("load_back_proof", "no", False),
    ("bf16", "1", True),
    ("max_length", "128", 128),
    ("max_length", "none", None),
    ("text_column", "1", "1"),
    ("text_column", "true", "true"),
    ("label_separator", "|", "|"),
    ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
    ("optim_args", "a=1", "a=1"),
    ("report_to", "tensorboard", "tensorboard"),
    ("report_to", '["tensorboard"]', ["tensorboard"]),
    ("eval_strategy", "no", "no"),
    ("resume", "true", True),
    ("resume", "false", False),
    ("seed", "0", 0),
]


def test_converted_rows_are_counted() -> None:
    """The table of conversions has as many rows as were written."""
    assert len(CONVERTED) == 25


@pytest.mark.parametrize(("name", "text", "meaning"), CONVERTED)
def test_text_becomes_the_type_of_the_setting(name: str, text: str, meaning: Any) -> None:
    """What is typed on a command line has the type that the setting is declared with."""
    ((_, words),) = command_line([f"--{name}", text])
    (found,) = normalise(words, "here").values()
    assert found == meaning
    assert type(found) is type(meaning)


def test_bare_flags_mean_true() -> None:
    """Every setting that is true or false can be given alone; at least thirty of them were tried."""
    kinds = {name: str(item.type) for name, item in config_fields().items()}
    kinds |= {name: entry.annotation for name, entry in training_fields().items()}
    flags = [name for name, kind in kinds.items() if kind in ("bool", "bool | None") and name not in FORMER]
    assert len(flags) >= 30
    assert {"bf16", "keep_head", "overwrite_output_dir", "gradient_checkpointing"} <= set(flags)
    for flag in flags:
        ((_, words),) = command_line([f"--{flag}"])
        assert normalise(words, "here") == {flag: True}
    ((_, words),) = command_line(["--bf16", "--seed", "3", "--resume"])
    assert normalise(words, "here") == {"bf16": True, "seed": 3, "resume_from_checkpoint": True}


def test_yaml_values(tmp_path: Path) -> None:
    """YAML reads `1e-3` as text and `yes` as true; numbers, lists and mappings keep their types."""
    text = (
        "learning_rate: 1e-3\nnum_train_epochs: 3\nmax_steps: 10.0\nkeep_head: yes\nbf16: off\nreport_to: [tensorboard]"
        "\nlr_scheduler_kwargs: {num_cycles: 2}\nresume: true\nmax_length:\ntext_column: '7'\noutput-dir: here\n"
    )
    ((source, layer), _) = yaml_layer(tmp_path, text)
    assert layer["learning_rate"] == "1e-3"
    assert normalise(layer, source) == {
        "learning_rate": 0.001,
        "num_train_epochs": 3,
        "max_steps": 10,
        "keep_head": True,
        "bf16": False,
        "report_to": ["tensorboard"],
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "resume_from_checkpoint": True,
        "max_length": None,
        "text_column": "7",
        "output_dir": "here",
    }


def test_python_values(tmp_path: Path) -> None:
    """Paths and numpy's numbers are taken as what they stand for."""
    import numpy as np

    given = {"model": tmp_path, "output_dir": tmp_path / "out", "learning_rate": np.float64(1e-3), "seed": np.int64(3)}
    assert normalise(given, "here") == {
        "model": str(tmp_path),
        "output_dir": str(tmp_path / "out"),
        "learning_rate": 1e-3,
        "seed": 3,
    }


WRONG = [
    # setting, value in Python or YAML, message; text values are tried on the command line as well
    ("learning_rate", "fast", r"^'learning_rate' takes a number, not 'fast'\.$"),
    ("learning_rate", "1e-3x", r"^'learning_rate' takes a number, not '1e-3x'\.$"),
    ("learning_rate", True, r"^'learning_rate' takes a number, not True\.$"),
    ("learning_rate", [1e-3], r"^'learning_rate' takes a number, not \[0\.001\]\.$"),
    ("learning_rate", {"head": 1}, r"^'learning_rate' takes a number, not \{'head': 1\}\.$"),
    ("seed", "1.5", r"^'seed' takes a whole number, not '1\.5'\.$"),
    ("seed", 1.5, r"^'seed' takes a whole number, not 1\.5\.$"),
    ("seed", "-1", r"^'seed' must be at least 0, not -1\.$"),
    ("max_steps", "1e3", r"^'max_steps' takes a whole number, not '1e3'\.$"),
    ("max_train_examples", False, r"^'max_train_examples' takes a whole number, not False\.$"),
    ("max_length", "long", r"^'max_length' takes a whole number, not 'long'\.$"),
    ("bf16", "maybe", r"^'bf16' takes true or false, not 'maybe'\.$"),
    ("keep_head", 2, r"^'keep_head' takes true or false, not 2\.$"),
    ("keep_head", "2", r"^'keep_head' takes true or false, not '2'\.$"),
    ("text_column", 3, r"^'text_column' takes text, not 3\.$"),
    ("text_column", True, r"^'text_column' takes text, not True\.$"),
    ("text_column", ["a", "b"], r"^'text_column' takes text, not \['a', 'b'\]\.$"),
    ("dataset", 3.5, r"^'dataset' takes text, not 3\.5\.$"),
    ("output_dir", False, r"^'output_dir' takes text, not False\.$"),
    ("lr_scheduler_kwargs", "{bad", r"^'lr_scheduler_kwargs' takes a JSON object, not '\{bad'\.$"),
    (
        "augment",
        "basicc",
        r"^Unknown value for 'augment': 'basicc'\. Did you mean 'basic'\? Choose from: none, basic, tri",
    ),
    ("class_weights", "balance", r"^Unknown value for 'class_weights': 'balance'\. Did you mean 'balanced'\?"),
    ("bad_examples", "ignore", r"^Unknown value for 'bad_examples': 'ignore'\. Choose from: error, skip\.$"),
    ("validation_fraction", 0, r"^'validation_fraction' must be greater than 0, not 0\.$"),
    ("validation_fraction", "1", r"^'validation_fraction' must be less than 1, not 1\.0\.$"),
]


@pytest.mark.parametrize("name", ["label_separator", "text_column", "cache_dir", "plan", "problem_type", "augment"])
def test_empty_text_is_no_value(name: str, tmp_path: Path) -> None:
    """An empty text, as an unset variable of a shell makes it, is refused rather than ignored."""
    with pytest.raises(UserError, match=rf"^'{name}' is empty\. Set a value, or leave it out\.$"):
        settings(tmp_path, *command_line([f"--{name}", ""]))


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_wrong_values_are_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    """The same answer from a dictionary, from YAML, and for text from the command line."""
    import yaml

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({name: value}))
    layers = [("the call of finetune()", {name: value}), *command_line(["--config", str(path)])[:1]]
    if isinstance(value, str):
        layers += command_line([f"--{name}", value])
    assert len(layers) == (3 if isinstance(value, str) else 2)
    for source, layer in layers:
        with pytest.raises(UserError, match=message):
            normalise(layer, source)


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
        "local_rank",
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
        for good in (0.5 if below_one else 1, defaults[name]):
            if isinstance(good, int | float):
                assert normalise({name: good}, "here") == {name: good}


def test_empty_yaml_values_mean_the_default(tmp_path: Path) -> None:
    """`option:` with nothing behind it is as good as leaving it out, for every option of ours."""
    optional = [name for name in config_fields() if name not in ("task", "model", "dataset")]
    assert len(optional) >= 25
    found = settings(tmp_path, *yaml_layer(tmp_path, "".join(f"{name}:\n" for name in optional)))
    assert found.config == settings(tmp_path).config


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


def test_config_files_are_counted() -> None:
    """The table of files has as many rows as were written."""
    assert len(CONFIG_FILES) == 10


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


WHOLE = [
    ({"task": None}, rf"^`--task` is missing\. Choose from: {', '.join(task_names())}\.$"),
    ({"task": "text_clasification"}, r"^Unknown task 'text_clasification'\. Did you mean 'text_classification'\?"),
    ({"method": "lpft"}, r"^Unknown method 'lpft'\. Did you mean 'lp_ft'\?"),
    ({"model": None}, r"^`--model` is missing\. Set it to a Hub id or a folder\.$"),
    ({"dataset": None}, r"^`--dataset` is missing\. "),
    ({"output_dir": None}, r"^`--output_dir` is missing\. "),
    ({"model": "/nowhere/model"}, r"^No such model: /nowhere/model \(/nowhere does not exist either\)\."),
    ({"dataset": "./nowhere.csv"}, r"^No such dataset: \./nowhere\.csv\."),
    (
        {"max_train_examples": 5, "examples_per_class": 2},
        r"^--max_train_examples and --examples_per_class exclude each other\.",
    ),
    (
        {"image_column": "picture"},
        r"^--image_column does not go with text_classification, whose inputs are text, text_p",
    ),
    ({"tokens_column": "words"}, r"^--tokens_column does not go with text_classification"),
    ({"augment": "basic"}, r"^--augment does not go with text_classification"),
    ({"task": "image_classification", "max_length": 9}, r"^--max_length does not go with image_classification"),
    (
        {"text_column": "a", "label_column": "a"},
        r"^--text_column and --label_column both name 'a'\. Use a different column",
    ),
    ({"metric_for_best_model": "acuracy"}, r"^Unknown metric 'acuracy'\. Did you mean 'accuracy'\?"),
    (
        {"problem_type": "multi_label_class"},
        r"^Unknown kind of labels for text_classification: 'multi_label_class'\. Did you mean "
        r"'multi_label_classification'\? Choose from: .*Leave out --problem_type\.$",
    ),
    (
        {"task": "text_regression", "problem_type": "multi_label_classification"},
        r" Choose from: regression\. Leave out",
    ),
    ({"early_stopping_patience": 2, "eval_strategy": "no"}, r"^early_stopping_patience needs evaluations\."),
]


@pytest.mark.parametrize(("change", "message"), WHOLE)
def test_settings_that_do_not_make_a_whole(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What is missing, unknown or contradictory is said before anything is imported or written."""
    with pytest.raises(UserError, match=message):
        settings(tmp_path, **change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", task_names())
def test_every_kind_of_labels_of_a_task_can_be_named(task: str, tmp_path: Path) -> None:
    """What the error above lists is taken."""
    kinds = [target.name for target in get_task(task).targets()]
    assert kinds
    assert [settings(tmp_path, task=task, problem_type=kind).config.problem_type for kind in kinds] == kinds


def test_nearest_sibling_of_a_missing_path(tmp_path: Path) -> None:
    """A folder's misspelt name is answered with the name of the folder beside it."""
    (tmp_path / "beans").mkdir()
    message = rf"^No such dataset: {tmp_path}/baens\. Did you mean {tmp_path}/beans\? Use a Hub id, a folder or a file"
    with pytest.raises(UserError, match=message):
        settings(tmp_path, dataset=str(tmp_path / "baens"))


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


def test_the_best_model_at_the_end_is_the_default(tmp_path: Path) -> None:
    """Asking for the default is accepted, with a schedule of evaluations or without one; the impossible is not."""
    for more in ({}, {"eval_strategy": "epoch"}, {"eval_strategy": "steps", "save_strategy": "epoch"}):
        assert settings(tmp_path, load_best_model_at_end=True, **more).arguments()
    assert settings(tmp_path, load_best_model_at_end=False).training["load_best_model_at_end"] is False
    with pytest.raises(UserError, match="load_best_model_at_end needs evaluations"):
        settings(tmp_path, load_best_model_at_end=True, eval_strategy="no")


def test_no_is_a_strategy_in_yaml_too(tmp_path: Path) -> None:
    """YAML reads `no` as false; where `no` is a choice, that is what was meant."""
    assert settings(tmp_path, *yaml_layer(tmp_path, "eval_strategy: no\n")).training["eval_strategy"] == "no"


# --- Drift and help -------------------------------------------------------------------------------------------------


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


def test_every_option_is_explained() -> None:
    """Help for every field, in one section with a title, and choices that hold the default."""
    owners = [(name, section.title) for section in SECTIONS for name in section.own_options()]
    assert sorted(name for name, _ in owners) == sorted(config_fields())
    assert all(title for _, title in owners)
    for name, item in config_fields().items():
        assert len(item.metadata["help"]) > 10, name
        assert item.default in (None, *(item.metadata["choices"] or (item.default,))), name


def test_every_option_is_read_somewhere() -> None:
    """A setting of ours that no module reads would be ignored without a word."""
    package = Path(hf_ft.__file__).parent
    sources = [ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")]
    assert len(sources) > 20
    read = {node.attr for tree in sources for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    read |= {f"{role}_{kind}" for role in ("train", "validation", "test") for kind in ("split",)}
    read |= {f"{role}_column" for task in task_names() for role in get_task(task).inputs}  # by name
    assert set(config_fields()) <= read


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
    assert len(settable) == len(training_fields()) - 8
    assert re.findall(r"^--(\w+) \(", text, re.MULTILINE) == settable
    assert "--learning_rate (float)\n    " in text


# --- Speed ----------------------------------------------------------------------------------------------------------

HEAVY = ("torch", "transformers", "datasets", "timm", "peft", "torchvision")
NUMERIC = ("numpy", "pandas", "PIL")
GOOD = ["--task", TASK, "--model", "org/model", "--dataset", "org/data", "--output_dir", "never"]
QUICK = [
    # command, exit code
    ([], 0),
    (["--help"], 0),
    (["--version"], 0),
    (["methods"], 0),
    (["methods", "--help"], 0),
    (["train", "--help"], 0),
    (["depth", "--help"], 0),
    (["train", "--help_training"], 0),
    (["inspect", "--help"], 0),
    (["evaluate", "--help"], 0),
    (["predict", "--help"], 0),
    (["push", "--help"], 0),
    (["cache", "--help"], 0),
    (["trian"], 2),
    (["train"], 2),
    (["train", "--lerning_rate", "1"], 2),
    (["train", "--warmup_ratio", "0.1"], 2),
    (["train", "--learning_rate"], 2),
    (["train", "stray"], 2),
    (["train", *GOOD, "--learning_rate", "fast"], 2),
    (["train", *GOOD, "--learning_rate", "0"], 2),
    (["train", *GOOD, "--lr", "1", "--learning_rate", "1"], 2),
    (["train", *GOOD, "--task", "text_clasification"], 2),
    (["train", *GOOD, "--method", "lpft"], 2),
    (["train", *GOOD, "--method", "last_n"], 2),
    (["train", *GOOD, "--augment", "basicc"], 2),
    (["train", *GOOD, "--metric_for_best_model", "accurracy"], 2),
    (["train", *GOOD, "--problem_type", "multi_label"], 2),
    (["train", *GOOD, "--model", "/nowhere/model"], 2),
    (["train", *GOOD, "--dataset", "/nowhere/data"], 2),
    (["train", *GOOD, "--output_dir", "/"], 2),
    (["train", *GOOD, "--output_dir", "x" * 300], 2),
    (["train", *GOOD, "--output_dir", "/proc/x"], 2),
    (["train", *GOOD, "--learning_rate", "inf"], 2),
    (["train", *GOOD, "--label_smoothing_factor", "2"], 2),
    (["train", *GOOD, "--optim", "adamm"], 2),
    (["train", *GOOD, "--train_sampling_strategy", "rnd"], 2),
    (["train", *GOOD, "--report_to", "nosuch"], 2),
    (["train", *GOOD, "--deepspeed", "nosuch.json"], 2),
    (["train", *GOOD, "--config", "/nowhere/settings.yaml"], 2),
    (["inspect"], 2),
    (["inspect", "/nowhere/model"], 2),
    (["inspect", "org/model", "--method", "hed"], 2),
    (["evaluate", "/nowhere/out", "--dataset", "/nowhere/data"], 2),
    (["predict", "/nowhere/out", "text"], 2),
    (["push", "/nowhere/out", "--repo_id", "me/name"], 2),
    (["methods", "stray"], 2),
    (["compare", "--help"], 0),
    (["compare", *GOOD, "--methods", "head"], 2),
    (["rank", "--help"], 0),
    (["rank"], 2),
    (["rank", "org/one"], 2),
    (["rank", "org/one", "org/two"], 2),
    (["models"], 0),
    (["models", "--help"], 0),
    (["models", "--size", "huge"], 2),
    (["cache"], 2),
    (["cache", "lsit"], 2),
    (["depth", *GOOD, "--method", "head"], 2),
    (["depth", *GOOD, "--depths", "1,two"], 2),
    (["depth", *GOOD, "--depths", "3"], 2),
    (["depth", *GOOD, "--seeds", "0"], 2),
    (["depth", *GOOD, "--redraw", "OUT"], 2),
]


def imported_by(script: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a script in a fresh process; the process, and which heavy packages it had imported when it ended."""
    reader, writer = os.pipe()
    code = (
        "import atexit, os, sys\n"
        f"watched = {(*HEAVY, *NUMERIC)!r}\n"
        f"atexit.register(lambda: os.write({writer}, ' '.join(n for n in watched if n in sys.modules).encode()))\n"
    )
    command = [sys.executable, "-c", code + script]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=[writer], check=False)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return done, set(pipe.read().split())


def test_the_watch_sees_what_is_imported() -> None:
    """A script that does import a watched package is found out, so the tests below can fail."""
    _, found = imported_by("import numpy")
    assert found == {"numpy"}


@pytest.mark.parametrize(("words", "code"), QUICK, ids=[" ".join(words[-3:]) or "nothing" for words, _ in QUICK])
def test_help_and_mistakes_answer_before_torch_is_imported(words: list[str], code: int) -> None:
    """In a real process: exit code, one line on stderr or help on stdout, and no heavy import."""
    done, found = imported_by(f"from hf_ft.cli import main\nsys.exit(main({words!r}))")
    assert done.returncode == code
    assert not found & set(HEAVY)
    if code:
        assert done.stdout == ""
        assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    else:
        assert done.stderr == ""
        assert done.stdout.strip()


def test_importing_the_package_imports_nothing() -> None:
    """Neither torch nor transformers nor numpy, and no module of its own."""
    done, found = imported_by("import hf_ft\nprint(*sorted(m for m in sys.modules if m.startswith('hf_ft')))")
    assert done.returncode == 0
    assert found == set()
    assert done.stdout.split() == ["hf_ft"]


def test_misspelt_option_is_answered_at_once() -> None:
    """`python -m hf_ft` as a user runs it, in less time than importing torch alone takes."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hf_ft", "train", "--lerning_rate", "1"], capture_output=True, text=True, check=False
    )
    assert time.perf_counter() - started < 3
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown option '--lerning_rate' in the command line.")


# --- The public interface -------------------------------------------------------------------------------------------


def test_public_names_resolve() -> None:
    """Every public name is there and documented, and importing the package imports none of them."""
    assert len(hf_ft.__all__) == len(set(hf_ft.__all__)) >= 20
    for name in hf_ft.__all__:
        assert getattr(hf_ft, name).__doc__
        assert name in dir(hf_ft)


def test_unknown_names_of_the_package() -> None:
    """An attribute that does not exist is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="finetun"):
        _ = hf_ft.finetun  # type: ignore[attr-defined]


def test_help_texts_name_real_options() -> None:
    """Every `--option` in a message of the room exists."""
    source = "".join(path.read_text(encoding="utf-8") for path in Path(room.__file__).parent.glob("*.py"))
    named = set(re.findall(r"--([a-z][a-z_0-9]+)", source))
    known = {*config_fields(), *training_fields(), *ALIASES, "config", "help", "help_training"}
    assert len(named) >= 10
    assert named <= known
