"""The depth groups of real architectures against what was written down from their sources by hand.

The first tests hold the table itself against the model (names, order, gradients), so that a row that is wrong is told
from wrong depth groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from torch import nn
from transformers import PreTrainedModel

from hf_ft import depth_groups
from hf_ft.models.grouping import DepthGroups
from tests.support.truth_table import TRUTHS, Truth, batch, build

every_truth = pytest.mark.parametrize("truth", TRUTHS, ids=str)


def parameters_of(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """The parameters in the modules, or under the full names, that are given."""
    return {
        name
        for name, _ in model.named_parameters()
        if any(name == given or name.startswith(f"{given}.") for given in names)
    }


@cache
def found(truth: Truth) -> tuple[PreTrainedModel, DepthGroups]:
    """The model of a row and its depth groups, which all tests of the row read."""
    model = build(truth)
    return model, depth_groups(model)


def note_calls(name: str, module: nn.Module, order: list[str]) -> None:
    """Note each time a module runs, also when its `forward` is called directly, which no hook sees."""
    forward = module.forward

    def noted(*args: Any, **kwargs: Any) -> Any:
        order.append(name)
        return forward(*args, **kwargs)

    module.forward = noted


def in_role(groups: DepthGroups, role: str) -> set[str]:
    """The parameters of all groups of a role."""
    return {name for group in groups.of_role(role) for name in group.parameters}


# --- The table ------------------------------------------------------------------------------------------------------


def test_the_table_is_whole() -> None:
    """As many architectures as were read, no two alike, of both kinds of input."""
    assert len(TRUTHS) >= 51
    assert len({str(truth) for truth in TRUTHS}) == len(TRUTHS)
    assert sum("Image" in truth.model for truth in TRUTHS) >= 26


@every_truth
def test_a_row_speaks_of_every_parameter_once(truth: Truth) -> None:
    """Each name in a row is in the model, and each parameter of the model is in one part of the row."""
    model = build(truth)
    names = [*truth.blocks, *truth.head, *truth.stem, *truth.neck, *truth.unused, *truth.between]
    claimed = [parameter for name in names for parameter in parameters_of(model, [name])]
    assert [name for name in names if not parameters_of(model, [name])] == []
    assert sorted(claimed) == sorted(name for name, _ in model.named_parameters())
    assert all(0 < position < len(truth.blocks) for position in truth.between.values())


@every_truth
def test_a_row_agrees_with_a_run(truth: Truth) -> None:
    """The blocks run in the order of the row, and outside them exactly what is unused gets no gradient."""
    model = build(truth)
    order: list[str] = []
    for name in truth.blocks:
        note_calls(name, model.get_submodule(name), order)
    model(**batch(truth)).logits.sum().backward()
    untouched = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert order == list(truth.blocks)
    assert untouched - parameters_of(model, truth.blocks) == parameters_of(model, truth.unused)


# --- The depth groups -----------------------------------------------------------------------------------------------


@every_truth
def test_head(truth: Truth) -> None:
    """The head is what the classifier adds to the base model: no layer of it is missing and none is added."""
    _, groups = found(truth)
    assert in_role(groups, "head") == truth.head


@every_truth
def test_blocks(truth: Truth) -> None:
    """As many blocks as the source runs, in its order, each with the whole of its module."""
    model, groups = found(truth)
    blocks = groups.of_role("block")
    assert len(blocks) == len(truth.blocks)
    for name, group in zip(truth.blocks, blocks, strict=True):
        # A stage of one block is named by the stage, the topmost module that lies wholly in the group.
        assert [module for module in group.modules if f"{name}.".startswith(f"{module}.")] != [], (name, group.modules)
        assert parameters_of(model, [name]) <= set(group.parameters)


@every_truth
def test_what_lies_between_blocks_belongs_to_a_neighbour(truth: Truth) -> None:
    """A downsampling layer, a norm or embeddings between two blocks are in one of them, and blocks hold no more."""
    model, groups = found(truth)
    blocks = groups.of_role("block")
    assert len(blocks) == len(truth.blocks)
    for name, position in truth.between.items():
        neighbours = {parameter for group in blocks[position - 1 : position + 1] for parameter in group.parameters}
        assert parameters_of(model, [name]) <= neighbours
    assert in_role(groups, "block") == parameters_of(model, [*truth.blocks, *truth.between])


@every_truth
def test_stem_neck_and_unused(truth: Truth) -> None:
    """What runs before the first block, what runs after the last, and what never runs."""
    model, groups = found(truth)
    parts = {"stem": truth.stem, "neck": truth.neck, "unused": truth.unused}
    assert {role: in_role(groups, role) for role in parts} == {
        role: parameters_of(model, names) for role, names in parts.items()
    }


@every_truth
def test_everything_is_in_one_group(truth: Truth) -> None:
    """Each parameter and each buffer is in exactly one group."""
    model, groups = found(truth)
    assert sorted(name for group in groups for name in group.parameters) == sorted(dict(model.named_parameters()))
    assert sorted(name for group in groups for name in group.buffers) == sorted(dict(model.named_buffers()))
