"""The confusion matrix of a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.records import RunRecord
from hf_ft.reports.registry import report
from hf_ft.reports.style import INK, clip, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@report(RunRecord, "figures/confusion_matrix.png", applies=lambda record: bool(record.confusion))
def confusion_matrix(record: RunRecord) -> Figure:
    """Draw the share of each true class (row) predicted as each class (column), on the last split that was scored.

    Small matrices show counts as well.
    """
    import numpy as np

    split = list(record.confusion)[-1]
    labels = record.data.labels
    classes = len(labels)
    cells = np.zeros((classes, classes), dtype=np.int64)
    for true, predicted, count in record.confusion[split]:
        cells[true, predicted] = count
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    size = min(9.0, 3.4 + 0.32 * classes)
    figure, axis = new_figure(1, size + 0.8, size)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if classes <= 40:
        axis.set_xticks(range(classes), [clip(label) for label in labels], rotation=90 if classes > 4 else 0)
        axis.set_yticks(range(classes), [clip(label) for label in labels])
    if classes <= 15:
        for i, j in np.argwhere(cells):
            colour = "white" if shares[i, j] > 0.55 else INK
            axis.text(j, i, f"{cells[i, j]}", ha="center", va="center", fontsize=9, color=colour)
    axis.set_xlabel("predicted", color=INK)
    axis.set_ylabel("true", color=INK)
    axis.set_title(f"{split}, n = {cells.sum():,}", fontsize=11, color=INK, loc="left")
    figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
    return figure
