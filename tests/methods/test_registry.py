"""Methods and plans as pure data: every rate and every share by hand, on tables that no model stands behind."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hf_ft.errors import UserError
from hf_ft.methods.method_spec import MethodSpec, plan_method
from hf_ft.methods.peft_registry import REFUSED, mergeable, preset
from hf_ft.methods.registry import METHODS, UNFREEZINGS
from hf_ft.methods.selectors import SELECTORS, choose_parameters
from hf_ft.methods.stages import Plan, Setting, Stage, plan_stages, split_epochs
from hf_ft.settings.plan_yaml import read_stages, read_yaml
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import training_fields
from hf_ft.tasks.registry import get_task, task_names


@dataclass(frozen=True)
class Row:
    """A depth group as far as a plan knows it."""

    name: str
    role: str
    parameters: tuple[str, ...]
    norms: tuple[str, ...]
    modules: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()


def table(*names: str) -> tuple[Row, ...]:
    """Rows from names whose first word is the role: `block 0` is a block; each has a layer and a normalisation."""
    rows = []
    for name in names:
        prefix = name.replace(" ", ".")
        norms = tuple(f"{prefix}.norm.{part}" for part in ("weight", "bias"))
        rows.append(Row(name, name.split()[0], (f"{prefix}.linear.weight", f"{prefix}.linear.bias", *norms), norms))
    return tuple(rows)


THREE_BLOCKS = table("stem", "block 0", "block 1", "block 2", "neck", "head", "unused")
NO_NECK = table("stem", "block 0", "block 1", "block 2", "head")
NO_BLOCKS = table("stem", "head")

MODES = {
    "scratch": ["train train train train train train frozen"],
    "head": ["frozen frozen frozen frozen frozen train frozen"],
    "last_n:1": ["frozen frozen frozen train train train frozen"],
    "last_n:3": ["frozen train train train train train frozen"],
    "first_n:1": ["frozen frozen train train train train frozen"],
    "first_n:2": ["frozen frozen frozen train train train frozen"],
    "full": ["train train train train train train frozen"],
    "lp_ft": [
        "frozen frozen frozen frozen frozen train frozen",
        "train train train train train train frozen",
    ],
    "gradual": [
        "frozen frozen frozen frozen frozen train frozen",
        "frozen frozen frozen train train train frozen",
        "frozen frozen train train train train frozen",
        "frozen train train train train train frozen",
        "train train train train train train frozen",
    ],
    "lora": ["frozen adapt adapt adapt frozen train frozen"],
    "peft:loha": ["frozen adapt adapt adapt frozen train frozen"],
    "bitfit": ["part part part part part train frozen"],
    "norms": ["part part part part part train frozen"],
    "train:block.1": ["frozen frozen train frozen frozen train frozen"],
    "train:*linear*, neck.norm": ["part part part part train train frozen"],
}
"""Method -> for each stage the mode of each group of `THREE_BLOCKS`, by hand; `part` is a group that trains in part."""

STAGED = [name for name in METHODS if name != "auto"]
"""The methods with stages of their own; `auto` has those of what its search chooses."""


def mode_of(setting: Setting) -> str:
    """The mode, or `part` where some parameters of the group train and others do not."""
    return setting.mode if setting.only is None else "part"


def rates(plan: Plan, stage: int = 0) -> dict[str, float]:
    """The rate of each group in one stage; 0 for those that are frozen."""
    return {group.name: setting.rate for group, setting in plan.stages[stage]}


def spelled(name: str) -> str:
    """A method as the user writes it: with an argument where it takes one."""
    argument = METHODS[name].argument
    return f"{name}:{ {'N': '2', 'NAME': 'loha', 'PATTERN': '*norm*'}[argument] }" if argument else name


def test_the_table_of_modes_covers_every_method() -> None:
    """A new method must be written into `MODES`."""
    assert {method.split(":")[0] for method in MODES} == set(STAGED)
    assert (len(METHODS), len(STAGED), len(MODES)) == (13, 12, 15)


def test_auto_has_to_choose_first() -> None:
    """Without a search there is nothing to plan, and the error says who searches."""
    with pytest.raises(UserError, match=r"only `hf-ft train` and finetune\(\) search\. Run `hf-ft depth` and use"):
        plan_method("auto", THREE_BLOCKS, epochs=4, learning_rate=1e-3)


@pytest.mark.parametrize("method", MODES)
def test_modes_of_each_method(method: str) -> None:
    """What trains is what the table above says; a frozen group has no rate and every other one has."""
    plan = plan_method(method, THREE_BLOCKS, epochs=4, learning_rate=1e-3)
    assert [" ".join(mode_of(setting) for _, setting in stage) for stage in plan.stages] == MODES[method]
    assert plan.method == method
    assert any(stage.peft for stage in plan.stages) == (method in ("lora", "peft:loha"))
    for stage in plan.stages:
        assert all((setting.rate > 0) == (not setting.frozen) for _, setting in stage)


@pytest.mark.parametrize("groups", [THREE_BLOCKS, NO_NECK], ids=["all roles", "no neck"])
@pytest.mark.parametrize("name", STAGED)
def test_every_stage_covers_every_group_once(name: str, groups: tuple[Row, ...]) -> None:
    """One setting per group in the order of the table, the head among those that train, `unused` never."""
    decay = 1.0 if name == "head" else 0.9
    plan = plan_method(spelled(name), groups, epochs=6, learning_rate=1e-3, head_lr_multiplier=10, layer_decay=decay)
    assert plan.stages
    for stage in plan.stages:
        assert stage.groups == groups
        modes = {group.role: setting.mode for group, setting in stage}
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
    "top": {"neck", "head"},
    "last_n:1": {"block 2", "neck", "head"},
    "last_n:2": {"block 1", "block 2", "neck", "head"},
    "last_n:3": {"block 0", "block 1", "block 2", "neck", "head"},
    "first_n:2": {"block 2", "neck", "head"},
    "bitfit": {"stem", "block 0", "block 1", "block 2", "neck", "head"},
    "norms": {"stem", "block 0", "block 1", "block 2", "neck", "head"},
    "train:neck": {"neck", "head"},
}


def test_the_table_of_selectors_covers_every_selector() -> None:
    """A new selector must be written into `SELECTED`."""
    assert {selector.split(":")[0] for selector in SELECTED} == set(SELECTORS)
    assert (len(SELECTORS), len(SELECTED)) == (8, 10)


@pytest.mark.parametrize("selector", SELECTED)
def test_selectors(selector: str) -> None:
    """Which groups each selector chooses."""
    assert set(choose_parameters(selector, THREE_BLOCKS)) == SELECTED[selector]


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
    "peft": r"Method 'peft' needs the name of a PEFT method\. Use peft:NAME, for example peft:loha\.",
    "peft:lohaa": r"Unknown PEFT method 'lohaa'\. Did you mean 'loha'\? Choose from: adalora, ",
    "peft:prefix_tuning": r"peft:prefix_tuning cannot end as a plain model: it adds virtual tokens",
}


def test_mistakes_are_counted() -> None:
    """The table of mistakes has as many rows as were written."""
    assert len(MISTAKES) == 20


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


def test_more_blocks_than_the_model_has() -> None:
    """Says how many there are, and what to write."""
    remedy = "Use last_n:1 to last_n:3, or `full` to train everything."
    with pytest.raises(UserError, match=re.escape(f"last_n:4 asks for more blocks than the model has (3). {remedy}")):
        plan_method("last_n:4", THREE_BLOCKS, 1, 1.0)


def test_unknown_selector_names_the_nearest() -> None:
    """A selector is looked up as everything is."""
    with pytest.raises(UserError, match=r"Unknown selection of depth groups 'haed'\. Did you mean 'head'\?"):
        choose_parameters("haed", THREE_BLOCKS)


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
    first, second = (stage.scale for stage in METHODS["lp_ft"].stages(None, NO_NECK))
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


@pytest.mark.parametrize("name", STAGED)
def test_epochs_of_stages_add_up(name: str) -> None:
    """Nothing is lost or added, no stage is left without, and whole epochs stay whole."""
    shares = [stage.share for stage in METHODS[name].stages(None, NO_NECK)]
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
    full = MethodSpec("full")
    defaults = full.definition.defaults["image"]
    usual, least = defaults["num_train_epochs"], defaults["min_steps"]
    assert full.default_epochs("image", 1) == least
    assert full.default_epochs("image", 7) == math.ceil(least / 7)
    assert full.default_epochs("image", 10_000) == usual
    assert full.default_epochs("image", 0) == least


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
    assert max(map(len, done.stdout.splitlines())) <= 80
    words = " ".join(done.stdout.split())
    for method in METHODS.values():
        assert re.search(rf"^{re.escape(method.spelled)} +trains ", done.stdout, re.MULTILINE)
        assert f"{method.spelled} trains {method.trains} {method.when} {method.paper}" in words


def test_methods_of_peft_are_listed_without_peft() -> None:
    """In a fresh process: each that merges with its rates, each other one with the reason, at 80 columns."""
    script = (
        "import sys; from hf_ft.cli import main; code = main(['methods', '--peft'])\n"
        "print('HEAVY', sorted({'torch', 'peft', 'transformers'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0"
    assert max(map(len, done.stdout.splitlines())) <= 80
    words = " ".join(done.stdout.split())
    for name in mergeable():
        assert f"peft:{name} {preset(name).text:g} {preset(name).image:g}" in words
    for name, reason in REFUSED.items():
        assert f"peft:{name} {reason}" in words
    assert len(mergeable()) + len(REFUSED) == len(re.findall(r"^peft:", done.stdout, re.MULTILINE)) == 45


# --- Parts of groups --------------------------------------------------------------------------------------------------


def test_parts_are_exactly_the_parameters_meant() -> None:
    """Biases, normalisation, or what a pattern matches; the head always whole, a group matched whole is whole."""
    assert choose_parameters("bitfit", NO_BLOCKS) == {
        "stem": frozenset({"stem.linear.bias", "stem.norm.bias"}),
        "head": None,
    }
    assert choose_parameters("norms", NO_BLOCKS) == {
        "stem": frozenset({"stem.norm.weight", "stem.norm.bias"}),
        "head": None,
    }
    chosen = choose_parameters("train:block.?.norm, neck, *.linear.bias", THREE_BLOCKS)
    assert chosen["block 1"] == {"block.1.norm.weight", "block.1.norm.bias", "block.1.linear.bias"}
    assert chosen["stem"] == {"stem.linear.bias"}
    assert chosen["neck"] is None
    assert chosen["head"] is None
    assert "unused" not in chosen


def test_a_part_is_described_by_its_count() -> None:
    """`inspect` and the table before training say how much of a group trains."""
    stage = plan_method("bitfit", THREE_BLOCKS, 1, 1.0).stages[0]
    words = [setting.describe(group) for group, setting in stage]
    assert words == ["train 2 of 4"] * 5 + ["train", "frozen"]


UNFIT = {
    "first_n:3": r"first_n:3 would freeze all blocks of the model \(it has 3\)\. Use first_n:1 to first_n:2, or `head`",
    "train:block.9": r"train:block\.9 matches no parameter and no module of the model\. Did you mean 'block\.\d'\?",
    "train:*norm*,query": r"train:query matches no parameter",
}


@pytest.mark.parametrize("method", UNFIT)
def test_methods_that_the_model_cannot_take(method: str) -> None:
    """Each says what there is."""
    with pytest.raises(UserError, match=UNFIT[method]):
        plan_method(method, THREE_BLOCKS, 1, 1.0)


def test_models_without_biases_or_norms_below_the_head() -> None:
    """Both methods say so instead of training the head alone."""
    bare = tuple(Row(row.name, row.role, (f"{row.name}.weight",), ()) for row in NO_BLOCKS)
    with pytest.raises(UserError, match=r"no biases outside its head"):
        plan_method("bitfit", bare, 1, 1.0)
    with pytest.raises(UserError, match=r"no normalisation layers with parameters outside its head"):
        plan_method("norms", bare, 1, 1.0)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5, 12, 24, 32, 80])
def test_gradual_thaws_in_few_steps_and_ends_with_everything(blocks: int) -> None:
    """At most five thawings whatever the depth, each of more than the one before; the lowest rate stays useful."""
    groups = table("stem", *(f"block {i}" for i in range(blocks)), "head")
    plan = plan_method("gradual", groups, 10, 1.0)
    counts = [sum(setting.mode == "train" for _, setting in stage) for stage in plan.stages]
    assert 2 <= len(counts) <= UNFREEZINGS + 1
    assert counts == sorted(set(counts))
    assert (counts[0], counts[-1]) == (1, blocks + 2)
    assert rates(plan, -1)["stem"] >= 2.6 ** -(UNFREEZINGS + 1)


# --- Plans of the user's ----------------------------------------------------------------------------------------------

OWN = """
stages:
  - {name: first, trains: head, share: 0.3, scale: 10, scheduler: constant}
  - {name: top, trains: "last_n:2", share: 0.3, layer_decay: 0.5, warmup: 0.1, head_lr_multiplier: 3}
  - {name: rest, groups: {stem: frozen, "block 0-1": frozen, "block 2-": train, neck: train, head: train}}
  - {name: adapters, trains: all, peft: lora, peft_options: {r: 4}}
"""


def own_stages(text: str, folder: Path) -> tuple[Stage, ...]:
    """The stages in the text of a YAML file."""
    (folder / "plan.yaml").write_text(text)
    return read_stages(read_yaml(str(folder / "plan.yaml"), "plan", "stages"), "text")


def test_own_plan_by_hand(tmp_path: Path) -> None:
    """Every setting of a stage reaches the plan; what a stage leaves out is the run's."""
    plan = plan_stages("plan", own_stages(OWN, tmp_path), NO_UNUSED, 19, 1e-3, 2.0)
    assert [stage.name for stage in plan.stages] == ["first", "top", "rest", "adapters"]
    assert [" ".join(mode_of(setting) for _, setting in stage) for stage in plan.stages] == [
        "frozen frozen frozen frozen frozen train",
        "frozen frozen train train train train",
        "frozen frozen frozen train train train",
        "frozen adapt adapt adapt frozen train",
    ]
    assert [stage.epochs for stage in plan.stages] == [2, 2, 7, 8]
    assert [stage.scheduler for stage in plan.stages] == ["constant", None, None, None]
    assert [stage.warmup for stage in plan.stages] == [None, 0.1, None, None]
    assert rates(plan, 0)["head"] == pytest.approx(2e-2)
    assert (rates(plan, 1)["block 1"], rates(plan, 1)["head"]) == pytest.approx((2.5e-4, 3e-3))
    assert rates(plan, 2)["head"] == pytest.approx(2e-3)
    assert plan.stages[3].peft == "lora"
    assert plan.stages[3].peft_options == {"r": 4}
    usual = MethodSpec("lora").defaults("text")
    assert rates(plan, 3)["block 0"] == usual["learning_rate"]
    assert rates(plan, 3)["head"] == pytest.approx(usual["learning_rate"] * usual["head_lr_multiplier"])


NO_UNUSED = THREE_BLOCKS[:-1]
ONE = "stages:\n  - {name: a, trains: head}\n"
WRONG = {
    "{}": r"The plan has no stages\.",
    "stages: []": r"The plan has no stages\.",
    "stage: []": r"Unknown key of a plan: 'stage'\. Did you mean 'stages'\?",
    "- a": r"plan\.yaml must hold stages, not list\.",
    "stages: [a]": r"Stage 1 of the plan must be `key: value` pairs, not 'a'\.",
    "stages: [{name: a, train: all}]": r"Unknown key in stage 1 of the plan: 'train'\. Did you mean 'trains'\?",
    "stages: [{name: a}]": r"Stage 'a' needs either `trains` .* or `groups`, not both\.",
    "stages: [{name: a, trains: all, groups: {head: train}}]": r"Stage 'a' needs either",
    "stages: [{name: a/b, trains: all}]": r"Stage 'a/b': a name may have letters, digits",
    "stages: [{name: a, trains: last_n}]": r"'last_n' needs a number of blocks",
    "stages: [{name: a, trains: hed}]": r"Unknown value of trains in stage 'a': 'hed'\. Did you mean 'head'\?",
    "stages: [{name: a, trains: all, share: 0}]": r"Stage 'a': share must be greater than 0, not 0\.",
    "stages: [{name: a, trains: all, scale: -1}]": r"Stage 'a': scale must be greater than 0, not -1\.",
    "stages: [{name: a, trains: all, warmup: -1}]": r"Stage 'a': warmup must be at least 0, not -1\.",
    "stages: [{name: a, trains: all, learning_rate: .inf}]": r"Stage 'a': learning_rate must be at most 1,000, not inf",
    "stages: [{name: a, trains: all, layer_decay: 2}]": r"Stage 'a': layer_decay must be at most 1, not 2\.",
    "stages: [{name: a, trains: all, share: much}]": r"Stage 'a': share must be a number, not 'much'\.",
    "stages: [{name: a, trains: all, share: true}]": r"Stage 'a': share must be a number, not True\.",
    "stages: [{name: a, trains: all, scheduler: cosin}]": r"Unknown scheduler in stage 'a': 'cosin'\. Did you mean",
    "stages: [{name: a, trains: all, peft: lorra}]": r"Unknown PEFT method 'lorra'\. Did you mean 'lora'\?",
    "stages: [{name: a, trains: all, peft_options: {r: 4}}]": r"Stage 'a': peft_options needs a PEFT method",
    "stages: [{name: a, trains: all, peft: lora, peft_options: 4}]": r"Stage 'a': peft_options must be",
    "stages: [{name: a, groups: {head: trian}}]": r"Unknown mode of 'head' in stage 'a': 'trian'\. Did you mean",
    "stages: [{name: a, groups: {head: adapt}}]": r"Stage 'a': 'head: adapt' needs a PEFT method",
    "stages: [{name: a, groups: all}]": r"Stage 'a': groups must be a mapping",
    ONE + "  - {name: a, trains: all}": r"two stages named 'a'",
    ONE + ONE: r"plan\.yaml: Duplicate key 'stages' in the mapping that starts on line 1\. Keep one of them\.",
    "stages: [{name: a, trains: all, trains: head}]": r"Duplicate key 'trains'",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_plans(text: str, tmp_path: Path) -> None:
    """Each mistake is found before any model is loaded."""
    with pytest.raises(UserError, match=WRONG[text]):
        own_stages(text, tmp_path)


def test_merge_keys_of_yaml(tmp_path: Path) -> None:
    """`<<: *base` brings the keys of another stage, which the stage may replace; a key given twice is still told."""
    base = "stages:\n  - &base {name: a, trains: head, scale: 2}\n  - {<<: *base, name: b, trains: all}\n"
    first, second = own_stages(base, tmp_path)
    assert (first.name, first.trains, first.scale) == ("a", "head", 2)
    assert (second.name, second.trains, second.scale) == ("b", "all", 2)
    with pytest.raises(UserError, match="Duplicate key 'name'"):
        own_stages(base.replace("name: b", "name: b, name: c"), tmp_path)


ALL = "stem: train, 'block 0-': train, neck: train"
UNFIT_STAGES = {
    "groups: {head: train}": r"groups has no mode for stem, block 0, block 1, block 2, neck\. Set each",
    f"groups: {{{ALL}, head: train, 'block 1': frozen}}": r"'block 1' includes block 1, which is in another line",
    f"groups: {{{ALL}, head: train, tail: frozen}}": r"Unknown depth group 'tail'\.",
    "groups: {stem: train, 'block 0-3': train}": r"'block 0-3' includes blocks that the model does not have; ",
    "groups: {stem: frozen, 'block -': frozen, neck: frozen, head: frozen}": r"Stage 'a' trains nothing",
    f"groups: {{{ALL}, head: frozen}}": r"No stage trains the head, which is new",
    "trains: head, peft: lora": r"Stage 'a' adapts nothing: peft needs blocks",
    "trains: bitfit, peft: lora": r"Stage 'a': adapters go into whole blocks, and 'bitfit' chooses parts",
    "trains: 'last_n:4'": r"last_n:4 asks for more blocks than the model has \(3\)",
}


@pytest.mark.parametrize("stage", UNFIT_STAGES)
def test_own_stages_that_the_model_cannot_take(stage: str, tmp_path: Path) -> None:
    """What depends on the model's groups is answered once these are known."""
    assert len(UNFIT_STAGES) == 9
    stages = own_stages(f"stages: [{{name: a, {stage}}}]", tmp_path)
    with pytest.raises(UserError, match=UNFIT_STAGES[stage]):
        plan_stages("plan", stages, NO_UNUSED, 1, 1.0)


def test_a_head_that_is_kept_may_stay_frozen(tmp_path: Path) -> None:
    """Only a new head must train in some stage."""
    stages = own_stages(f"stages: [{{name: a, groups: {{{ALL}, head: frozen}}}}]", tmp_path)
    assert len(plan_stages("plan", stages, NO_UNUSED, 1, 1.0, new_head=False).stages) == 1
