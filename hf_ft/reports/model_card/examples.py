"""Examples with their predictions, and the worst mistakes, where the user allowed them to be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_ft.records import ExampleRecord, RunRecord
from hf_ft.reports.tables import code, counted, markdown_table


def examples(record: RunRecord) -> str:
    """Return the section of examples; empty unless `--card_examples` asked for it."""
    found = record.examples
    if found is None or not found.sample:
        return ""
    size = record.data.sizes[found.split]
    parts = [f"Of {found.split}, drawn at random:\n\n{_table(found.sample)}"]
    if found.mistakes:
        of = f"all {size:,}"
        if found.wrong is not None:
            of = f"{counted(found.wrong, 'mistake')} among {size:,} examples"
        parts.append(
            f"### Worst mistakes\n\nThe predictions that are furthest off, of {of}:\n\n{_table(found.mistakes)}"
        )
    return "\n\n".join(parts)


LIVE = re.compile(r"://|www\.|@\w|\$\$|\\\\[(\[]")
"""What pages make links, mentions and formulas of, even in the middle of a text."""


def _text(text: str) -> str:
    """A text from the data; as code where a page would make more of it."""
    return code(text) if LIVE.search(text) else text


def _table(shown: Sequence[ExampleRecord]) -> str:
    sure = any(one.probability is not None for one in shown)
    header = ["input", "true", "predicted", *(["probability"] if sure else [])]
    rows = [
        [
            _text(one.input),
            _text(one.true),
            _text(one.predicted),
            *([f"{one.probability:.2f}"] if one.probability is not None else []),
        ]
        for one in shown
    ]
    return markdown_table(header, rows, texts=3)
