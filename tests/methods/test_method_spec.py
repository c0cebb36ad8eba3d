"""Method specs: reading them, their defaults, and every mistake in one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hf_ft.errors import UserError
from hf_ft.methods.defaults import LEAST_FACTOR, MOST_FACTOR, REFERENCE_SIZE
from hf_ft.methods.method_spec import MethodSpec, plan_method
from hf_ft.methods.registry import METHODS
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import training_fields
from hf_ft.tasks.registry import get_task, task_names
from tests.support.groups import THREE_BLOCKS, spelled

MISTAKES = {
    "hed": r"^Unknown method 'hed'\. Did you mean 'head'\? Choose from: scratch, head, last_n, first_n, full, .*\.$",
    "lpft": r"Unknown method 'lpft'\. Did you mean 'lp_ft'\?",
    "LoRA": r"Unknown method 'LoRA'\. Did you mean 'lora'\?",
    "last-n:2": r"Unknown method 'last-n'\. Did you mean 'last_n'\?",
    "zzz": r"^Unknown method 'zzz'\. Choose from: ",
    "": r"Unknown method ''\. Choose from: ",
    "last_n": r"Method 'last_n' needs a number of blocks\. Use last_n:N, for example last_n:2\.",
    "last_n:": r"Method 'last_n' needs a number of blocks",
    "last_n:two": r"Method 'last_n' needs a number of blocks",
    "last_n:-1": r"Method 'last_n' needs a number of blocks",
    "last_n:1.5": r"Method 'last_n' needs a number of blocks",
    "last_n:0": r"last_n:0 trains no block\. Use `head` to train the head only\.",
    "head:3": r"Method 'head' takes no argument\.",
    "lora:8": r"Method 'lora' takes no argument\.",
    "first_n:0": r"first_n:0 freezes no block\.",
    "train": r"Method 'train' needs patterns of names\. Use train:PATTERN, for example train:\*attention\*\.",
    "train: ,": r"Method 'train' needs patterns of names",
    "lora@": r"'lora@' needs a number of top blocks after its '@'\. Use lora@last_n:N, for example lora@last_n:2\.",
    "lora@last_n": r"Method 'lora@last_n' needs a number of top blocks",
    "lora@last_n:0": r"Method 'lora@last_n:0' needs a number of top blocks",
    "bitfit@head": r"Use bitfit@last_n:N, for example bitfit@last_n:2\.",
    "norms@first_n:2": r"Use norms@last_n:N",
    "peft:loha@last_n:x": r"Use peft:loha@last_n:N",
    "lora@last_n:2@last_n:1": r"needs a number of top blocks",
    "last_n:2@last_n:1": r"only adapters and parts of blocks .* Use lora@last_n:N, peft:NAME@last_n:N, bitfit@last_n:N",
    "lp_ft@last_n:2": r"Method 'lp_ft@last_n:2': only adapters and parts of blocks can be limited to the top blocks\.",
    "lora:8@last_n:2": r"Method 'lora' takes no argument\.",
    "lorra@last_n:2": r"Unknown method 'lorra'\. Did you mean 'lora'\?",
    "peft@last_n:2": r"Method 'peft' needs the name of a PEFT method",
    "peft:lohaa@last_n:2": r"Unknown PEFT method 'lohaa'\. Did you mean 'loha'\?",
    "peft": r"Method 'peft' needs the name of a PEFT method\. Use peft:NAME, for example peft:loha\.",
    "peft:lohaa": r"Unknown PEFT method 'lohaa'\. Did you mean 'loha'\? Choose from: adalora, ",
    "peft:prefix_tuning": r"peft:prefix_tuning cannot end as a plain model: it adds virtual tokens",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_method(text: str) -> None:
    """Each mistake is answered alike by `MethodSpec.parse` and `plan_method`."""
    for answer in (
        lambda: MethodSpec.parse(text),
        lambda: plan_method(text, THREE_BLOCKS, 1, 1.0),
    ):
        with pytest.raises(UserError, match=MISTAKES[text]):
            answer()


def test_method_with_its_argument_is_split() -> None:
    """`last_n:4` is the method `last_n` and "4"; other methods have no argument."""
    assert MethodSpec.parse("last_n:4") == MethodSpec("last_n", "4")
    assert MethodSpec.parse("lora") == MethodSpec("lora")


@pytest.mark.parametrize("text", ["lora@last_n:4", "peft:loha@last_n:1", "bitfit@last_n:2", "norms@last_n:12"])
def test_a_limited_method_stays_what_it_is(text: str) -> None:
    """It is written as it was read, has the defaults of the whole method, and only a model shows that it fits."""
    spec, whole = MethodSpec.parse(text), MethodSpec.parse(text.partition("@")[0])
    assert str(spec) == text
    assert spec.top == text.partition("@")[2]
    assert MethodSpec.parse(str(spec)) == spec != whole
    assert spec.definition == whole.definition
    assert spec.defaults("text") == whole.defaults("text")
    assert spec.peft == whole.peft
    assert (spec.depends_on_model, whole.depends_on_model) == (True, False)
    with pytest.raises(UserError, match="more blocks than the model has"):
        plan_method(f"{whole}@last_n:99", THREE_BLOCKS, 1, 1.0)


def test_a_pattern_may_have_the_sign_of_a_limit() -> None:
    """`@` in `train:PATTERN` belongs to the pattern."""
    assert MethodSpec.parse("train:*a@b*") == MethodSpec("train", "*a@b*")


def test_few_data_get_more_epochs() -> None:
    """As many as it takes to make `min_steps`, and the method's own number where the data make enough."""
    full = MethodSpec("full")
    defaults = full.definition.defaults["image"]
    usual, least = defaults["num_train_epochs"], defaults["min_steps"]
    assert full.default_epochs("image", 1) == least
    assert full.default_epochs("image", 7) == math.ceil(least / 7)
    assert full.default_epochs("image", 10_000) == usual
    assert full.default_epochs("image", 0) == least


@pytest.mark.parametrize("method", ["full", "lp_ft", "last_n:2", "gradual", "train:*"])
def test_rate_follows_from_the_network(method: str) -> None:
    """Without BatchNorm a small network takes a higher rate, within limits; with BatchNorm the size does not matter."""

    def rate(size: int, *buffers: str) -> float:
        groups = [replace(group, size=size // 3, buffers=buffers) for group in THREE_BLOCKS if group.role == "block"]
        return MethodSpec.parse(method).default_rate("image", groups)

    reference = round(REFERENCE_SIZE)
    assert rate(reference // 4) == pytest.approx(2 * rate(reference), rel=1e-4)
    assert rate(reference // 400) == rate(3) == pytest.approx(MOST_FACTOR * rate(reference), rel=1e-4)
    assert rate(reference * 9) == pytest.approx(LEAST_FACTOR * rate(reference), rel=1e-4)
    usual = METHODS[method.partition(":")[0]].defaults["image"]["learning_rate"]
    assert rate(100, "norm.running_mean") == rate(reference, "norm.running_mean") == usual


@pytest.mark.parametrize("method", ["head", "lora", "bitfit", "scratch", "peft:ia3"])
def test_rates_that_do_not_depend_on_the_network(method: str) -> None:
    """A head, adapters and a few small parameters take the rate of the method at every size."""
    spec = MethodSpec.parse(method)
    for size in (10, 10**9):
        groups = [replace(group, size=size) for group in THREE_BLOCKS]
        assert spec.default_rate("text", groups) == spec.defaults("text")["learning_rate"]


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("name", METHODS)
def test_defaults_of_every_method_and_task(name: str, task: str) -> None:
    """They are settings that exist, they make enough steps at every size, and `min_steps` is not among them."""
    spec = MethodSpec.parse(spelled(name))
    settings = spec.defaults(get_task(task).modality.method_defaults)
    assert {"learning_rate", "num_train_epochs"} <= set(settings)
    assert set(settings) <= set(config_fields()) | set(training_fields())
    least = METHODS[name].defaults[get_task(task).modality.method_defaults]["min_steps"]
    for steps in (1, 3, 10, 29, 64, 500, 5000):
        epochs = spec.default_epochs(get_task(task).modality.method_defaults, steps)
        assert isinstance(epochs, int)
        assert epochs >= settings["num_train_epochs"]
        assert epochs * steps >= least
        assert epochs == settings["num_train_epochs"] or (epochs - 1) * steps < least
