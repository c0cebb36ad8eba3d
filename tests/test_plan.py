"""Methods and plans as pure data: every rate and every share by hand, on tables that no model stands behind."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from hf_ft.config import config_fields, training_fields
from hf_ft.lookup import UserError
from hf_ft.plan import (
    METHODS,
    SELECTORS,
    Plan,
    choose_groups,
    default_epochs,
    method_defaults,
    parse_method,
    plan_method,
    split_epochs,
)
from hf_ft.tasks import get_task, task_names


@dataclass(frozen=True)
class Row:
    """A depth group as far as a plan knows it."""

    name: str
    role: str


def table(*names: str) -> tuple[Row, ...]:
    """Rows from names whose first word is the role: `block 0` is a block."""
    return tuple(Row(name, name.split()[0]) for name in names)


THREE_BLOCKS = table("stem", "block 0", "block 1", "block 2", "neck", "head", "unused")
NO_NECK = table("stem", "block 0", "block 1", "block 2", "head")
NO_BLOCKS = table("stem", "head")

MODES = {
    "scratch": ["train train train train train train frozen"],
    "head": ["frozen frozen frozen frozen frozen train frozen"],
    "last_n:1": ["frozen frozen frozen train train train frozen"],
    "last_n:3": ["frozen train train train train train frozen"],
    "full": ["train train train train train train frozen"],
    "lp_ft": [
        "frozen frozen frozen frozen frozen train frozen",
        "train train train train train train frozen",
    ],
    "lora": ["frozen adapt adapt adapt frozen train frozen"],
}
"""Method -> for each stage the mode of each group of `THREE_BLOCKS`, written down by hand."""


def rates(plan: Plan, stage: int = 0) -> dict[str, float]:
    """The rate of each group in one stage; 0 for those that are frozen."""
    settings = plan.stages[stage].settings
    return {name: setting.rate for name, setting in zip(plan.groups, settings, strict=True)}


def spelled(name: str) -> str:
    """A method as the user writes it: with an argument where it takes one."""
    return f"{name}:2" if METHODS[name].argument else name


def test_the_table_of_modes_covers_every_method() -> None:
    """A new method must be written into `MODES`."""
    assert {method.split(":")[0] for method in MODES} == set(METHODS)
    assert (len(METHODS), len(MODES)) == (6, 7)


@pytest.mark.parametrize("method", MODES)
def test_modes_of_each_method(method: str) -> None:
    """What trains is what the table above says; a frozen group has no rate and every other one has."""
    plan = plan_method(method, THREE_BLOCKS, epochs=4, learning_rate=1e-3)
    assert [" ".join(setting.mode for setting in stage.settings) for stage in plan.stages] == MODES[method]
    assert plan.method == method
    assert plan.adapts == (method == "lora")
    for stage in plan.stages:
        assert [i for i, setting in enumerate(stage.settings) if setting.rate > 0] == list(stage.trainable)


@pytest.mark.parametrize("groups", [THREE_BLOCKS, NO_NECK], ids=["all roles", "no neck"])
@pytest.mark.parametrize("name", METHODS)
def test_every_stage_covers_every_group_once(name: str, groups: tuple[Row, ...]) -> None:
    """One setting per group in the order of the table, the head among those that train, `unused` never."""
    decay = 1.0 if name == "head" else 0.9
    plan = plan_method(spelled(name), groups, epochs=6, learning_rate=1e-3, head_lr_multiplier=10, layer_decay=decay)
    assert plan.groups == tuple(group.name for group in groups)
    assert plan.stages
    for stage in plan.stages:
        assert len(stage.settings) == len(groups)
        modes = {group.role: setting.mode for group, setting in zip(groups, stage.settings, strict=True)}
        assert set(modes.values()) <= {"train", "adapt", "frozen"}
        assert modes["head"] == "train"
        assert modes.get("unused", "frozen") == "frozen"


def test_a_model_without_blocks_trains_its_head_or_everything() -> None:
    """`head` and `full` need no stack of blocks; `last_n` says that there is none."""
    assert rates(plan_method("head", NO_BLOCKS, 1, 1e-3)) == {"stem": 0.0, "head": 1e-3}
    assert rates(plan_method("full", NO_BLOCKS, 1, 1e-3)) == {"stem": 1e-3, "head": 1e-3}
    with pytest.raises(UserError, match=r"last_n:1 asks for more blocks than the model has \(0\)"):
        plan_method("last_n:1", NO_BLOCKS, 1, 1e-3)


SELECTED = {
    "all": {"stem", "block 0", "block 1", "block 2", "neck", "head"},
    "head": {"head"},
    "last_n:1": {"block 2", "neck", "head"},
    "last_n:2": {"block 1", "block 2", "neck", "head"},
    "last_n:3": {"block 0", "block 1", "block 2", "neck", "head"},
}


def test_the_table_of_selectors_covers_every_selector() -> None:
    """A new selector must be written into `SELECTED`."""
    assert {selector.split(":")[0] for selector in SELECTED} == set(SELECTORS)
    assert (len(SELECTORS), len(SELECTED)) == (3, 5)


@pytest.mark.parametrize("selector", SELECTED)
def test_selectors(selector: str) -> None:
    """Which groups each selector chooses."""
    assert choose_groups(selector, THREE_BLOCKS) == SELECTED[selector]


MISTAKES = {
    "hed": r"^Unknown method 'hed'\. Did you mean 'head'\? There is: scratch, head, last_n, full, lp_ft, lora\.$",
    "lpft": r"Unknown method 'lpft'\. Did you mean 'lp_ft'\?",
    "LoRA": r"Unknown method 'LoRA'\. Did you mean 'lora'\?",
    "last-n:2": r"Unknown method 'last-n'\. Did you mean 'last_n'\?",
    "zzz": r"^Unknown method 'zzz'\. There is: ",
    "": r"Unknown method ''\. There is: ",
    "last_n": r"Method 'last_n' needs a number of blocks: last_n:N, for example last_n:2\.",
    "last_n:": r"Method 'last_n' needs a number of blocks",
    "last_n:two": r"Method 'last_n' needs a number of blocks",
    "last_n:-1": r"Method 'last_n' needs a number of blocks",
    "last_n:1.5": r"Method 'last_n' needs a number of blocks",
    "last_n:0": r"last_n:0 trains no block\. Use `head` to train the head only\.",
    "head:3": r"Method 'head' takes no argument, but ':3' was given\.",
    "lora:8": r"Method 'lora' takes no argument, but ':8' was given\.",
}


def test_mistakes_are_counted() -> None:
    """The table of mistakes has as many rows as were written."""
    assert len(MISTAKES) == 14


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_method(text: str) -> None:
    """Each mistake is answered alike by `parse_method`, `plan_method` and `method_defaults`."""
    for answer in (
        lambda: parse_method(text),
        lambda: plan_method(text, THREE_BLOCKS, 1, 1.0),
        lambda: method_defaults(text, "text_classification"),
    ):
        with pytest.raises(UserError, match=MISTAKES[text]):
            answer()


def test_method_with_its_argument_is_split() -> None:
    """`last_n:4` is the method `last_n` and "4"; other methods have no argument."""
    assert parse_method("last_n:4") == (METHODS["last_n"], "4")
    assert parse_method("lora") == (METHODS["lora"], None)


def test_more_blocks_than_the_model_has() -> None:
    """Says how many there are, and what to write."""
    remedy = "Use last_n:1 to last_n:3, or `full` to train everything."
    with pytest.raises(UserError, match=re.escape(f"last_n:4 asks for more blocks than the model has (3). {remedy}")):
        plan_method("last_n:4", THREE_BLOCKS, 1, 1.0)


def test_unknown_selector_names_the_nearest() -> None:
    """A selector is looked up as everything is."""
    with pytest.raises(UserError, match=r"Unknown selection of depth groups 'haed'\. Did you mean 'head'\?"):
        choose_groups("haed", THREE_BLOCKS)


def test_head_multiplier_and_layer_decay_by_hand() -> None:
    """The topmost group below the head has the full rate, each one further down half of it, the head ten times it."""
    plan = plan_method("full", THREE_BLOCKS, 1, 1e-3, head_lr_multiplier=10.0, layer_decay=0.5)
    assert rates(plan) == pytest.approx(
        {
            "stem": 6.25e-5,
            "block 0": 1.25e-4,
            "block 1": 2.5e-4,
            "block 2": 5e-4,
            "neck": 1e-3,
            "head": 1e-2,
            "unused": 0.0,
        }
    )


def test_without_a_neck_the_last_block_has_the_full_rate() -> None:
    """Decay counts from the group that stands highest below the head."""
    plan = plan_method("full", NO_NECK, 1, 1e-3, layer_decay=0.1)
    assert rates(plan) == pytest.approx({"stem": 1e-6, "block 0": 1e-5, "block 1": 1e-4, "block 2": 1e-3, "head": 1e-3})


def test_decay_counts_frozen_groups_too() -> None:
    """A block has the same rate under `last_n` as under `full`."""
    plan = plan_method("last_n:2", NO_NECK, 1, 1e-3, head_lr_multiplier=2.0, layer_decay=0.1)
    assert rates(plan) == pytest.approx({"stem": 0.0, "block 0": 0.0, "block 1": 1e-4, "block 2": 1e-3, "head": 2e-3})


def test_scale_of_a_stage_multiplies_every_rate() -> None:
    """The first stage of `lp_ft` trains the head at several times the rate of the second."""
    first, second = (stage.scale for stage in METHODS["lp_ft"].stages(None))
    assert first > second == 1
    plan = plan_method("lp_ft", NO_NECK, 10, 1e-3, head_lr_multiplier=2.0)
    assert [stage.rate for stage in plan.stages] == pytest.approx([1e-3 * first, 1e-3])
    assert [rates(plan, i)["head"] for i in (0, 1)] == pytest.approx([2e-3 * first, 2e-3])
    assert [rates(plan, i)["stem"] for i in (0, 1)] == pytest.approx([0.0, 1e-3])


SHARES = [
    (10, [0.3, 0.7], [3, 7]),
    (5, [0.3, 0.7], [2, 3]),
    (4, [0.3, 0.7], [1, 3]),
    (2, [0.3, 0.7], [1, 1]),
    (1, [0.3, 0.7], [0.3, 0.7]),
    (2.5, [0.3, 0.7], [0.75, 1.75]),
    (0.5, [0.3, 0.7], [0.15, 0.35]),
    (3, [1.0], [3]),
    (0.25, [1.0], [0.25]),
    (6, [3, 7], [2, 4]),
    (3, [0.1, 0.1, 0.8], [1, 1, 1]),
]


def test_shares_are_counted() -> None:
    """The table of shares has as many rows as were written."""
    assert len(SHARES) == 11


@pytest.mark.parametrize(("total", "shares", "parts"), SHARES)
def test_epochs_of_stages_by_hand(total: float, shares: list[float], parts: list[float]) -> None:
    """Whole epochs where there are enough of them, fractions otherwise."""
    assert split_epochs(total, shares) == pytest.approx(parts)


@pytest.mark.parametrize("name", METHODS)
def test_epochs_of_stages_add_up(name: str) -> None:
    """Nothing is lost or added, no stage is left without, and whole epochs stay whole."""
    shares = [stage.share for stage in METHODS[name].stages("2" if METHODS[name].argument else None)]
    totals = [*range(1, 41), 0.1, 0.5, 1.5, 7.25]
    assert len(totals) == 44
    for total in totals:
        parts = split_epochs(total, shares)
        assert sum(parts) == pytest.approx(total)
        assert min(parts) > 0
        if total == int(total) and total >= len(shares):
            assert all(part == int(part) for part in parts), (total, parts)


def test_max_steps_are_shared_like_epochs() -> None:
    """Without `max_steps` no stage has a limit; with them the stages' steps add up to what was asked for."""
    assert [stage.max_steps for stage in plan_method("lp_ft", NO_NECK, 10, 1.0).stages] == [-1, -1]
    assert [stage.max_steps for stage in plan_method("lp_ft", NO_NECK, 10, 1.0, max_steps=100).stages] == [30, 70]
    assert [stage.max_steps for stage in plan_method("full", NO_NECK, 10, 1.0, max_steps=7).stages] == [7]
    for steps in range(2, 60):
        plan = plan_method("lp_ft", NO_NECK, 10, 1.0, max_steps=steps)
        assert sum(stage.max_steps for stage in plan.stages) == steps
        assert min(stage.max_steps for stage in plan.stages) >= 1


def test_few_data_get_more_epochs() -> None:
    """As many as it takes to make `min_steps`, and the method's own number where the data make enough."""
    defaults = METHODS["full"].defaults["image"]
    usual, least = defaults["num_train_epochs"], defaults["min_steps"]
    assert default_epochs("full", "image_classification", 1) == least
    assert default_epochs("full", "image_classification", 7) == math.ceil(least / 7)
    assert default_epochs("full", "image_classification", 10_000) == usual
    assert default_epochs("full", "image_classification", 0) == least


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("name", METHODS)
def test_defaults_of_every_method_and_task(name: str, task: str) -> None:
    """They are settings that exist, they make enough steps at every size, and `min_steps` is not among them."""
    settings = method_defaults(spelled(name), task)
    assert {"learning_rate", "num_train_epochs"} <= set(settings)
    assert set(settings) <= set(config_fields()) | set(training_fields())
    least = METHODS[name].defaults[get_task(task).modality]["min_steps"]
    for steps in (1, 3, 10, 29, 64, 500, 5000):
        epochs = default_epochs(spelled(name), task, steps)
        assert isinstance(epochs, int)
        assert epochs >= settings["num_train_epochs"]
        assert epochs * steps >= least
        assert epochs == settings["num_train_epochs"] or (epochs - 1) * steps < least


def test_every_method_says_what_it_is_for() -> None:
    """What trains, when to use it, and a paper; its key is its name."""
    for name, method in METHODS.items():
        assert method.name == name
        assert method.trains
        assert method.when
        assert method.paper.startswith("https://arxiv.org/abs/")
    assert [name for name, method in METHODS.items() if not method.pretrained] == ["scratch"]


def test_methods_are_listed_without_torch() -> None:
    """In a fresh process the listing names every method and imports none of the heavy packages."""
    script = (
        "import sys; from hf_ft.cli import main; code = main(['methods'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0"
    for method in METHODS.values():
        name = f"{method.name}:{method.argument}" if method.argument else method.name
        assert re.search(rf"^{re.escape(name)} +trains {re.escape(method.trains)}$", done.stdout, re.MULTILINE)
        assert method.when in done.stdout
        assert method.paper in done.stdout
