"""Sections of the settings: each is made and checked alone, and a `Config` is every one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_ft.errors import UserError
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.settings.merge import build
from hf_ft.settings.schema import (
    OF_ADAPTERS,
    SECTIONS,
    CacheSettings,
    Config,
    DataSettings,
    EncodingSettings,
    MachineSettings,
    MethodSettings,
    ModelSettings,
    OutputSettings,
    Section,
    TaskSettings,
    TrainingSettings,
    adapter_options,
    config_fields,
)

GOOD: list[Section] = [
    TaskSettings(task="text_regression"),
    ModelSettings(task="text_classification", model="org/model", model_revision="main"),
    DataSettings(task="text_classification", dataset="org/data", text_column="a", label_column="b"),
    EncodingSettings(task="image_classification", augment="basic", explicit=frozenset({"augment"})),
    MethodSettings(method=MethodSpec("lora"), lora_r=4, explicit=frozenset({"method", "lora_r"})),
    TrainingSettings(head_solver="sgd"),
    CacheSettings(cache="on", cache_max_gb=1),
    MachineSettings(autotune="off"),
    OutputSettings(overwrite_output_dir=True),
]


def test_a_config_is_every_section_and_has_nothing_else() -> None:
    """Every section is a base of `Config`, and each option is in one of them."""
    assert {type(section) for section in GOOD} == {*SECTIONS}
    assert all(issubclass(Config, section) for section in SECTIONS)
    names = [name for section in SECTIONS for name in section.own_options()]
    assert len(names) == len({*names})
    assert {*names} == {*Config.options()} == {*config_fields()}


@pytest.mark.parametrize("section", GOOD, ids=lambda section: type(section).title)
def test_sections_are_checked_alone(section: Section) -> None:
    """No model is made up for a cache, and no data for a model."""
    section.check()
    assert section.title


WRONG: list[tuple[Section, str, Any]] = [
    (TaskSettings(), "task", None),
    (TaskSettings(task="text_clasification"), "task", "text_clasification"),
    (ModelSettings(task="text_classification"), "model", None),
    (ModelSettings(task="text_classification", model="./nowhere"), "model", "./nowhere"),
    (ModelSettings(task="text_classification", model=".", model_revision="main"), "model_revision", "main"),
    (DataSettings(task="text_classification"), "dataset", None),
    (DataSettings(task="text_classification", dataset="a/b", validation_fraction=2.0), "validation_fraction", 2.0),
    (DataSettings(task="text_classification", dataset="a/b", bad_examples="keep"), "bad_examples", "keep"),
    (
        DataSettings(task="text_classification", dataset="a/b", max_train_examples=4, examples_per_class=2),
        "max_train_examples",
        4,
    ),
    (
        DataSettings(task="text_classification", dataset="a/b", text_column="a", label_column="a"),
        "text_column",
        "a",
    ),
    (EncodingSettings(task="text_classification", max_length=0), "max_length", 0),
    (
        EncodingSettings(task="text_classification", augment="basic", explicit=frozenset({"augment"})),
        "augment",
        None,
    ),
    (MethodSettings(lora_r=0), "lora_r", 0),
    (MethodSettings(method=MethodSpec("full"), explicit=frozenset({"lora_r"})), "lora_r", None),
    (MethodSettings(method=MethodSpec("peft", "loha"), explicit=frozenset({"lora_r"})), "lora_r", None),
    (MethodSettings(method="full"), "method", "full"),  # type: ignore[arg-type]
    (TrainingSettings(early_stopping_patience=-1), "early_stopping_patience", -1),
    (TrainingSettings(early_stopping_patience="never"), "early_stopping_patience", "never"),
    (TrainingSettings(ema=1.0), "ema", 1.0),
    (TrainingSettings(ema="on"), "ema", "on"),
    (TrainingSettings(soup=1), "soup", 1),
    (TrainingSettings(batch_norm="off"), "batch_norm", "off"),
    (CacheSettings(cache="sometimes"), "cache", "sometimes"),
    (CacheSettings(cache_dir=3), "cache_dir", 3),  # type: ignore[arg-type]
    (MachineSettings(autotune="fast"), "autotune", "fast"),
    (OutputSettings(load_back_proof="yes"), "load_back_proof", "yes"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("section", "option", "value"), WRONG, ids=str)
def test_mistakes_in_a_section(section: Section, option: str, value: Any) -> None:
    """The error names the option and the value."""
    with pytest.raises(UserError) as caught:
        section.check()
    assert (caught.value.option, caught.value.value) == (option, value)


def test_options_of_adapters_by_method() -> None:
    """LoRA takes all, other methods of PEFT their own options only, the others none."""
    assert adapter_options(MethodSpec("lora")) == OF_ADAPTERS
    assert adapter_options(MethodSpec("peft", "loha")) == {"peft_options"}
    assert adapter_options(MethodSpec("last_n", "2")) == frozenset()


def test_sections_that_are_not_needed_are_not_checked(tmp_path: Path) -> None:
    """A ranking has no model of its own and a trial no folder yet; what is there is checked all the same."""
    layer = {"task": "text_classification", "dataset": "org/data"}
    needed = [section for section in SECTIONS if section not in (ModelSettings, OutputSettings)]
    found = build(("here", layer), sections=needed)
    assert (found.config.model, found.training.get("output_dir")) == ("", None)
    for change, option in (
        ({"dataset": None}, "dataset"),
        ({"lora_r": 2}, "lora_r"),
        ({"model": 3}, "model"),
        ({"report_to": "wandbb"}, "report_to"),
    ):
        with pytest.raises(UserError) as caught:
            build(("here", layer | change), sections=needed)
        assert caught.value.option == option
    with pytest.raises(UserError) as caught:
        build(("here", layer | {"output_dir": str(tmp_path)}))
    assert caught.value.option == "model"
