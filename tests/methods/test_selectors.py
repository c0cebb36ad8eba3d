"""Selectors: which groups and parameters each chooses, by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hf_ft.errors import UserError
from hf_ft.methods.method_spec import plan_method
from hf_ft.methods.selectors import SELECTORS, choose_parameters
from tests.support.groups import NO_BLOCKS, THREE_BLOCKS, Row

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
    "bitfit@last_n:1": {"block 2", "neck", "head"},
    "norms@last_n:2": {"block 1", "block 2", "neck", "head"},
}


def test_the_table_of_selectors_covers_every_selector() -> None:
    """A new selector must be written into `SELECTED`."""
    assert {selector.split(":")[0].split("@")[0] for selector in SELECTED} == set(SELECTORS)


@pytest.mark.parametrize("selector", SELECTED)
def test_selectors(selector: str) -> None:
    """Which groups each selector chooses."""
    assert set(choose_parameters(selector, THREE_BLOCKS)) == SELECTED[selector]


def test_more_blocks_than_the_model_has() -> None:
    """Says how many there are, and what to write."""
    remedy = "Use last_n:1 to last_n:3, or `full` to train everything."
    with pytest.raises(UserError, match=re.escape(f"last_n:4 asks for more blocks than the model has (3). {remedy}")):
        plan_method("last_n:4", THREE_BLOCKS, 1, 1.0)


def test_unknown_selector_names_the_nearest() -> None:
    """A selector is looked up as everything is."""
    with pytest.raises(UserError, match=r"Unknown selection of depth groups 'haed'\. Did you mean 'head'\?"):
        choose_parameters("haed", THREE_BLOCKS)


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


UNFIT = {
    "first_n:3": r"first_n:3 would freeze all blocks of the model \(it has 3\)\. Use first_n:1 to first_n:2, or `head`",
    "train:block.9": r"train:block\.9 matches no parameter and no module of the model\. Did you mean 'block\.\d'\?",
    "bitfit@last_n:4": r"last_n:4 asks for more blocks than the model has \(3\)",
    "train:*norm*,query": r"train:query matches no parameter",
}


@pytest.mark.parametrize("method", UNFIT)
def test_methods_that_the_model_cannot_take(method: str) -> None:
    """Each says what there is."""
    with pytest.raises(UserError, match=UNFIT[method]):
        plan_method(method, THREE_BLOCKS, 1, 1.0)


def test_selectors_that_cannot_be_limited() -> None:
    """In a stage of a plan only parts of blocks can be limited so; whole blocks have a selector of their own."""
    with pytest.raises(UserError, match=r"Use bitfit@last_n:N, norms@last_n:N\."):
        choose_parameters("all@last_n:1", THREE_BLOCKS)
    with pytest.raises(UserError, match=r"Use bitfit@last_n:N, for example bitfit@last_n:2\."):
        choose_parameters("bitfit@last_n:0", THREE_BLOCKS)


def test_top_blocks_without_what_is_to_train() -> None:
    """Norms in the lower blocks do not help a method that is limited to the upper ones."""
    rows = tuple(replace(row, norms=()) if row.name in ("block 2", "neck") else row for row in THREE_BLOCKS)
    with pytest.raises(UserError, match=r"norms@last_n:1 finds nothing to train below the head\."):
        plan_method("norms@last_n:1", rows, 1, 1.0)
    assert set(choose_parameters("norms@last_n:2", rows)) == {"block 1", "head"}


def test_models_without_biases_or_norms_below_the_head() -> None:
    """Both methods say so instead of training the head alone."""
    bare = tuple(Row(row.name, row.role, (f"{row.name}.weight",), ()) for row in NO_BLOCKS)
    with pytest.raises(UserError, match=r"no biases outside its head"):
        plan_method("bitfit", bare, 1, 1.0)
    with pytest.raises(UserError, match=r"no normalisation layers with parameters outside its head"):
        plan_method("norms", bare, 1, 1.0)
