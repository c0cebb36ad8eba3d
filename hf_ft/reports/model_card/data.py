"""The data on the card: where they are from, how many examples of what, and what is odd about them."""

from __future__ import annotations

from collections.abc import Mapping

from hf_ft.records import RunRecord
from hf_ft.reports.model_card.lead import data_set
from hf_ft.reports.model_card.numbers import figure, percentage
from hf_ft.reports.tables import bullets, code, markdown_table

MOST = 20
"""Most classes in the table; of more, the most and the least frequent."""


def data(record: RunRecord) -> str:
    """Return the section on data."""
    found = record.data
    about = [
        f"Content fingerprint {code(found.fingerprint)}: a hash of all examples and labels that were used",
        *([f"Licence of the data: {found.licence}"] if found.licence else []),
        *([f"Language: {', '.join(found.languages)}"] if found.languages else []),
        *found.notes,
    ]
    parts = [data_set(record) + ".", _balance(record), bullets(about)]
    return "\n\n".join(part for part in parts if part)


def _balance(record: RunRecord) -> str:
    """The number of examples of each class, or the range of numbers, by split."""
    found = record.data
    if found.numbers:
        header = ["split", "examples", "smallest", "mean", "largest", "standard deviation"]
        rows = [
            [name, f"{found.sizes[name]:,}", *map(figure, (one.smallest, one.mean, one.largest, one.deviation))]
            for name, one in found.numbers.items()
        ]
        return markdown_table(header, rows)
    if not found.counts.get("train"):
        return ""
    train = found.counts["train"]
    labels = list(train)
    note = ""
    if len(labels) > MOST:
        ordered = sorted(labels, key=lambda label: -train[label])
        labels = [*ordered[: MOST // 2], *ordered[-MOST // 2 :]]
        note = f"\n\nOf {len(train):,} classes, the {MOST // 2} most and the {MOST // 2} least frequent."
    header = ["class", *(_heading(name, counts) for name, counts in found.counts.items())]
    rows = [[label, *(_cell(counts, label) for counts in found.counts.values())] for label in labels]
    return markdown_table(header, rows) + note


def _heading(split: str, counts: Mapping[str, int]) -> str:
    return f"{split} ({sum(counts.values()):,})"


def _cell(counts: Mapping[str, int], label: str) -> str:
    return f"{counts[label]:,} ({percentage(counts[label], sum(counts.values()))})"
