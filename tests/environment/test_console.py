"""What is printed: rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ft.environment.console import print_error, print_table, progress
from hf_ft.errors import UserError

HEADER, ROWS = ("method", "accuracy"), [("head", "0.7"), ("last_n:2", "0.81")]
ESCAPE = "\x1b["


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Terminal:
    """A terminal with colours, from now on stdout and stderr (pytest sets its own before each test)."""
    stream = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def plain(text: str) -> str:
    """A text without its escape codes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_table_in_a_pipe_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Padded columns, numbers to the right; or the text that a command has for it."""
    print_table(HEADER, ROWS, right=(1,))
    assert capsys.readouterr().out == (
        "method    accuracy\n--------  --------\nhead           0.7\nlast_n:2      0.81\n"
    )
    print_table(HEADER, ROWS, plain=lambda: "as ever")
    assert capsys.readouterr().out == "as ever\n"


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, with colours; what looks like markup is text."""
    screen = terminal(monkeypatch)
    print_table(HEADER, [*ROWS, ("[red]x", "1")], right=(1,), plain=lambda: "never")
    text = screen.getvalue()
    assert ESCAPE in text
    assert "never" not in text
    for cell in (*HEADER, "last_n:2", "0.81", "[red]x"):
        assert cell in plain(text)


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_a_table_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long cells are wrapped at the width that the terminal has."""
    screen = terminal(monkeypatch, columns)
    print_table(("name", "text"), [("head", "several words " * 20)])
    assert max(map(len, plain(screen.getvalue()).splitlines())) <= columns


def test_a_terminal_too_narrow_for_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and addresses are printed whole: in the plain text of a command, where the table would break them."""
    address = "https://arxiv.org/abs/" + "1" * 20
    for columns, table in ((200, True), (80, True), (54, True), (53, False), (30, False)):
        screen = terminal(monkeypatch, columns)
        print_table(("name", "paper"), [("head", f"several words {address}")], plain=lambda: f"head {address}")
        assert (ESCAPE in screen.getvalue()) == table
        assert address in plain(screen.getvalue())


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is honoured for tables and errors: no code that sets a colour is written."""
    screen = terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(HEADER, ROWS)
    print_error(UserError("No.", hint="Do."))
    assert not re.search(r"\x1b\[[\d;]*3\d", screen.getvalue())
    assert "last_n:2" in screen.getvalue()


ERROR = UserError("Unknown size 'smal'.", option="size", value="smal", choices=("small", "large"), hint="Use --size.")


def test_an_error_in_a_pipe_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole message after `error: `, names that are not valid UTF-8 included."""
    print_error(ERROR)
    assert capsys.readouterr().err == f"error: {ERROR}\n"
    print_error(UserError("No such folder: \udcff."))
    assert capsys.readouterr().err == "error: No such folder: \\udcff.\n"


def test_an_error_on_a_terminal_has_its_hint_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """`error:` in red, and the hint on a line of its own; an error without one is one line."""
    screen = terminal(monkeypatch)
    print_error(ERROR)
    message, hint = screen.getvalue().splitlines()
    assert message.startswith(f"{ESCAPE}1;31merror: ")
    assert plain(message) == "error: Unknown size 'smal'. Did you mean 'small'? Choose from: small, large."
    assert plain(hint) == "hint:  Use --size."
    screen.truncate(0)
    screen.seek(0)
    print_error(UserError("It is [bold]so[/bold]."))
    assert plain(screen.getvalue()) == "error: It is [bold]so[/bold].\n"


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with its title and count on a terminal; nothing into a log file, and nothing when it is not wanted."""
    screen = terminal(monkeypatch)
    with progress("Images", 4, "image") as advance:
        advance(4)
    assert "Images" in plain(screen.getvalue())
    assert "4/4" in plain(screen.getvalue())
    for stream in (screen, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        with progress("Trials", 2) as outer, progress("Features", 3) as advance:
            print("a line")
            advance(3)
            outer(1)
        assert "a line\n" in plain(stream.getvalue()).replace(" ", " ")
        assert ("Features" in stream.getvalue()) == (stream is screen)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress("Images", 4) as advance:
        advance(4)
    assert log.getvalue() == ""
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with progress("Images", 4, shown=False) as advance:
        advance(4)
    assert quiet.getvalue() == ""


def in_a_terminal(words: list[str], folder: Path, **variables: str) -> str:
    """What a command prints when its stdout and stderr are a real terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **variables}
    command = [sys.executable, "-m", "hf_ft", *words]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, cwd=folder, env=environment)
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # on Linux this is how the end of a terminal reads
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    process.wait()
    return b"".join(parts).decode()


def test_commands_on_a_real_terminal(tmp_path: Path) -> None:
    """Tables and errors have colours there, fit its width, and have none with NO_COLOR."""
    listed = in_a_terminal(["methods"], tmp_path)
    assert ESCAPE in listed
    assert "lp_ft" in listed
    assert max(map(len, plain(listed).splitlines())) <= 100
    wrong = in_a_terminal(["trian"], tmp_path)
    assert plain(wrong).startswith("error: Unknown command 'trian'.")
    assert "hint:  See hf-ft --help." in plain(wrong)
    assert not re.search(r"\x1b\[[\d;]*3\d", in_a_terminal(["trian"], tmp_path, NO_COLOR="1"))
