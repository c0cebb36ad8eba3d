"""One value of an option: converted, checked, or refused, from a command line, YAML and Python alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_ft.errors import UserError
from hf_ft.settings.merge import FORMER, normalise
from hf_ft.settings.parse import command_line
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import training_fields
from tests.support.layers import settings, yaml_layer

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
