"""Labels beside the points and the ends of lines in a figure, placed so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def label_points(figure: Any, axis: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each point's name beside it, where it covers neither another name nor another point.

    `points` are (x, y, name, colour). Labels try 17 heights on both sides, the nearest first; the lowest point chooses
    first.
    """
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


def label_ends(figure: Any, axis: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of lines to the right of their ends (x, y, name, colour), in the order of the ends."""
    figure.canvas.draw()
    unit, edge = figure.dpi / 72, max(x for x, _, _, _ in ends)
    high, top = 14.0 * unit, axis.get_window_extent().y1
    ordered = sorted(ends, key=lambda end: end[1])
    own = [axis.transData.transform(end[:2])[1] for end in ordered]
    heights = list(own)
    for _ in range(100):  # names that are too close push each other apart, both by the same distance
        for i in range(1, len(heights)):
            push = max(0.0, high - (heights[i] - heights[i - 1])) / 2
            heights[i - 1], heights[i] = heights[i - 1] - push, heights[i] + push
    over = max(0.0, heights[-1] - top)
    for (_, y, name, colour), at, height in zip(ordered, own, heights, strict=True):
        place = (10, (height - over - at) / unit)
        axis.annotate(name, (edge, y), xytext=place, textcoords="offset points", va="center", color=colour, fontsize=11)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, bottom, right, top) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
