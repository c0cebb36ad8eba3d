"""Figures of a comparison: score against training time, against training examples, and against frozen blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.records import ComparisonRecord, ComparisonRow
from hf_ft.reports.point_labels import label_ends, label_points
from hf_ft.reports.registry import report
from hf_ft.reports.style import BLUE, COLOURS, INK, MARKERS, ORANGE, new_figure, plain_ticks, spread, style_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[ComparisonRow]


def _styles(record: ComparisonRecord) -> dict[str, tuple[str, str]]:
    """Method -> colour and marker, no two alike."""
    methods = dict.fromkeys(row.method for row in record.rows)
    return {
        method: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, method in enumerate(methods)
    }


def _largest(record: ComparisonRecord) -> list[ComparisonRow]:
    """The rows of the largest training set."""
    return [row for row in record.rows if row.size == record.sizes[-1]]


def _title(record: ComparisonRecord, rows: Rows, size: int | None) -> str:
    seeds = max(len(row.seeds) for row in rows)
    per_class = "" if size is None else f", {size} examples per class"
    n = record.data.sizes[record.split]
    return (
        f"{record.metric_title}, {record.split} (n = {n:,}){per_class}\n"
        f"mean and range of {seeds} seed{'s' if seeds > 1 else ''}"
    )


# --- Score against seconds --------------------------------------------------------------------------------------------


@report(
    ComparisonRecord,
    "figures/score_and_seconds.png",
    "figures/score_and_seconds.svg",
    applies=lambda record: len(_largest(record)) > 1,
)
def score_and_seconds(record: ComparisonRecord) -> Figure:
    """Draw the score against the seconds of training; a dashed line joins the Pareto front."""
    rows, styles = _largest(record), _styles(record)
    figure, axis = new_figure(1, 6.0, 4.2)
    axis.set_xscale("log")
    for row in rows:
        colour, marker = styles[row.method]
        axis.errorbar(
            row.seconds,
            row.mean,
            yerr=spread(row.mean, row.values),
            color=colour,
            marker=marker,
            markersize=8,
            capsize=3,
        )
    front = pareto_front(rows, record.higher_is_better)
    axis.plot(*zip(*front, strict=True), color=INK, linewidth=1, linestyle="--", zorder=0)
    below = "seconds of training (log scale); dashed: Pareto front"
    style_axis(axis, _title(record, rows, rows[0].size), below)
    axis.margins(x=0.2, y=0.12)
    plain_ticks(axis.xaxis)
    label_points(figure, axis, [(row.seconds, row.mean, row.method, styles[row.method][0]) for row in rows])
    return figure


def pareto_front(rows: Rows, higher_is_better: bool) -> list[tuple[float, float]]:
    """Return the points (seconds, score) that no other beats in both, the quickest first."""
    front: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: (row.seconds, -row.mean if higher_is_better else row.mean)):
        if not front or ((row.mean > front[-1][1]) == higher_is_better and row.mean != front[-1][1]):
            front.append((row.seconds, row.mean))
    return front


# --- Score against examples -------------------------------------------------------------------------------------------


@report(
    ComparisonRecord,
    "figures/score_and_examples.png",
    "figures/score_and_examples.svg",
    applies=lambda record: len(record.sizes) > 1,
)
def score_and_examples(record: ComparisonRecord) -> Figure:
    """Draw the score against the training examples per class, a line for each method."""
    figure, axis = new_figure(1, 6.0, 4.2)
    axis.set_xscale("log")
    sizes = sorted(size for size in record.sizes if size is not None)
    apart = (sizes[-1] / sizes[0]) ** 0.006  # so that the error bars of two methods do not overlap
    ends, styles = [], _styles(record)
    for i, (method, (colour, marker)) in enumerate(styles.items()):
        rows = [row for row in record.rows if row.method == method]
        x = [(row.size or 0) * apart ** (i - len(styles) / 2) for row in rows]
        y = [row.mean for row in rows]
        errors = [[spread(row.mean, row.values)[side][0] for row in rows] for side in (0, 1)]
        axis.errorbar(x, y, yerr=errors, color=colour, marker=marker, markersize=7, linewidth=2, capsize=3)
        ends.append((x[-1], y[-1], method, colour))
    style_axis(axis, _title(record, record.rows, None), "training examples per class")
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.set_xlim(sizes[0] / (sizes[-1] / sizes[0]) ** 0.06, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.3)
    label_ends(figure, axis, ends)
    return figure


# --- Score against frozen blocks --------------------------------------------------------------------------------------


def _by_depth(record: ComparisonRecord) -> list[ComparisonRow]:
    """The rows that start from the source model, by the number of blocks that stay frozen throughout."""
    found = [row for row in _largest(record) if row.frozen is not None and row.method != "scratch"]
    return sorted(found, key=lambda row: (row.frozen or 0, row.method))


@report(
    ComparisonRecord,
    "figures/score_and_frozen_blocks.png",
    "figures/score_and_frozen_blocks.svg",
    applies=lambda record: len({row.frozen for row in _by_depth(record)}) > 1,
)
def score_and_frozen_blocks(record: ComparisonRecord) -> Figure:
    """Draw the score against the number of frozen blocks, and the seconds below it."""
    rows, sign = _by_depth(record), 1 if record.higher_is_better else -1
    figure, (top, below) = new_figure(1, 6.0, 5.4, rows=2)
    scores = [(row, row.mean, row.values) for row in rows]
    seconds = [(row, row.seconds, row.seconds_per_trial) for row in rows]
    _draw_by_depth(top, scores, BLUE, "o", sign)
    _draw_by_depth(below, seconds, ORANGE, "s", sign)
    style_axis(top, _title(record, rows, rows[0].size))
    style_axis(below, "seconds of training", f"frozen blocks, of {rows[0].blocks}")
    below.set_ylim(bottom=0)
    below.set_xticks(range(rows[0].blocks + 1))
    top.margins(x=0.14, y=0.16)
    label_points(figure, top, [(row.frozen or 0, row.mean, row.method, BLUE) for row in rows])
    return figure


def _draw_by_depth(
    axis: Any, points: Sequence[tuple[ComparisonRow, float, Sequence[float]]], colour: str, marker: str, sign: int
) -> None:
    """Draw points with their spread, and a line through the best method of each depth."""
    for row, value, values in points:
        error = spread(value, values)
        axis.errorbar(row.frozen, value, yerr=error, color=colour, marker=marker, markersize=7, capsize=3)
    line = {row.frozen: value for row, value, _ in sorted(points, key=lambda point: sign * point[0].mean)}
    line = dict(sorted(line.items(), key=lambda point: point[0] or 0))
    axis.plot(list(line), list(line.values()), color=colour, linewidth=1.5, alpha=0.5, zorder=0)
