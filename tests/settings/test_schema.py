"""The options of all sections: explained, read somewhere, named rightly in messages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hf_ft
from hf_ft import settings as room
from hf_ft.settings.merge import ALIASES
from hf_ft.settings.schema import SECTIONS, config_fields
from hf_ft.settings.training_arguments import training_fields
from hf_ft.tasks.registry import get_task, task_names


def test_every_option_is_explained() -> None:
    """Help for every field, in one section with a title, and choices that hold the default."""
    owners = [(name, section.title) for section in SECTIONS for name in section.own_options()]
    assert sorted(name for name, _ in owners) == sorted(config_fields())
    assert all(title for _, title in owners)
    for name, item in config_fields().items():
        assert len(item.metadata["help"]) > 10, name
        assert item.default in (None, *(item.metadata["choices"] or (item.default,))), name


def test_every_option_is_read_somewhere() -> None:
    """A setting of ours that no module reads would be ignored without a word."""
    package = Path(hf_ft.__file__).parent
    sources = [ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")]
    assert len(sources) > 20
    read = {node.attr for tree in sources for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    read |= {f"{role}_{kind}" for role in ("train", "validation", "test") for kind in ("split",)}
    read |= {f"{role}_column" for task in task_names() for role in get_task(task).inputs}  # by name
    assert set(config_fields()) <= read


def test_public_names_resolve() -> None:
    """Every public name is there and documented, and importing the package imports none of them."""
    assert len(hf_ft.__all__) == len(set(hf_ft.__all__)) >= 20
    for name in hf_ft.__all__:
        assert getattr(hf_ft, name).__doc__
        assert name in dir(hf_ft)


def test_unknown_names_of_the_package() -> None:
    """An attribute that does not exist is an AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="finetun"):
        _ = hf_ft.finetun  # type: ignore[attr-defined]


def test_help_texts_name_real_options() -> None:
    """Every `--option` in a message of the room exists."""
    source = "".join(path.read_text(encoding="utf-8") for path in Path(room.__file__).parent.glob("*.py"))
    named = set(re.findall(r"--([a-z][a-z_0-9]+)", source))
    known = {*config_fields(), *training_fields(), *ALIASES, "config", "help", "help_training"}
    assert len(named) >= 10
    assert named <= known
