"""The picture of a search for a depth: scores against frozen blocks by rung, the probes behind them, seconds below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.reports.figures import BLUE, GRID, INK, ORANGE, new_figure, write_figure

PALE = ("#9ecae1", "#4292c6", BLUE)
"""Colours of the rungs, the shortest palest."""
BESIDE = 0.08
"""How far apart the scores of one depth are drawn, in blocks."""


def draw_depths(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw a finished search to `depth.png` and `depth.svg`, from its record alone; returns the files."""
    figure, (top, below) = new_figure(1, 6.4, 5.6, rows=2)
    _draw_scores(top, record)
    spent: dict[int, float] = {}
    for row in (row for rung in record["rungs"] for row in rung["rows"]):
        spent[row["frozen"]] = spent.get(row["frozen"], 0.0) + row["seconds"]
    chosen = record["choice"]["frozen"]
    colours = [ORANGE if frozen == chosen else PALE[1] for frozen in spent]
    below.bar(list(spent), list(spent.values()), color=colours, width=0.6)
    below.set_title("seconds of training, all rungs and seeds", fontsize=11, color=INK, loc="left")
    blocks = record["blocks"]
    below.set_xlabel(f"frozen blocks: 0 is `full`, {blocks} is `head`", color=INK)
    below.set_xticks(sorted(one["frozen"] for one in record["candidates"]))
    below.grid(axis="y", color=GRID, linewidth=0.8)
    below.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=10, labelcolor=INK)
    return write_figure(figure, folder / "depth.png", folder / "depth.svg")


def _draw_scores(axis: Any, record: Mapping[str, Any]) -> None:
    if probe := record["layer_probes"]["scores"]:
        axis.plot(range(len(probe)), probe, color="#a0a0a0", linestyle=":", marker=".", label="linear probe")
    shares = sorted({rung["share"] for rung in record["rungs"] if rung["rows"]})
    for place, share in enumerate(shares):
        aside = BESIDE * (place - (len(shares) - 1) / 2)  # or the intervals would lie on each other
        rungs = [rung for rung in record["rungs"] if rung["share"] == share and rung["rows"]]
        rows = sorted((row for rung in rungs for row in rung["rows"]), key=lambda row: row["frozen"])
        ends = [
            (min(row["values"]), max(row["values"])) if len(row["values"]) == 2 else (row["low"], row["high"])
            for row in rows  # the interval of two seeds reaches over everything
        ]
        error = [
            [max(0.0, row["mean"] - low) for row, (low, _) in zip(rows, ends, strict=True)],
            [max(0.0, high - row["mean"]) for row, (_, high) in zip(rows, ends, strict=True)],
        ]
        axis.errorbar(
            [row["frozen"] + aside for row in rows],
            [row["mean"] for row in rows],
            yerr=error,
            color=PALE[place - len(shares)],
            marker="sDo"[place - len(shares)],
            markersize=7,
            capsize=3,
            linewidth=1.5,
            linestyle="none" if share == 1 else "-",  # few depths have it, and what lies between is not known
            label=rungs[0]["length"],
        )
    choice, left = record["choice"], 2 * record["choice"]["frozen"] <= record["blocks"]
    axis.axvline(choice["frozen"], color=ORANGE, linewidth=12, alpha=0.15, zorder=0)
    axis.annotate(
        f"chosen: {choice['method']}",
        (choice["frozen"], 0),
        xycoords=axis.get_xaxis_transform(),
        xytext=(10 if left else -10, 6),
        textcoords="offset points",
        ha="left" if left else "right",
        color=ORANGE,
        fontsize=11,
    )
    n, seeds = record["data"]["sizes"]["validation"], len(record["seeds"])
    over = "examples" if seeds == 1 else f"examples and {seeds} seeds"
    axis.set_title(
        f"{record['metric_title']}, validation (n = {n:,})\nwith 95 % interval over {over}",
        fontsize=11,
        color=INK,
        loc="left",
    )
    axis.margins(x=0.08, y=0.16)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
