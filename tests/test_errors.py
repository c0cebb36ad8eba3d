"""User errors: their fields, the one line that they make, and the lookup of names."""

from __future__ import annotations

import copy
import pickle

import pytest

from hf_ft.errors import LISTED, UserError, choose, nearest, unknown


def test_the_message_is_composed_from_the_fields() -> None:
    """Problem, nearest choice, all choices, fix: this order, and nothing for what is empty."""
    error = UserError("Unknown size 'hug'.", option="size", value="hug", choices=["small", "huge"], hint="See --help.")
    assert str(error) == "Unknown size 'hug'. Did you mean 'huge'? Choose from: small, huge. See --help."
    assert (error.option, error.value, error.choices, error.hint) == ("size", "hug", ("small", "huge"), "See --help.")
    assert error.nearest == "huge"
    plain = UserError("The disk is full.")
    assert str(plain) == plain.problem == "The disk is full."
    assert (plain.option, plain.value, plain.choices, plain.hint, plain.nearest) == (None, None, (), "", None)


def test_long_lists_are_shortened_in_the_message_only() -> None:
    """The closest few are shown, or the first few where nothing is close; the field has them all."""
    names = [f"layer_{i}" for i in range(LISTED + 1)]
    near, far = unknown("layer_13x", names, "layer"), unknown("%", names, "layer")
    assert near.choices == far.choices == tuple(names)
    assert f"Choose from {LISTED + 1}, such as layer_13" in str(near)
    assert str(far).endswith(f"Choose from {LISTED + 1}, such as layer_0, layer_1, layer_2, layer_3, layer_4.")
    assert f"Choose from: {', '.join(names[1:])}." in str(unknown("%", names[1:], "layer"))


def test_choose_returns_a_known_name_and_refuses_others() -> None:
    """The error carries what the caller said of the option."""
    assert choose("b", iter("ab"), "letter") == "b"
    with pytest.raises(UserError) as caught:
        choose("c", "ab", "letter", "Any will do.", option="letter")
    error = caught.value
    assert (error.option, error.value, error.choices, error.hint) == ("letter", "c", ("a", "b"), "Any will do.")


def test_errors_survive_copies_and_pickles() -> None:
    """A worker process hands its error over whole."""
    error = unknown("c", "ab", "letter", "Any will do.", option="letter")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(twin), vars(twin)) == (str(error), vars(error))


def test_nearest_looks_past_case_and_dashes() -> None:
    """The name is returned as it is spelt among the choices; nothing is guessed from far away."""
    assert nearest("LP-FT", ["full", "lp_ft"]) == "lp_ft"
    assert nearest("qqq", ["full", "lp_ft"]) is None
