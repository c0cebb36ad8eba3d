"""The README says nothing that the code does not: its commands parse, its code runs, its table is the methods'."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import hf_ft
from hf_ft.cli.app import COMMANDS
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.methods.registry import METHODS
from hf_ft.settings.parse import command_line
from hf_ft.settings.schema import normalise

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.S)
COMMAND_LINES = [
    line
    for _, block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("hf-ft ", "python recipes/"))
]


@pytest.mark.parametrize("line", COMMAND_LINES, ids=lambda line: line[:40])
def test_commands_parse(line: str) -> None:
    """Every option of every command in the README exists, and every method named is one."""
    words = shlex.split(line.split("#")[0])
    if words[0] == "hf-ft" and words[1] != "train":
        assert words[1] in COMMANDS
        return
    for source, layer in command_line(words[2:]):
        settings = normalise(layer, source)
        MethodSpec.parse(settings.get("method", "head"))


def test_python_blocks_use_what_exists() -> None:
    """Each block compiles, and what it imports from hf_ft is public."""
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert len(blocks) == 2
    imported = [
        alias.name
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module == "hf_ft"
        for alias in node.names
    ]
    assert imported == ["finetune", "FeatureCache", "depth_groups", "freeze", "param_groups"]
    assert set(imported) <= set(hf_ft.__all__)


def test_method_table_is_that_of_the_code() -> None:
    """One row per method, in order, in its own words."""
    section = README.split("## Methods")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w:]+)` \| (.*?) \| (.*?) \|$", section, flags=re.M)
    assert rows == [(method.spelled, method.trains, method.when) for method in METHODS.values()]


def test_links_and_pictures_exist() -> None:
    """Every relative link points to a file of the repository."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_are_found() -> None:
    """The front page shows training, prediction and evaluation."""
    assert len(COMMAND_LINES) == 11
