"""The registry of methods: what each trains in which stage, on groups that no model stands behind."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from hf_ft.errors import UserError
from hf_ft.methods.defaults import MEASURED, preset
from hf_ft.methods.method_spec import MethodSpec, plan_method
from hf_ft.methods.peft_methods import REFUSED, mergeable
from hf_ft.methods.registry import METHODS, UNFREEZINGS
from hf_ft.methods.stages import split_epochs
from tests.support.groups import NO_BLOCKS, NO_NECK, THREE_BLOCKS, Row, mode_of, rates, spelled, table

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
    "contrastive": [
        "train train train train train part frozen",
        "frozen frozen frozen frozen frozen train frozen",
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
    "lora@last_n:2": ["frozen frozen adapt adapt frozen train frozen"],
    "lora@last_n:3": ["frozen adapt adapt adapt frozen train frozen"],
    "peft:loha@last_n:1": ["frozen frozen frozen adapt frozen train frozen"],
    "bitfit@last_n:1": ["frozen frozen frozen part part train frozen"],
    "norms@last_n:2": ["frozen frozen part part part train frozen"],
    "train:*linear*, neck.norm": ["part part part part train train frozen"],
}
"""Method -> for each stage the mode of each group of `THREE_BLOCKS`, by hand; `part` is a group that trains in part."""


STAGED = [name for name in METHODS if name != "auto"]
"""The methods with stages of their own; `auto` has those of what its search chooses."""


def test_the_table_of_modes_covers_every_method() -> None:
    """A new method must be written into `MODES`."""
    specs = [MethodSpec.parse(method) for method in MODES]
    assert {spec.name for spec in specs} == set(STAGED)
    assert {spec.name for spec in specs if spec.top} == {name for name in STAGED if METHODS[name].limited}


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
    assert any(stage.peft for stage in plan.stages) == (MethodSpec.parse(method).name in ("lora", "peft"))
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


def test_scale_of_a_stage_multiplies_every_rate() -> None:
    """The first stage of `lp_ft` trains the head at several times the rate of the second."""
    first, second = (stage.scale for stage in METHODS["lp_ft"].stages(None, NO_NECK))
    assert first > second == 1
    plan = plan_method("lp_ft", NO_NECK, 10, 1e-3, head_lr_multiplier=2.0)
    assert [stage.rate for stage in plan.stages] == pytest.approx([1e-3 * first, 1e-3])
    assert [rates(plan, i)["head"] for i in (0, 1)] == pytest.approx([2e-3 * first, 2e-3])
    assert [rates(plan, i)["stem"] for i in (0, 1)] == pytest.approx([0.0, 1e-3])


@pytest.mark.parametrize("name", STAGED)
def test_epochs_of_stages_add_up(name: str) -> None:
    """Nothing is lost or added, no stage is left without, and whole epochs stay whole."""
    shares = [stage.share for stage in METHODS[name].stages(None, NO_NECK)]
    totals = [*range(1, 41), 0.1, 0.5, 1.5, 7.25]
    for total in totals:
        parts = split_epochs(total, shares)
        assert sum(parts) == pytest.approx(total)
        assert min(parts) > 0
        if total == int(total) and total >= len(shares):
            assert all(part == int(part) for part in parts), (total, parts)


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
        rates = [
            f"{getattr(preset(name), kind):g}{'' if name in measured else '*'}" for kind, measured in MEASURED.items()
        ]
        assert f"peft:{name} {' '.join(rates)} " in words
    assert all(set(measured) <= set(mergeable()) for measured in MEASURED.values())
    assert "* an estimate that was never tried" in words
    for name, reason in REFUSED.items():
        assert f"peft:{name} {reason}" in words
    assert len(mergeable()) + len(REFUSED) == len(re.findall(r"^peft:", done.stdout, re.MULTILINE))


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
