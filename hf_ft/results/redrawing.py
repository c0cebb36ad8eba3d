"""Figures and card of a finished run, made again from its record; what people wrote into the card stays."""

from __future__ import annotations

from pathlib import Path

from hf_ft.records import RunRecord, drawing, read_finished
from hf_ft.reports import CardError, cards, merged, write_figures
from hf_ft.storage import output_folder, write_atomically


def redraw_run(folder: Path) -> list[str]:
    """Write figures and cards of a finished run again; returns lines that say what was written and what was kept.

    Raises:
        UserError: There is no finished run, or its record is damaged.
    """
    record = read_finished(folder, RunRecord)
    with output_folder.locked_if_ours(folder, record.KIND), drawing(folder, RunRecord):
        with output_folder.staging(folder) as new:
            figures = write_figures(record, new)
        lines = [str(folder / path.relative_to(new)) for path in figures]
        return [*lines, *(_write_card(folder, name, text) for name, text in cards(record).items())]


def _write_card(folder: Path, name: str, fresh: str) -> str:
    """Write a card; one that was edited counts as the user's afterwards too, so that nothing removes it."""
    path = folder / name
    if not path.exists():
        output_folder.write(folder, name, fresh)
        return str(path)
    try:
        page = merged(path.read_text(encoding="utf-8"), fresh)
    except CardError as error:
        return f"{path} was left as it is: {error}. Remove it, and it is made anew."
    write_atomically(path, page.text)
    if page.edited:
        return f"{path}, but for what you edited: {', '.join(name or 'the top' for name in page.edited)}"
    output_folder.record_files(folder, [path])
    return str(path)
