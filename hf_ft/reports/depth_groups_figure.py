"""The figure of a model's depth groups, from input to head, and what a stage does to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.reports.style import BLUE, INK, ORANGE, new_figure, save_figure


def draw_groups(title: str, groups: Sequence[Mapping[str, Any]], stage: str, path: Path) -> Path:
    """Draw the depth groups from input (bottom) to head (top), as long as they have parameters; returns the file.

    Args:
        title: Heading of the figure.
        groups: For each group its `name`, `parameters`, `modules` and `stages` (stage -> what happens to the group).
        stage: The stage that is shown; the table of `hf-ft inspect` shows all of them.
        path: A `.png` or `.svg` file.
    """
    figure, axis = new_figure(1, 7.2, 1.2 + 0.26 * len(groups))
    largest = max(group["parameters"] for group in groups)
    for i, group in enumerate(groups):
        setting = group["stages"][stage]
        colour = "#b5b5b5" if setting == "frozen" else ORANGE if setting.startswith("adapt") else BLUE
        axis.barh(i, group["parameters"], color=colour, height=0.74)
        module = (group["modules"] or [""])[0] + (" …" if len(group["modules"]) > 1 else "")
        text = f"{group['parameters']:,}  {setting}" + (f"  {module}" if len(module) < 34 else "")
        axis.annotate(text, (group["parameters"], i), xytext=(5, 0), textcoords="offset points", va="center", size=9)
    axis.set_yticks(range(len(groups)), [group["name"] for group in groups])
    axis.set_xlim(0, largest * 1.9)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    return save_figure(figure, path)[0]
