"""A calibration: what it did and how well probabilities fit before and after, as sentences, a table and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.records import CalibrationRecord, RunRecord
from hf_ft.reports.registry import report
from hf_ft.reports.style import BLUE, INK, ORANGE, new_figure, style_axis
from hf_ft.reports.tables import counted, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {
    "log_loss": "log loss",
    "ece": "calibration error",
    "ece_equal_mass": "calibration error, equal mass",
    "brier": "Brier score",
}
"""Scores of a calibration and their titles; lower is better for all."""


def calibration_table(record: CalibrationRecord) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the scores of each split before and after."""
    moved = record.threshold is not None
    header = ["calibration", "before", *(["before the threshold moved"] if moved else []), "after"]
    rows = []
    for split, found in record.splits.items():
        columns = [found.before, *([found.unmoved] if found.unmoved else []), found.after]
        rows += [
            [f"{split} {title}", *(f"{getattr(column, name):.4f}" for column in columns)]
            for name, title in SCORES.items()
        ]
    return header, rows


def calibration_lines(record: RunRecord) -> list[str]:
    """Return sentences on what a calibration did to the weights; none if there was none."""
    found = record.calibration
    if found is None:
        return []
    biases = " and a bias for each label" if found.bias else ""
    lines = [
        f"Calibrated: the last layer holds a temperature of {found.temperature:.3f}{biases}, fitted on "
        f"{counted(found.examples, 'validation example')}, so a plain `pipeline` gives calibrated probabilities."
    ]
    if found.threshold is not None:
        what = "all labels" if found.label is None else f"'{shortened(found.label, 30)}'"
        lines.append(
            f"It holds the threshold of {found.threshold:.3f} for {what} as well, which is 0.5 now; that shifts the "
            "probabilities."
        )
    elif not any(split.changed for split in found.splits.values()):
        lines.append("No predicted class changed.")
    return lines


@report(RunRecord, "figures/reliability.png", applies=lambda record: record.calibration is not None)
def reliability(record: RunRecord) -> Figure:
    """Draw how often predictions were right over their probability, before and after, on the last split."""
    found = record.calibration
    assert found is not None
    split, scores = list(found.splits.items())[-1]
    figure, axis = new_figure(1, 5.0, 4.6)
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--")
    for name, one, colour, marker in (("before", scores.before, ORANGE, "s"), ("after", scores.after, BLUE, "o")):
        x, y = [point.predicted for point in one.points], [point.observed for point in one.points]
        label = f"{name}: calibration error {one.ece:.3f}, log loss {one.log_loss:.3f}"
        axis.plot(x, y, color=colour, linewidth=2, marker=marker, markersize=5, label=label)
    single = record.data.problem_type == "single_label_classification"
    lowest = min(point.predicted for one in (scores.before, scores.after) for point in one.points) if single else 0.0
    axis.set_xlim(max(0.0, lowest - 0.05), 1.02)
    axis.set_ylabel("share that is right" if single else "share that has the label", color=INK)
    below = "probability of the predicted class" if single else "probability"
    style_axis(axis, f"{split}, n = {scores.examples:,}", below)
    axis.set_ylim(-0.02, 1.02)
    axis.legend(frameon=False, fontsize=9, loc="best")
    return figure
