"""The figure of a freeze depth search: scores by rung with the layer probes behind them, and the seconds below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.records import FreezeDepthRecord
from hf_ft.reports.registry import report
from hf_ft.reports.style import BLUE, GRID, INK, ORANGE, new_figure, style_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALE = ("#9ecae1", "#4292c6", BLUE)
"""Colours of the rungs, the shortest palest."""
OFFSET = 0.08
"""Horizontal distance between the scores of one depth, in blocks."""


@report(FreezeDepthRecord, "figures/depth.png", "figures/depth.svg", applies=lambda record: record.finished)
def score_and_freeze_depth(record: FreezeDepthRecord) -> Figure:
    """Draw the scores of each rung against the freeze depth, and the seconds spent on each depth."""
    assert record.choice is not None
    figure, (top, below) = new_figure(1, 6.4, 5.6, rows=2)
    _draw_probes_and_rungs(top, record)
    _mark_choice(top, record)
    spent: dict[int, float] = {}
    for row in (row for rung in record.rungs for row in rung.rows):
        spent[row.frozen] = spent.get(row.frozen, 0.0) + row.seconds
    colours = [ORANGE if frozen == record.choice.frozen else PALE[1] for frozen in spent]
    below.bar(list(spent), list(spent.values()), color=colours, width=0.6)
    label = f"freeze depth in blocks: 0 is `full`, {record.blocks} is `head`"
    style_axis(below, "seconds of training, all rungs and seeds", label)
    below.set_xticks(sorted(one.frozen for one in record.candidates))
    below.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=10, labelcolor=INK)
    return figure


def _draw_probes_and_rungs(axis: Any, record: FreezeDepthRecord) -> None:
    if probes := record.layer_probes.scores:
        axis.plot(range(len(probes)), probes, color="#a0a0a0", linestyle=":", marker=".", label="layer probe")
    shares = sorted({rung.share for rung in record.rungs if rung.rows})
    for place, share in enumerate(shares):
        aside = OFFSET * (place - (len(shares) - 1) / 2)  # so that the intervals do not cover each other
        rungs = [rung for rung in record.rungs if rung.share == share and rung.rows]
        rows = sorted((row for rung in rungs for row in rung.rows), key=lambda row: row.frozen)
        ends = [
            (min(row.values), max(row.values)) if len(row.values) == 2 else (row.low, row.high)
            for row in rows  # the interval over two seeds that differ is wider than all scores
        ]
        error = [
            [max(0.0, row.mean - low) for row, (low, _) in zip(rows, ends, strict=True)],
            [max(0.0, high - row.mean) for row, (_, high) in zip(rows, ends, strict=True)],
        ]
        axis.errorbar(
            [row.frozen + aside for row in rows],
            [row.mean for row in rows],
            yerr=error,
            color=PALE[place - len(shares)],
            marker="sDo"[place - len(shares)],
            markersize=7,
            capsize=3,
            linewidth=1.5,
            linestyle="none" if share == 1 else "-",  # few depths have a full length: a line would interpolate
            label=rungs[0].length,
        )
    n, seeds = record.data.sizes["validation"], len(record.seeds)
    over = "examples" if seeds == 1 else f"examples and {seeds} seeds"
    axis.set_title(
        f"{record.metric_title}, validation (n = {n:,})\nwith 95 % interval over {over}",
        fontsize=11,
        color=INK,
        loc="left",
    )
    axis.margins(x=0.08, y=0.16)
    axis.grid(axis="y", color=GRID, linewidth=0.8)


def _mark_choice(axis: Any, record: FreezeDepthRecord) -> None:
    choice = record.choice
    assert choice is not None
    left = 2 * choice.frozen <= record.blocks
    axis.axvline(choice.frozen, color=ORANGE, linewidth=12, alpha=0.15, zorder=0)
    axis.annotate(
        f"chosen: {choice.method}",
        (choice.frozen, 0),
        xycoords=axis.get_xaxis_transform(),
        xytext=(10 if left else -10, 6),
        textcoords="offset points",
        ha="left" if left else "right",
        color=ORANGE,
        fontsize=11,
    )
