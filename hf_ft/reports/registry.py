"""The registry of reports: which files are rendered from which record.

A module of this room becomes a report by decorating a function; nothing else has to be edited:

    @report(ComparisonRecord, "compare.txt")
    def render(record: ComparisonRecord) -> str:
        return "\\n".join(record.advice)
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_ft.records import Record
from hf_ft.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

R = TypeVar("R", bound=Record)
Render = Callable[[Any], Any]


@dataclass(frozen=True)
class Report:
    """A renderer, the files that it fills, and whether a record has what it shows."""

    record: type[Record]
    files: tuple[str, ...]
    render: Render
    applies: Callable[[Any], bool]

    @property
    def draws(self) -> bool:
        """Whether it renders a figure, not a text; its files say so."""
        return self.files[0].endswith(FIGURES)


FIGURES = (".png", ".svg")
_REPORTS: list[Report] = []


def report(
    record: type[R], *files: str, applies: Callable[[R], bool] | None = None
) -> Callable[[Callable[[R], str | Figure]], Callable[[R], str | Figure]]:
    """Register a function that renders a record to text or to a figure.

    Args:
        record: The record that it renders.
        files: Paths in the output folder. A figure may have several: `.png` and `.svg`.
        applies: Whether a record has what the report shows (default: always).
    """

    def registered(render: Callable[[R], str | Figure]) -> Callable[[R], str | Figure]:
        _REPORTS.append(Report(record, files, render, applies or (lambda _: True)))
        return render

    return registered


def reports_of(record: Record) -> list[Report]:
    """Return the reports that apply to a record, in the order of module and definition."""
    _import_reports()
    found = [one for one in _REPORTS if isinstance(record, one.record) and one.applies(record)]
    return sorted(found, key=lambda one: one.render.__module__)


@cache
def _import_reports() -> None:
    """Import every module beside this one, so that its decorators run."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        importlib.import_module(module.name)


def figure_files(record: Record) -> list[str]:
    """Return the PNG files of the figures that a record has, relative to its folder."""
    return [name for one in reports_of(record) for name in one.files if name.endswith(".png")]


def write_reports(record: Record, folder: Path) -> list[Path]:
    """Render every report of a record into a folder; returns the files of figures."""
    figures = write_figures(record, folder)
    write_texts(record, folder)
    return figures


def write_figures(record: Record, folder: Path) -> list[Path]:
    """Draw every figure of a record into a folder; returns its files."""
    from hf_ft.reports.style import save_figure

    figures: list[Path] = []
    for one in reports_of(record):
        if one.draws:
            figures += save_figure(one.render(record), *(folder / name for name in one.files))
    return figures


def write_texts(record: Record, folder: Path) -> None:
    """Write every report of a record that is a text, such as the model card, into a folder."""
    for one in reports_of(record):
        if not one.draws:
            text = one.render(record)
            for name in one.files:
                write_atomically(folder / name, text)
