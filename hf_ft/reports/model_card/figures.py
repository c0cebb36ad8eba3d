"""The pictures on the card, each in the section that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hf_ft.records import RunRecord
from hf_ft.reports.registry import figure_files

ALTERNATIVE = {
    "confusion_matrix": "Confusion matrix: how often each true class (row) was predicted as each class (column)",
    "learning_curves": "Learning curves: loss and score over the epochs of training",
    "penalties": "Score on validation for each penalty of the solved head",
    "reliability": "Reliability: how often predictions of a probability are right",
}
"""Name of a picture -> what it shows, for those who cannot see it."""


def pictures(record: RunRecord, *names: str) -> str:
    """Return the pictures whose name begins with one of `names`."""
    return _shown(file for file in figure_files(record) if Path(file).stem.startswith(names))


def other_pictures(record: RunRecord, *names: str) -> str:
    """Return the pictures whose name begins with none of `names`."""
    return _shown(file for file in figure_files(record) if not Path(file).stem.startswith(names))


def _shown(files: Iterable[str]) -> str:
    stems = {file: Path(file).stem for file in files}
    found = (f"![{ALTERNATIVE.get(stem, stem.replace('_', ' '))}]({file})" for file, stem in stems.items())
    return "\n\n".join(found)
