"""Names of repositories that say their revision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_ft.errors import UserError
from hf_ft.settings.revisions import split_revisions

NAMES = {
    "me/base@v1": {"model": "me/base", "model_revision": "v1"},
    "base@feature/x": {"model": "base", "model_revision": "feature/x"},
    "me/base": {"model": "me/base"},
    "builtin:minilm": {"model": "builtin:minilm"},
    "./folder@v1": {"model": "./folder@v1"},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_revision_of_a_model(name: str) -> None:
    assert split_revisions({"model": name}) == NAMES[name]


def test_the_revision_of_a_data_set_stands_before_its_configuration() -> None:
    found = split_revisions({"dataset": "me/data@v1:large", "task": "text_classification"})
    assert found == {"dataset": "me/data:large", "dataset_revision": "v1", "task": "text_classification"}
    assert split_revisions({"dataset": "me/data:a@b"}) == {"dataset": "me/data:a@b"}


def test_a_folder_with_that_sign_in_its_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data@home").mkdir()
    assert split_revisions({"dataset": "data@home"}) == {"dataset": "data@home"}


def test_the_same_revision_twice_is_no_contradiction() -> None:
    found = split_revisions({"model": "me/base@v1", "model_revision": "v1"})
    assert found == {"model": "me/base", "model_revision": "v1"}


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"model": "me/base@v1", "model_revision": "v2"}, "model_revision"),
        ({"dataset": "me/data@v1", "dataset_revision": "v2"}, "dataset_revision"),
        ({"model": "me/base@"}, "model"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError) as caught:
        split_revisions(settings)
    assert caught.value.option == option
