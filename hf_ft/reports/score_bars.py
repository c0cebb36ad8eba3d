"""Horizontal bars of named scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_ft.records import ScoreRecord
from hf_ft.reports.style import BLUE, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def score_bars(scores: Mapping[str, ScoreRecord], title: str = "test accuracy, with 95 % interval") -> Figure:
    """Draw scores between 0 and 1 as horizontal bars with their intervals, the first highlighted."""
    figure, axis = new_figure(1, 7.2, 1.1 + 0.55 * len(scores))
    for i, (name, score) in enumerate(reversed(list(scores.items()))):
        first = i == len(scores) - 1
        axis.barh(i, score.value, color=BLUE if first else "#9fb8c8", height=0.62)
        axis.plot([score.low, score.high], [i, i], color=INK, linewidth=1.5)
        axis.annotate(f"{score.value:.3f}", (score.high, i), xytext=(5, 0), textcoords="offset points", va="center")
        axis.annotate(name, (0.012, i), color="white" if first else INK, va="center", fontsize=10)
    axis.set_yticks([])
    axis.set_xlim(0, 1.08)
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    return figure
