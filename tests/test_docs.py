"""README and docs pages say nothing that the code does not: commands parse, Python runs, tables are the code's."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_ft.cli.app import COMMANDS, main, module_of
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.methods.registry import METHODS
from hf_ft.settings.argument_parser import Parser
from hf_ft.settings.merge import normalise
from hf_ft.settings.parse import add_settings, settings_layers
from hf_ft.settings.plan_yaml import read_stages
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import training_fields
from hf_ft.tasks.registry import get_task, task_names
from tests.support.structure import page_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST_README = 200


OF_OTHERS = {"--mixed_precision", "--nproc_per_node", "--strict", "--page", "--port", "--sample"}
"""Options of `accelerate launch`, `torchrun`, `mypy`, and the programs of tests and benchmarks that the pages name."""

BASES = (ROOT, ROOT / "hf_ft")
CODE = {path.name for base in BASES for path in base.iterdir() if path.is_dir()} - {"figures"}
"""Folders of the repository and rooms of the package: what a page calls so is a path in them."""


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: Path
    language: str
    text: str

    def commands(self) -> list[str]:
        """The command lines in it, continued lines joined."""
        starts = ("hf-ft ", "python ", "make ", "$ hf-ft ")
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.removeprefix("$ ").split(" #")[0] for line in lines if line.startswith(starts)]


BLOCKS = [
    Block(page, language, text)
    for page in PAGES
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)
]
COMMAND_LINES = [(block.page, line) for block in BLOCKS for line in block.commands()]


def parsed(program: str, words: list[str]) -> dict[str, Any]:
    """What a command or a script finds in its words; an option that it does not have is an error."""
    parser = Parser(program)
    if program in COMMANDS:
        module_of(program).add_arguments(parser)
    else:
        add_settings(parser)
    options, rest = parser.parse_known_args(words)
    parser.refuse(rest)
    return vars(options)


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=lambda value: str(value)[-60:])
def test_commands_parse(page: Path, line: str) -> None:
    """Every option of every command exists, every method named is one, every script and target is there."""
    program, *words = shlex.split(line)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)
        return
    command = words.pop(0)
    if program == "python":
        command = f"{words.pop(0).replace('.', '/')}/__main__.py" if command == "-m" else command
        assert (ROOT / command).is_file()
        if command.startswith(("benchmarks/", "tests/")):  # scripts with options of their own
            source = (ROOT / command).read_text(encoding="utf-8")
            known = {*config_fields(), *training_fields()}
            options = [word.removeprefix("--") for word in words if word.startswith("--")]
            assert [name for name in options if name not in known and name not in source] == []
            return
        command = "push" if command == "push_to_hub.py" else command
    assert program == "python" or command in COMMANDS
    found = parsed(command, words)
    if command in ("train", "compare", "depth") or program == "python":
        for source, layer in settings_layers(found):
            own = {name: value for name, value in layer.items() if name in {*config_fields(), *training_fields()}}
            if command != "compare" and command != "push":
                MethodSpec.parse(normalise(own, source).get("method", "head"))


def test_options_in_the_text_exist() -> None:
    """Every `--option` that a page names is one of some command."""
    parser = Parser("all")
    add_settings(parser)
    known = {name for action in parser._actions for name in action.option_strings}
    for command in COMMANDS:
        own = Parser(command)
        module_of(command).add_arguments(own)
        known |= {name for action in own._actions for name in action.option_strings}
    known |= OF_OTHERS
    named = {
        (page.name, option) for page in PAGES for option in re.findall(r"(?<![\w-])--[a-z]\w+", page.read_text("utf-8"))
    }
    assert len(named) >= 50
    assert sorted((page, option) for page, option in named if option not in known) == []


# --- Code that runs -------------------------------------------------------------------------------------------------


def test_python_of_the_readme_runs(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block as it stands, with a tiny model and local data where it names those of the Hub."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    blocks = [block for block in BLOCKS if block.language == "python" and block.page == README]
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    table = next(Path(text_data).glob("train*"))
    rows = load_dataset("csv", data_files=str(table), split="train").select(range(8))
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    encoded = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=16)).remove_columns("text")
    labels = sorted(set(encoded["label"]))
    encoded = encoded.map(lambda row: {"labels": labels.index(row["label"])}).remove_columns("label")
    world = {
        "torch": torch,
        "Trainer": Trainer,
        "model": AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=len(labels)),
        "tokenizer": tokenizer,
        "rows": encoded,
        "args": TrainingArguments("trained", max_steps=1, report_to="none", use_cpu=True),
    }
    stand_ins = {"FacebookAI/roberta-base": text_model, "reviews.csv": str(table), "last_n:4": "last_n:1"}
    for block in blocks:
        code = block.text
        for name, stand_in in stand_ins.items():
            code = code.replace(name, stand_in)
        exec(compile(code, str(block.page), "exec"), world)
    assert (tmp_path / "reviews" / "model.safetensors").is_file()
    assert (tmp_path / "mine" / "model.safetensors").is_file()


def test_python_of_extending_runs(
    minilm: str, image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block as it stands, one after the other, with a tiny model and images where it names those of the Hub."""
    blocks = [block for block in BLOCKS if block.language == "python" and block.page.name == "extending.md"]
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    stand_ins = {"microsoft/resnet-18": image_model, "sentence-transformers/all-MiniLM-L6-v2": minilm}
    stand_ins |= {"photos/": image_data, "output_dir=": "max_steps=2, load_back_proof=False, output_dir="}
    world: dict[str, Any] = {}
    for block in blocks:
        code = block.text
        for name, stand_in in stand_ins.items():
            code = code.replace(name, stand_in)
        exec(compile(code, str(block.page), "exec"), world)
    assert {path.parent.name for path in tmp_path.glob("*/model.safetensors")} >= {"reviews", "mixup", "average"}
    assert "Mixup" in (tmp_path / "mixup/README.md").read_text(encoding="utf-8")


def test_python_of_other_pages_compiles() -> None:
    """Blocks of pages are Python."""
    for block in BLOCKS:
        if block.language == "python":
            compile(block.text, str(block.page), "exec")


def test_plans_are_plans() -> None:
    """Every YAML block is a list of stages that is accepted, and all keys of stages are explained beside it."""
    blocks = [block for block in BLOCKS if block.language == "yaml"]
    assert blocks
    for block in blocks:
        assert read_stages(yaml.safe_load(block.text), "text")


def test_inspect_prints_what_the_page_shows(minilm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the example is printed, in its order; `...` stands for lines between."""
    blocks = [block for block in BLOCKS if block.text.startswith("$ hf-ft inspect")]
    assert blocks
    for block in blocks:
        command, *shown = block.text.splitlines()
        words = shlex.split(command.removeprefix("$ hf-ft "))
        words[1] = minilm
        assert main(words) == 0
        printed = iter(capsys.readouterr().out.splitlines())
        for line in shown:
            assert line == "..." or line in printed, line


# --- Tables and links -----------------------------------------------------------------------------------------------


def rows_of(title: str) -> list[tuple[str, ...]]:
    """The rows of the table below a heading of the README."""
    section = README.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    return [tuple(cells) for cells in re.findall(r"^\| `([\w:]+)` \| (.*?) \| (.*?) \|(?: .*\|)?$", section, re.M)]


def test_tables_of_the_readme_are_those_of_the_code() -> None:
    """One row per method in its own words and order; one per task with its model class."""
    assert rows_of("Methods") == [(method.spelled, method.trains, method.when) for method in METHODS.values()]
    assert {row[0] for row in rows_of("Tasks")} == set(task_names())
    text = README.read_text(encoding="utf-8")
    for name in task_names():
        assert re.search(rf"^\| `{name}` \|.*\| `{get_task(name).auto_class}` \|$", text, re.MULTILINE)


def test_the_table_of_rooms_is_that_of_the_code() -> None:
    """docs/design.md shows what `python tests/support/structure.py --page` prints."""
    shown = re.findall(
        r"^\| \d+ \| `\w+` \| .*\|$", (ROOT / "docs/design.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert "\n".join(shown) == page_table()


def test_links_pictures_and_headings_exist() -> None:
    """Every relative link points to a file of the repository, and to a heading in it if it names one."""
    links = [
        (page, *link.partition("#")[::2])
        for page in [*PAGES, ROOT / "benchmarks/README.md"]
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) >= 30
    for page, target, heading in links:
        file = page if not target else page.parent / target
        assert file.exists(), (page.name, target)
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_files_in_the_text_exist() -> None:
    """Every file or folder of the repository that a page names in code exists; `<name>` is any name."""
    named = {
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"`((?:[\w.]+/)+(?:[\w.]+\.(?:py|csv|md|jinja))?)`", page.read_text(encoding="utf-8"))
    }
    code = {(page, path) for page, path in named if path.split("/")[0] in CODE}
    assert len(code) >= 15
    assert sorted((page, path) for page, path in code if not any((base / path).exists() for base in BASES)) == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    """It fits a few screens, and each page of docs/ is linked from it."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_README
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in text] == []
