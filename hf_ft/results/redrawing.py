"""Figures and card of a finished run, made again from its record; what people wrote into the card stays."""

from __future__ import annotations

from pathlib import Path

from hf_ft.records import RunRecord, drawing, read_finished
from hf_ft.reports import CardError, card_of, remade_card, write_figures
from hf_ft.storage import output_folder, write_atomically

CARD = "README.md"


def redraw_run(folder: Path) -> list[str]:
    """Write figures and card of a finished run again; returns lines that say what was written and what was kept.

    Raises:
        UserError: There is no finished run, or its record is damaged.
    """
    record = read_finished(folder, RunRecord)
    with output_folder.locked_if_ours(folder, record.KIND), drawing(folder, RunRecord):
        with output_folder.staging(folder) as new:
            figures = write_figures(record, new)
        return [*(str(folder / path.relative_to(new)) for path in figures), *_write_card(record, folder / CARD)]


def _write_card(record: RunRecord, path: Path) -> list[str]:
    """Write the card; one that was edited counts as the user's afterwards too, so that nothing removes it."""
    if not path.exists():
        output_folder.write(path.parent, CARD, card_of(record))
        return [str(path)]
    try:
        text, edited = remade_card(record, path.read_text(encoding="utf-8"))
    except CardError as error:
        return [f"{path} was left as it is: {error}. Remove it, and it is made anew."]
    write_atomically(path, text)
    if edited:
        named = ", ".join(name or "what is above the first heading" for name in edited)
        return [f"{path}, but for what was edited: {named}"]
    output_folder.record_files(path.parent, [path])
    return [str(path)]
