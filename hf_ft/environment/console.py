"""Output: tables, errors and progress by rich on a terminal, plain text everywhere else.

Log files and pipes get lines of plain text without escape codes or bars. rich is imported when something is printed to
a terminal, and honours NO_COLOR, TERM and the width of the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import TrainingArguments

    from hf_ft.errors import UserError


SEPARATION = 4
"""Columns of the terminal that stand between two columns of a table."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody reads a stream on a terminal; `None` is a stream of a process without one."""
    return stream is not None and stream.isatty()


def progress_shown() -> bool:
    """Whether progress bars are shown: on a terminal and in a notebook, but not into a log file."""
    return is_terminal(sys.stderr) or in_notebook()


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    return "ipykernel" in sys.modules


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=False)


def _printable(text: str) -> str:
    """A text without surrogates: names of files that are not valid UTF-8 can be printed as well."""
    return text.encode("utf-8", "backslashreplace").decode()


def print_on_main(line: str, args: TrainingArguments) -> None:
    """Print a line on the main process only, above a progress bar that is shown."""
    from tqdm.auto import tqdm

    if args.should_save:
        tqdm.write(line)


def print_error(error: UserError) -> None:
    """Print a user error to stderr: one plain line, or in colour with the hint on a line of its own on a terminal."""
    if not is_terminal(sys.stderr):
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return
    from rich.text import Text

    message, hint = _printable(str(error)), _printable(error.hint)
    if hint and message.endswith(hint):
        message = message.removesuffix(hint).rstrip()
    console = _console(sys.stderr)
    console.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        console.print(Text.assemble(("hint:  ", "bold cyan"), hint))


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    plain: Callable[[], str] | None = None,
) -> None:
    """Print a table to stdout.

    Args:
        right: Columns that are aligned to the right, such as numbers.
        plain: The text printed where stdout is no terminal, or one too narrow for the longest word of each column
            (default: the columns, padded with blanks; on a narrow terminal words are broken).
    """
    if not is_terminal(sys.stdout):
        print(plain() if plain is not None else _plain_table(header, rows, right))
        return
    console = _console(sys.stdout)
    widths = _widths([list(cells) for cells in zip(header, *rows, strict=True)], console.width)
    if plain is not None and widths is None:
        print(plain())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(
            title,
            justify="right" if i in right else "left",
            style="" if i else "cyan",
            overflow="fold",
            width=widths[i] if widths else None,
        )
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console.print(table)


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Widths at which no word is broken, wider where there is room; None where words alone are too wide."""
    words = [max(len(word) for cell in cells for word in cell.split() or [""]) for cells in columns]
    lines = [max(len(line) for cell in cells for line in cell.splitlines() or [""]) for cells in columns]
    missing = [line - word for line, word in zip(lines, words, strict=True)]
    spare = width - sum(words) - SEPARATION * len(columns)
    if spare < 0:
        return None
    share = min(1.0, spare / max(1, sum(missing)))
    return [word + int(share * more) for word, more in zip(words, missing, strict=True)]


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(f"{cell:>{width}}" if i in right else f"{cell:{width}}" for i, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in (header, ["-" * width for width in widths], *rows))
    ]
    return "\n".join(line.rstrip() for line in lines)


@contextmanager
def progress(description: str, total: int, unit: str = "", shown: bool = True) -> Iterator[Callable[[int], Any]]:
    """Show a progress bar on stderr for as long as the context lasts; yields `advance(n)`.

    Lines printed meanwhile appear above the bar, and bars may be nested. Nothing is written to log files, or when
    `shown` is false.
    """
    if not shown or not progress_shown():
        yield lambda n: None
    elif not is_terminal(sys.stderr):  # in a notebook, where rich needs a widget that may not be installed
        from tqdm.auto import tqdm

        with tqdm(desc=description, total=total, unit=unit or "it", leave=False) as bar:
            yield bar.update
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(
            *columns,
            TimeRemainingColumn(),
            console=_console(sys.stderr),
            redirect_stdout=is_terminal(sys.stdout),  # or rich would print lines for a pipe to stderr
            transient=True,
        ) as bars:
            task = bars.add_task(description, total=total)
            yield lambda n: bars.advance(task, n)
