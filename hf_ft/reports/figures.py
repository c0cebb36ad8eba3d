"""Pictures of comparisons, drawn from their record alone and the same to the byte each time; and the canvas of all.

Readable at 600 pixels, on a light and on a dark page; colours that people with colour blindness can tell apart
(Okabe and Ito, https://jfly.uni-koeln.de/color/), markers that differ as well, and names beside what they name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

INK, GRID = "#444444", "#dddddd"
BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#9A7500", "#3A9BD0", "#000000", "#7A5195")
"""Okabe and Ito's, the two lightest of them darker so that text in them can be read on white."""
MARKERS = "osD^vPX*"


def new_figure(columns: int, width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    """A white figure of so many inches, and its axis or axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), layout="constrained", dpi=120, sharex=rows > 1
    )
    figure.patch.set_facecolor("white")  # legible on a dark page too
    for axis in [axes] if rows * columns == 1 else axes:
        axis.tick_params(colors=INK, labelsize=10)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def write_figure(figure: Any, *paths: Path) -> list[Path]:
    """Write a figure to PNG or SVG files, the same bytes for the same figure; returns the files."""
    from matplotlib import pyplot, rc_context

    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
        with rc_context({"svg.hashsalt": path.stem}):  # else the names in it are random
            figure.savefig(path, metadata=metadata)
        figure.set_layout_engine("none")  # found once, it holds for every file
    pyplot.close(figure)
    return list(paths)


def clip(label: str) -> str:
    """A label that is not too long for a picture, on one line, in which a dollar is no mathematics."""
    label = " ".join("".join(sign if sign.isprintable() else " " for sign in label).split())
    return (label if len(label) <= 18 else label[:17] + "…").replace("$", r"\$")


def draw_comparison(record: Record, folder: Path) -> list[Path]:
    """Draw a comparison: score against seconds, against examples, and against frozen blocks, as far as it has them."""
    sizes = list(dict.fromkeys(row["size"] for row in record["rows"]))
    last = [row for row in record["rows"] if row["size"] == sizes[-1]]
    style = {
        method: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])  # no two alike
        for i, method in enumerate(dict.fromkeys(row["method"] for row in record["rows"]))
    }
    drawn = []
    if len(last) > 1:
        drawn += _draw_pareto(record, last, style, folder)
    if len(sizes) > 1:
        drawn += _draw_examples(record, record["rows"], style, folder)
    if len({row["frozen"] for row in _by_depth(last)}) > 1:
        drawn += _draw_frozen(record, _by_depth(last), folder)
    return drawn


def _both(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.png", folder / f"{name}.svg"


def _spread(mean: float, values: Sequence[float]) -> tuple[list[float], list[float]]:
    """How far the seeds reach below and above the mean, as `errorbar` wants it; equal seeds may miss their own mean."""
    return [max(0.0, mean - min(values))], [max(0.0, max(values) - mean)]


def _titled(axis: Any, record: Record, rows: Rows, below: str) -> None:
    seeds = max(len(row["seeds"]) for row in rows)
    size = "" if rows[0]["size"] is None else f", {rows[0]['size']} examples of each class"
    n = record["data"]["sizes"][record["split"]]
    axis.set_title(
        f"{record['metric_title']}, {record['split']} (n = {n:,}){size}\nmean and range of {seeds} seed"
        + ("s" if seeds > 1 else ""),
        fontsize=11,
        color=INK,
        loc="left",
    )
    axis.set_xlabel(below, color=INK)
    axis.grid(axis="y", color=GRID, linewidth=0.8)


# --- Score against seconds --------------------------------------------------------------------------------------------


def _draw_pareto(record: Record, rows: Rows, style: Mapping[str, Any], folder: Path) -> list[Path]:
    """Score against seconds of training, with the front of what nothing beats in both."""
    figure, axis = new_figure(1, 6.0, 4.2)
    axis.set_xscale("log")
    for row in rows:
        colour, marker = style[row["method"]]
        axis.errorbar(
            row["seconds"],
            row["mean"],
            yerr=_spread(row["mean"], row["values"]),
            color=colour,
            marker=marker,
            markersize=8,
            capsize=3,
        )
    front = _front(rows, record["higher_is_better"])
    axis.plot(*zip(*front, strict=True), color=INK, linewidth=1, linestyle="--", zorder=0)
    _titled(axis, record, rows, "seconds of training (log scale); dashed: nothing is both quicker and better")
    axis.margins(x=0.2, y=0.12)
    _plain_ticks(axis.xaxis)
    _name_points(figure, axis, [(row["seconds"], row["mean"], row["method"], style[row["method"]][0]) for row in rows])
    return write_figure(figure, *_both(folder, "score_and_seconds"))


def _front(rows: Rows, higher: bool) -> list[tuple[float, float]]:
    """The points that no other beats in both time and score, from the quickest on."""
    found: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda row: (row["seconds"], -row["mean"] if higher else row["mean"])):
        if not found or ((row["mean"] > found[-1][1]) == higher and row["mean"] != found[-1][1]):
            found.append((row["seconds"], row["mean"]))
    return found


def _plain_ticks(axis: Any) -> None:
    """Numbers as people write them on a logarithmic axis, which has few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name_points(figure: Any, axis: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name beside each point where it covers neither another name nor another point."""
    figure.canvas.draw()
    unit = figure.dpi / 72
    high, aside = 15.0 * unit, 9.0 * unit
    frame = axis.get_window_extent()
    centres = [tuple(axis.transData.transform((x, y))) for x, y, _, _ in points]
    taken = [(across - 5 * unit, at - 5 * unit, across + 5 * unit, at + 5 * unit) for across, at in centres]
    order = sorted(range(len(points)), key=lambda i: points[i][1])
    for i in order:
        (x, y, name, colour), (across, at), wide = points[i], centres[i], 7.2 * unit * len(points[i][2])
        others = [box for k, box in enumerate(taken) if k != i]
        steps = sorted(range(-8, 9), key=abs)
        places = [(right, step * high / 2) for step in steps for right in (True, False)]
        boxes = [
            (across + aside if right else across - aside - wide, at + up - high / 2, up, right) for right, up in places
        ]
        free = [
            box
            for box in boxes
            if not any(_overlap((box[0], box[1], box[0] + wide, box[1] + high), other) for other in others)
            and frame.x0 <= box[0]
            and box[0] + wide <= frame.x1
        ]
        begin, low, up, right = (free or boxes)[0]
        taken.append((begin, low, begin + wide, low + high))
        axis.annotate(
            name,
            (x, y),
            xytext=((9 if right else -9), up / unit),
            textcoords="offset points",
            va="center",
            ha="left" if right else "right",
            color=colour,
            fontsize=11,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},  # lines may pass below
            zorder=3,
        )


def _name_ends(figure: Any, axis: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of lines to the right of their ends, in the order of these and one below the other."""
    figure.canvas.draw()
    unit, edge = figure.dpi / 72, max(x for x, _, _, _ in ends)
    high, top = 14.0 * unit, axis.get_window_extent().y1
    ordered = sorted(ends, key=lambda end: end[1])
    own = [axis.transData.transform(end[:2])[1] for end in ordered]
    heights = list(own)
    for _ in range(100):  # names that are too near push each other away, by as much
        for i in range(1, len(heights)):
            push = max(0.0, high - (heights[i] - heights[i - 1])) / 2
            heights[i - 1], heights[i] = heights[i - 1] - push, heights[i] + push
    over = max(0.0, heights[-1] - top)
    for (_, y, name, colour), at, height in zip(ordered, own, heights, strict=True):
        place = (10, (height - over - at) / unit)
        axis.annotate(name, (edge, y), xytext=place, textcoords="offset points", va="center", color=colour, fontsize=11)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, bottom, right, top) share anything."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- Score against examples -------------------------------------------------------------------------------------------


def _draw_examples(record: Record, rows: Rows, style: Mapping[str, Any], folder: Path) -> list[Path]:
    """Score against training examples of each class, a line for each method."""
    figure, axis = new_figure(1, 6.0, 4.2)
    axis.set_xscale("log")
    sizes = sorted({row["size"] for row in rows})
    apart = (sizes[-1] / sizes[0]) ** 0.006  # so that one method's range does not cover another's
    ends = []
    for i, (method, (colour, marker)) in enumerate(style.items()):
        mine = [row for row in rows if row["method"] == method]
        x, y = [row["size"] * apart ** (i - len(style) / 2) for row in mine], [row["mean"] for row in mine]
        errors = [[_spread(row["mean"], row["values"])[side][0] for row in mine] for side in (0, 1)]
        axis.errorbar(x, y, yerr=errors, color=colour, marker=marker, markersize=7, linewidth=2, capsize=3)
        ends.append((x[-1], y[-1], method, colour))
    _titled(axis, record, [{**rows[0], "size": None}], "training examples of each class")
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.minorticks_off()
    axis.set_xlim(sizes[0] / (sizes[-1] / sizes[0]) ** 0.06, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.3)
    _name_ends(figure, axis, ends)
    return write_figure(figure, *_both(folder, "score_and_examples"))


# --- Score against frozen blocks --------------------------------------------------------------------------------------


def _by_depth(rows: Rows) -> list[Mapping[str, Any]]:
    """The rows that start from the source model, by how many of its blocks they froze to the end."""
    found = [row for row in rows if row["frozen"] is not None and row["method"] != "scratch"]
    return sorted(found, key=lambda row: (row["frozen"], row["method"]))


def _draw_frozen(record: Record, rows: Rows, folder: Path) -> list[Path]:
    """Score against the number of frozen blocks, and seconds below it."""
    sign = 1 if record["higher_is_better"] else -1
    figure, (top, below) = new_figure(1, 6.0, 5.4, rows=2)
    drawn = ((top, BLUE, "o", "mean", "values"), (below, ORANGE, "s", "seconds", "seconds_per_trial"))
    for axis, colour, marker, key, of in drawn:
        for row in rows:
            error = _spread(row[key], row[of])
            axis.errorbar(row["frozen"], row[key], yerr=error, color=colour, marker=marker, markersize=7, capsize=3)
        line = {row["frozen"]: row[key] for row in sorted(rows, key=lambda row: sign * row["mean"])}  # the best of each
        line = dict(sorted(line.items()))
        axis.plot(list(line), list(line.values()), color=colour, linewidth=1.5, alpha=0.5, zorder=0)
    _titled(top, record, rows, "")
    below.set_title("seconds of training", fontsize=11, color=INK, loc="left")
    below.set_ylim(bottom=0)
    below.set_xlabel(f"frozen blocks, of {rows[0]['blocks']}", color=INK)
    below.grid(axis="y", color=GRID, linewidth=0.8)
    below.set_xticks(range(rows[0]["blocks"] + 1))
    top.margins(x=0.14, y=0.16)
    _name_points(figure, top, [(row["frozen"], row["mean"], row["method"], BLUE) for row in rows])
    return write_figure(figure, *_both(folder, "score_and_frozen_blocks"))


# --- Scores of candidate models ---------------------------------------------------------------------------------------


def draw_ranking(
    points: Mapping[str, tuple[float, Mapping[str, float]]], titles: Mapping[str, str], paths: Sequence[Path]
) -> None:
    """Draw each score against milliseconds per example, with the models' names at the points.

    `points` has time and scores by model, `titles` the heading of each score; `paths` end in .png or .svg.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    height = 0.5 + max(1.5, 0.26 * len(points))
    figure, axes = new_figure(1, 6.0, 0.4 + height * len(titles), rows=len(titles))
    for axis, (score, title) in zip(axes, titles.items(), strict=True):
        x = [time for time, _ in points.values()]
        y = [scores[score] for _, scores in points.values()]
        axis.scatter(x, y, color=BLUE, s=36, zorder=2)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(x=0.4, y=0.12)
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        axis.grid(axis="y", color=GRID, linewidth=0.8)
    axes[-1].set_xlabel("milliseconds per example", color=INK)
    for axis, score in zip(axes, titles, strict=True):
        named = [(time, scores[score], clip(name), INK) for name, (time, scores) in points.items()]
        _name_points(figure, axis, named)
    write_figure(figure, *paths)


# --- Learning curves side by side ------------------------------------------------------------------------------------


def draw_learning(records: Mapping[str, Record], *paths: Path) -> list[Path]:
    """Draw the score on validation over epochs of several runs, each with its name; returns the files.

    `records` are those of `run.json`, by what each run is to be called.
    """
    figure, axis = new_figure(1, 6.0, 4.0)
    ends = []
    for i, (name, record) in enumerate(records.items()):
        points = [
            (entry["epoch"], entry[f"eval_{record['metric']}"])
            for stage in record["stages"]
            for entry in stage["history"]
            if f"eval_{record['metric']}" in entry
        ]
        x, y = zip(*points, strict=True)
        axis.plot(x, y, color=COLOURS[i], marker=MARKERS[i], markersize=4, linewidth=2)
        ends.append((x[-1], y[-1], name, COLOURS[i]))
    axis.set_title(f"{record['metric'].replace('_', ' ')} on validation", fontsize=11, color=INK, loc="left")
    axis.set_xlabel("epoch", color=INK)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_xlim(0, max(end[0] for end in ends) * 1.6)
    _name_ends(figure, axis, ends)
    return write_figure(figure, *paths)
