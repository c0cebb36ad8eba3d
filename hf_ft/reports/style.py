"""The style of all figures: canvas, colours, and files that are the same to the byte each time.

Readable at 600 pixels, on light and dark pages, in colours that people with colour blindness can distinguish (Okabe and
Ito, https://jfly.uni-koeln.de/color/) with different markers, and labels next to what they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

INK, GRID = "#444444", "#dddddd"
BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#9A7500", "#3A9BD0", "#000000", "#7A5195")
"""Okabe and Ito's, the two lightest of them darker so that text in them can be read on white."""
MARKERS = "osD^vPX*"


def new_figure(columns: int, width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    """Return a white figure of `width` by `height` inches, and its axis or axes."""
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


def save_figure(figure: Any, *paths: Path) -> list[Path]:
    """Write a figure to PNG or SVG files, the same bytes for the same figure, and close it; returns the files."""
    from matplotlib import pyplot, rc_context

    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
        with rc_context({"svg.hashsalt": path.stem}):  # else the names in it are random
            figure.savefig(path, metadata=metadata)
        figure.set_layout_engine("none")  # computed once, so that all files have one layout
    pyplot.close(figure)
    return list(paths)


def clip(label: str) -> str:
    """Return a label on one line of at most 18 characters, with dollar signs escaped (no math)."""
    label = " ".join("".join(sign if sign.isprintable() else " " for sign in label).split())
    return (label if len(label) <= 18 else label[:17] + "…").replace("$", r"\$")


def spread(mean: float, values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the distances from the mean to the lowest and highest seed, as `errorbar` takes them.

    They are never negative: the mean of equal values may differ from them in its last digit.
    """
    return [max(0.0, mean - min(values))], [max(0.0, max(values) - mean)]


def plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def style_axis(axis: Any, title: str, below: str = "") -> None:
    """Set title, label below and horizontal grid lines of an axis."""
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    if below:
        axis.set_xlabel(below, color=INK)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
