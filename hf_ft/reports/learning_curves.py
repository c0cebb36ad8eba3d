"""Learning curves: loss and score of a run over epochs, and several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_ft.records import RunRecord
from hf_ft.reports.point_labels import label_ends
from hf_ft.reports.registry import report
from hf_ft.reports.style import BLUE, COLOURS, INK, MARKERS, ORANGE, new_figure, style_axis
from hf_ft.reports.tables import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = dict[str, list[tuple[float, float]]]


def curves(record: RunRecord) -> tuple[Points, list[tuple[float, str]]]:
    """Return the points (epoch, value) of each logged quantity, and the epoch and name where each stage begins.

    Stages of a closed-form head make no steps: their score is the point where the next stage begins.
    """
    points: Points = {}
    begins, begin = [], 0.0
    for stage in record.stages:
        if not stage.solver:
            begins.append((begin, stage.name))
        for entry in stage.history:
            for name, value in entry.items():
                if name != "loss" or not stage.solver:  # the loss of a closed-form head includes its penalty
                    points.setdefault(name, []).append((entry["epoch"], value))
            begin = entry["epoch"]
    return points, begins


@report(
    RunRecord, "figures/learning_curves.png", applies=lambda record: not all(stage.solver for stage in record.stages)
)
def learning_curves(record: RunRecord) -> Figure:
    """Draw training and validation loss, and the metric on validation, over epochs; stages are divided by dashes."""
    points, begins = curves(record)
    figure, (left, right) = new_figure(2, 9.0, 3.6)
    series = [(left, "loss", "train", ORANGE), (left, "eval_loss", "validation", BLUE)]
    series.append((right, f"eval_{record.metric}", "validation", BLUE))
    for axis, name, label, colour in series:
        if name in points:
            x, y = zip(*points[name], strict=True)
            axis.plot(x, y, color=colour, linewidth=2, marker="o" if len(x) < 25 else None, markersize=3.5)
            axis.annotate(f" {label}", (x[-1], y[-1]), color=colour, fontsize=10, va="center")
    for axis, heading in ((left, "loss"), (right, f"{title(record.metric)} on validation")):
        style_axis(axis, heading, "epoch")
        axis.margins(x=0.12)
        for begin, name in begins if len(begins) > 1 else []:
            axis.axvline(begin, color=INK, linewidth=0.8, linestyle="--")
            axis.annotate(
                name,
                (begin, 1.0),
                xycoords=("data", "axes fraction"),
                fontsize=9,
                color=INK,
                ha="left",
                va="top",
                xytext=(3, -2),
                textcoords="offset points",
            )
    return figure


def several_learning_curves(records: Mapping[str, RunRecord]) -> Figure:
    """Draw the metric on validation over epochs for several runs, each with its name (the keys)."""
    figure, axis = new_figure(1, 6.0, 4.0)
    ends, metric = [], next(iter(records.values())).metric
    for i, (name, record) in enumerate(records.items()):
        x, y = zip(*curves(record)[0][f"eval_{metric}"], strict=True)
        axis.plot(x, y, color=COLOURS[i], marker=MARKERS[i], markersize=4, linewidth=2)
        ends.append((x[-1], y[-1], name, COLOURS[i]))
    style_axis(axis, f"{title(metric)} on validation", "epoch")
    axis.set_xlim(0, max(end[0] for end in ends) * 1.6)
    label_ends(figure, axis, ends)
    return figure
