"""Plans of the user: YAML to stages, every mistake, and stages that a model cannot take."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_ft.errors import UserError
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.methods.stages import Stage, plan_stages
from hf_ft.settings.plan_yaml import read_stages, read_yaml
from tests.support.groups import NO_UNUSED, mode_of, rates

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
    stages = own_stages(f"stages: [{{name: a, {stage}}}]", tmp_path)
    with pytest.raises(UserError, match=UNFIT_STAGES[stage]):
        plan_stages("plan", stages, NO_UNUSED, 1, 1.0)


def test_a_head_that_is_kept_may_stay_frozen(tmp_path: Path) -> None:
    """Only a new head must train in some stage."""
    stages = own_stages(f"stages: [{{name: a, groups: {{{ALL}, head: frozen}}}}]", tmp_path)
    assert len(plan_stages("plan", stages, NO_UNUSED, 1, 1.0, new_head=False).stages) == 1
