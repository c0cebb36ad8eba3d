"""The results on the card: scores with intervals and baseline, each class, and how far probabilities can be trusted."""

from __future__ import annotations

from hf_ft.records import RunRecord
from hf_ft.reports.by_class import class_heading, class_rows, threshold_lines
from hf_ft.reports.calibration import calibration_lines, calibration_table
from hf_ft.reports.model_card.figures import pictures
from hf_ft.reports.model_card.numbers import figure, interval
from hf_ft.reports.tables import escaped, markdown_table, title
from hf_ft.reports.training_summary import duplicates_lines, undefined_lines

PROBABILITY = {
    "ece": "Expected calibration error: by how much the probability of a prediction differs from how often such "
    "predictions are right, on average",
    "brier": "Brier score: the squared error of the probabilities",
    "log_loss": "Log loss: the negative logarithm of the probability of what is true, on average",
}
"""Metrics of probabilities, in the order of the card."""


def scores(record: RunRecord, figures: bool = True) -> str:
    """Return the section of results, with or without its figures."""
    split = list(record.metrics)[-1]
    by_class = record.by_class.get(split)
    parts = [
        markdown_table(*_table(record)),
        _note(record),
        pictures(record, "confusion_matrix") if figures else "",
        f"### {class_heading(by_class, split)}\n\n{markdown_table(*class_rows(by_class))}" if by_class else "",
        _calibration(record, split),
        pictures(record, "reliability", "calibration") if figures else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _table(record: RunRecord) -> tuple[list[str], list[list[str]]]:
    """All metrics of the last split, and the values of those before it."""
    *others, last = record.metrics
    baseline = record.baseline_description.name
    header = ["metric", _heading(record, last), "95 % interval", baseline, *(_heading(record, one) for one in others)]
    rows = []
    for name, score in record.metrics[last].items():
        without = record.baseline[last].get(name)
        row = [title(name), figure(score.value), interval(score), "" if without is None else figure(without)]
        found = (record.metrics[one].get(name) for one in others)
        rows.append([*row, *("" if one is None else figure(one.value) for one in found)])
    return header, rows


def _heading(record: RunRecord, split: str) -> str:
    return f"{split} (n={record.data.sizes[split]:,})"


def _note(record: RunRecord) -> str:
    note = f"{record.baseline_description.note}. ".lstrip()
    note += "Intervals are over examples, 95 %: bootstrap, and exact where nearly all answers are right or wrong."
    note += " Choices such as the best epoch were made on validation, whose scores may be a little too good"
    note += "; the test split took part in none." if "test" in record.metrics else ". There was no test split."
    if record.threshold is not None:
        origin = "set by --threshold" if isinstance(record.settings.get("threshold"), float) else "fitted on validation"
        note += f" A label is predicted from a probability of {record.threshold:.3f}, {origin}."
    more = [*duplicates_lines(record), *undefined_lines(record), *threshold_lines(record)]
    return " ".join([note[:1].upper() + note[1:], *map(escaped, more)])


def _calibration(record: RunRecord, split: str) -> str:
    """What scores say of probabilities; empty for labels without any."""
    found = {name: record.metrics[split][name] for name in PROBABILITY if name in record.metrics[split]}
    if not found:
        return ""
    lines = [f"- {PROBABILITY[name]}: {figure(one.value)} ({interval(one)})" for name, one in found.items()]
    parts = ["### Probabilities", "\n".join(lines)]
    if record.calibration is not None:
        parts += [escaped(" ".join(calibration_lines(record))), markdown_table(*calibration_table(record.calibration))]
    return "\n\n".join(parts)
