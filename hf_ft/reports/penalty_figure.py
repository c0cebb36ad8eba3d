"""The figure of a closed-form head: its loss over the penalties that were tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.records import RunRecord
from hf_ft.reports.registry import report
from hf_ft.reports.style import BLUE, INK, ORANGE, new_figure, style_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@report(RunRecord, "figures/penalties.png", applies=lambda record: any(stage.solver for stage in record.stages))
def penalties(record: RunRecord) -> Figure:
    """Draw training and validation loss of the last closed-form head over its penalties; the chosen one is dashed."""
    solver = [stage.solver for stage in record.stages if stage.solver][-1]
    figure, axis = new_figure(1, 6.0, 3.6)
    steps = solver["path"]
    tried = [step["penalty"] for step in steps]
    for name, label, colour in (("objective", "train, with penalty", ORANGE), ("validation", "validation", BLUE)):
        values = [step[name] for step in steps]
        axis.plot(tried, values, color=colour, linewidth=2, marker="o", markersize=3.5)
        axis.annotate(f" {label}", (tried[-1], values[-1]), color=colour, fontsize=10, va="center")
    axis.axvline(solver["penalty"], color=INK, linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.invert_xaxis()  # from the strongest on, in the order they were tried
    style_axis(axis, "loss of the closed-form head", "penalty (weaker to the right)")
    axis.margins(x=0.25)
    return figure
