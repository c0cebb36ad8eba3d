"""The figure of a ranking: each score against milliseconds per example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.records import RankingRecord
from hf_ft.reports.point_labels import label_points
from hf_ft.reports.ranking_summary import score_titles
from hf_ft.reports.registry import report
from hf_ft.reports.style import BLUE, INK, clip, new_figure, style_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@report(RankingRecord, "figures/rank.png", "figures/rank.svg", applies=lambda record: bool(record.scored))
def score_and_time(record: RankingRecord) -> Figure:
    """Draw each score against milliseconds per example, with the names of the models at their points."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    titles, models = score_titles(record), record.scored
    height = 0.5 + max(1.5, 0.26 * len(models))
    figure, axes = new_figure(1, 6.0, 0.4 + height * len(titles), rows=len(titles))
    for axis, (score, title) in zip(axes, titles.items(), strict=True):
        axis.scatter(
            [model.ms_per_example for model in models],
            [model.scores[score] for model in models],
            color=BLUE,
            s=36,
            zorder=2,
        )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(x=0.4, y=0.12)
        style_axis(axis, title)
    axes[-1].set_xlabel("milliseconds per example", color=INK)
    for axis, score in zip(axes, titles, strict=True):
        points = [(model.ms_per_example, model.scores[score], clip(model.name), INK) for model in models]
        label_points(figure, axis, points)
    return figure
