"""Stages applied to depth groups: every rate and every share by hand."""

from __future__ import annotations

import pytest

from hf_ft.methods.method_spec import plan_method
from hf_ft.methods.stages import split_epochs
from tests.support.groups import NO_NECK, THREE_BLOCKS, Row, rates


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


@pytest.mark.parametrize(("total", "shares", "parts"), SHARES)
def test_epochs_of_stages_by_hand(total: float, shares: list[float], parts: list[float]) -> None:
    """Whole epochs where there are enough of them, fractions otherwise."""
    assert split_epochs(total, shares) == pytest.approx(parts)


def test_max_steps_are_shared_like_epochs() -> None:
    """Without `max_steps` no stage has a limit; with them the stages' steps add up to what was asked for."""
    assert [stage.max_steps for stage in plan_method("lp_ft", NO_NECK, 10, 1.0).stages] == [-1, -1]
    assert [stage.max_steps for stage in plan_method("lp_ft", NO_NECK, 10, 1.0, max_steps=100).stages] == [30, 70]
    assert [stage.max_steps for stage in plan_method("full", NO_NECK, 10, 1.0, max_steps=7).stages] == [7]
    for steps in range(2, 60):
        plan = plan_method("lp_ft", NO_NECK, 10, 1.0, max_steps=steps)
        assert sum(stage.max_steps for stage in plan.stages) == steps
        assert min(stage.max_steps for stage in plan.stages) >= 1


def test_a_part_is_described_by_its_count() -> None:
    """`inspect` and the table before training say how much of a group trains."""
    stage = plan_method("bitfit", THREE_BLOCKS, 1, 1.0).stages[0]
    words = [setting.describe(group) for group, setting in stage]
    assert words == ["train 2 of 4"] * 5 + ["train", "frozen"]


def test_what_an_applied_stage_answers() -> None:
    """Frozen and trainable groups, the frozen prefix, names of parameters: all from the same pairs."""
    (stage,) = plan_method("last_n:1", THREE_BLOCKS, 1, 1e-3, head_lr_multiplier=10.0).stages
    assert [group.name for group in stage.trainable] == ["block 2", "neck", "head"]
    assert [group.name for group in stage.frozen] == ["stem", "block 0", "block 1", "unused"]
    assert stage.frozen_depth == 3
    assert (stage["head"].rate, stage.highest_rate) == (1e-2, 1e-2)
    assert not stage.adapted
    assert not stage.trains_head_alone
    assert not stage.trains_everything
    every = {name for group in THREE_BLOCKS for name in group.parameters}
    assert {*stage.trained_parameters} == every - stage.frozen_parameters
    head, full = plan_method("lp_ft", THREE_BLOCKS, 10, 1e-3).stages
    assert head.trains_head_alone
    assert full.trains_everything
    assert (head.frozen_depth, full.frozen_depth) == (5, 0)


def test_buffers_are_frozen_unless_their_group_trains_whole() -> None:
    """Running statistics stay where biases alone train."""
    groups = [Row(row.name, row.role, row.parameters, row.norms, (), (f"{row.name}.mean",)) for row in NO_NECK]
    (stage,) = plan_method("bitfit", groups, 1, 1e-3).stages
    assert stage.frozen_tensors - stage.frozen_parameters == {f"{row.name}.mean" for row in NO_NECK[:-1]}


def test_stages_of_a_plan_are_combined_and_compared() -> None:
    """A group is frozen throughout only where no stage trains it; a later stage may train whole what an earlier did."""
    plan = plan_method("lp_ft", THREE_BLOCKS, 10, 1e-3)
    combined = plan.combined("scores", 2)
    assert [group.name for group in combined.frozen] == ["unused"]
    assert (combined.name, combined.epochs, combined.groups) == ("scores", 2, THREE_BLOCKS)
    head, full = plan.stages
    assert full.replaces(head)
    assert not head.replaces(full)
