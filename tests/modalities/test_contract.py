"""The contract of every modality, and that only they know what kind of input a task has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ft.modalities.base import Modality, get_modality
from hf_ft.settings.schema import config_fields
from hf_ft.tasks.registry import get_task, modalities, task_names
from tests.support.structure import PACKAGE, modules, room_of

ALL = {modality.name: modality for modality in modalities()}


def test_every_task_has_a_modality() -> None:
    """Each is the value of the module of its name, and knows the roles of its tasks' inputs."""
    assert {"image", "text"} <= set(ALL)
    for name in task_names():
        task = get_task(name)
        assert task.modality is get_modality(task.modality.name) is ALL[task.modality.name]
        assert set(task.inputs) <= set(task.modality.columns)


@pytest.mark.parametrize("modality", ALL.values(), ids=list(ALL))
def test_modality_is_whole(modality: Modality) -> None:
    """Its options and columns exist, and its files are a role with extensions in lower case."""
    assert set(modality.options) <= set(config_fields())
    assert {f"{role}_column" for role in modality.columns} <= set(config_fields())
    assert modality.method_defaults in ("image", "text")
    assert all((modality.plural, modality.unit, modality.example))
    if modality.files is not None:
        assert modality.files.role in modality.columns
        assert modality.files.extensions
        assert all(re.fullmatch(r"\.[a-z0-9]+", extension) for extension in modality.files.extensions)
        assert isinstance(modality.files.check({"bytes": b"neither", "path": None}), str)
        assert modality.files.check(None) == "missing"


def test_modalities_are_light() -> None:
    """All of them are imported without torch, so that mistakes in options are answered at once."""
    code = "import sys; from hf_ft.tasks.registry import modalities; modalities(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "hf_ft.modalities.image" in loaded
    assert {"torch", "transformers", "datasets", "PIL", "pandas"} & set(loaded) == set()


QUESTION = re.compile(
    r"modality(\.name)? *[!=]= *[\"']|is_image|[\"']pixel_values[\"'] (not )?in|[\"']input_ids[\"'] (not )?in"
)


def test_the_question_is_seen() -> None:
    """The pattern finds the ways in which code asks what kind of input it has."""
    asking = ('if task.modality == "image":', "modality.name != 'text'", '"input_ids" in batch', "is_image(rows)")
    assert all(map(QUESTION.search, asking))


def test_nobody_else_asks_what_kind_of_input_there_is() -> None:
    """Outside of modalities no code compares a modality or looks for the inputs of one."""
    found: dict[str, list[str]] = {}
    for module, path in modules(PACKAGE).items():
        if room_of(module) != "modalities":
            found[module] = [line for line in Path(path).read_text("utf-8").splitlines() if QUESTION.search(line)]
    assert len(found) > 80
    assert {module: lines for module, lines in found.items() if lines} == {}
