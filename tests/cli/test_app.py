"""The command line as a whole: every command is found, documented by an example that works, and answers at once."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hf_ft.cli
from hf_ft.cli.app import COMMANDS, GROUPS, main, module_of
from hf_ft.errors import UserError
from hf_ft.settings.argument_parser import Parser

SHARED = {"__init__", "app", "autotune_option", "redraw", "result_argument", "tta_option", "wrapping"}
"""Modules of the package that are no command."""


def help_of(command: str | None, capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` prints."""
    capsys.readouterr()
    assert main([command, "--help"] if command else ["--help"]) == 0
    return capsys.readouterr().out


def test_every_module_is_a_command() -> None:
    """One file per command, each in one group of the overview."""
    folder = Path(hf_ft.cli.__file__).parent
    assert sorted(COMMANDS) == sorted({path.stem for path in folder.glob("*.py")} - SHARED)
    assert len(COMMANDS) == len(set(COMMANDS))


def test_the_overview_lists_commands_by_use(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command with its summary below the title of its group, in 80 columns; no words print the same."""
    text = help_of(None, capsys)
    places = [text.index(f"{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for names in GROUPS.values():
        for name in names:
            summary = (module_of(name).__doc__ or "").splitlines()[0].rstrip(".")
            assert " ".join(f"{name} {summary}".split()) in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert main([]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The example stands before the options, in 80 columns, and a parser takes every option of it."""
    text = help_of(command, capsys)
    example = module_of(command).EXAMPLE
    assert example.replace("\n", "\n  ") in text
    assert text.index(example.splitlines()[0]) < text.index("usage: ") < text.index("options:")
    assert max(map(len, text.splitlines())) <= 80
    for line in example.replace("\\\n", "").splitlines():
        words = shlex.split(line)
        assert words[:2] == ["hf-ft", command]
        parser = Parser(command)
        module_of(command).add_arguments(parser)
        _, rest = parser.parse_known_args(words[2:])
        parser.refuse(rest)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["push", "out", "--repo-idd", "me/x"], "repo_id"),
        (["inspect", "builtin", "--methd", "head"], "method"),
        (["predict", "out", "text", "--outptu", "x.csv"], "output"),
        (["rank", "builtin", "--confrim", "2"], "confirm"),
        (["train", "--lerning_rate", "1"], "learning_rate"),
        (["trian"], "train"),
    ],
)
def test_misspelt_words_name_the_nearest(words: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line on stderr, for commands and options alike; nothing on stdout."""
    if words[0] == "push":  # so that the misspelt option is what is wrong
        words = [*words, "--repo_id", "me/x"]
    capsys.readouterr()
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert re.search(rf"Did you mean '(--)?{near}'\?", printed.err)


def test_words_that_belong_to_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    """A word too many is refused, before anything is read."""
    assert main(["evaluate", "out", "--dataset", "d", "more"]) == 2
    assert "'more'" in capsys.readouterr().err


def test_defaults_are_shown() -> None:
    """A default is part of the help text, unless there is none to tell."""
    parser = Parser("prog")
    parser.add_argument("--size", type=int, default=32, help="examples per batch")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.add_argument("--name", help="name (default: the folder's)")
    text = parser.format_help()
    assert "examples per batch (default: 32)" in text
    assert text.count("default") == 2


def test_the_options_of_a_command_are_added_once_it_is_used() -> None:
    """Neither another command nor the overview builds them; a second call does not add them twice."""
    added: list[Parser] = []
    parser = Parser("prog", add=added.append)
    assert added == []
    parser.parse_known_args([])
    parser.parse_known_args([])
    assert added == [parser]


def test_paragraphs_of_a_description_are_filled_and_commands_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """However wide the terminal, help has at most 79 columns; an indented paragraph keeps its lines."""
    monkeypatch.setenv("COLUMNS", "200")
    words = "several words " * 10
    text = Parser("prog", f"{words}\n\n    python a.py \\\n        --b").format_help()
    assert "    python a.py \\\n        --b\n" in text
    assert 60 < max(map(len, text.splitlines())) <= 79
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, Parser("prog", words).format_help().splitlines())) <= 40


def test_an_unset_shell_variable_is_refused() -> None:
    """An empty value would mean the default, or the current folder."""
    parser = Parser("prog")
    parser.add_argument("--name")
    with pytest.raises(UserError, match="--name is empty"):
        parser.parse_known_args(["--name", ""])


def test_commands_answer_without_heavy_imports() -> None:
    """In a fresh process per command: help imports neither torch nor rich."""
    for command in ("--help", *COMMANDS):
        words = [command] if command == "--help" else [command, "--help"]
        script = f"import sys; from hf_ft.cli import main; main({words!r}); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert not {"torch", "transformers", "rich", "numpy"} & set(done.stderr.split()), command
        assert not re.search(r"\x1b", done.stdout)


def test_text_on_a_terminal_is_that_of_a_pipe_for_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON is for programs: it has no colours on a terminal either."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert main(["models", "--json"]) == 0
    plain, screen = capsys.readouterr().out, Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["models", "--json"]) == 0
    assert screen.getvalue() == plain
