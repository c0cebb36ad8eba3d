"""Layers of settings: which value wins, other spellings, and what contradicts each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import hf_ft
from hf_ft.errors import UserError
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.methods.registry import METHODS
from hf_ft.settings.merge import ALIASES, FORMER, build, normalise
from hf_ft.settings.parse import command_line
from hf_ft.settings.schema import Config, config_fields
from hf_ft.settings.training_arguments import TRAINING_DEFAULTS, training_fields
from hf_ft.tasks.registry import get_task, task_names
from tests.support.layers import TASK, settings, value_of, yaml_layer

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
    if method == "contrastive" and not any(target.contrasts for target in get_task(task).targets()):
        with pytest.raises(UserError, match="one class for each example"):
            settings(tmp_path, task=task, method=spelled)
        return
    found = settings(tmp_path, task=task, method=spelled)
    defaults = MethodSpec.parse(spelled).defaults(get_task(task).modality.method_defaults)
    assert len(defaults) >= 2
    assert {name: value_of(found, name) for name in defaults} == defaults
    assert found.config.method.definition == METHODS[method]


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


def test_usual_aliases_are_known() -> None:
    """Those that the example scripts of this field use are among them."""
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


def test_usual_former_options_are_known() -> None:
    """Those that are asked for most are among them."""
    assert {"warmup_ratio", "evaluation_strategy", "group_by_length", "no_cuda", "save_safetensors"} <= set(FORMER)


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


def test_empty_yaml_values_mean_the_default(tmp_path: Path) -> None:
    """`option:` with nothing behind it is as good as leaving it out, for every option of ours."""
    optional = [name for name in config_fields() if name not in ("task", "model", "dataset")]
    assert len(optional) >= 25
    found = settings(tmp_path, *yaml_layer(tmp_path, "".join(f"{name}:\n" for name in optional)))
    assert found.config == settings(tmp_path).config


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
