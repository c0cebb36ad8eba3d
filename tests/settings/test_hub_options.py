"""`--push_to_hub` and the options beside it: each has an effect, or is refused before anything is imported."""

from __future__ import annotations

from typing import Any

import pytest

from hf_ft.errors import UserError
from hf_ft.settings.hub_options import HUB_OPTIONS, check_hub_options
from hf_ft.settings.training_arguments import training_fields

REFUSED: dict[str, tuple[dict[str, Any], bool, str]] = {
    "name without the switch": ({"hub_model_id": "me/x"}, True, "hub_model_id"),
    "token without the switch": ({"hub_token": "secret"}, True, "hub_token"),
    "checkpoints": ({"push_to_hub": True, "hub_strategy": "checkpoint"}, True, "hub_strategy"),
    "every save": ({"push_to_hub": True, "hub_strategy": "every_save"}, True, "hub_strategy"),
    "always": ({"push_to_hub": True, "hub_always_push": True}, True, "hub_always_push"),
    "trials": ({"push_to_hub": True}, False, "push_to_hub"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_ignored_is_refused(what: str) -> None:
    """The error names the option, and a token is in none."""
    training, has_result, option = REFUSED[what]
    with pytest.raises(UserError) as caught:
        check_hub_options(training, {*training}, has_result)
    assert caught.value.option == option
    assert "secret" not in f"{caught.value} {caught.value.value}"


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"push_to_hub": True},
        {"push_to_hub": True, "hub_model_id": "me/x", "hub_private_repo": False, "hub_revision": "b", "hub_token": "t"},
        {"push_to_hub": True, "hub_strategy": "end", "hub_always_push": False},
        {"push_to_hub": False, "hub_model_id": "me/x", "hub_token": "t"},
        {"hub_private_repo": True, "report_to": "trackio"},
    ],
)
def test_what_has_an_effect_is_taken(training: dict[str, Any]) -> None:
    """Options for later beside a switch that is off, too, as in a file with a switch on the command line."""
    check_hub_options(training, {*training}, has_result=True)


def test_no_option_is_forgotten() -> None:
    """Every `hub_*` option that `TrainingArguments` has is one of them."""
    assert {name for name in training_fields() if name.startswith("hub_")} == {*HUB_OPTIONS}
