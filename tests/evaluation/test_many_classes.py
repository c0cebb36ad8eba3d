"""Thousands of classes: what is stored and drawn grows with examples or classes, not with the square of classes."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from hf_ft.metrics import classification as metrics
from hf_ft.metrics.classification import SINGLE_LABEL
from hf_ft.metrics.counts import grouping
from hf_ft.reports.confusion_figure import confusion_matrix
from hf_ft.reports.style import save_figure
from hf_ft.tasks.classes import SINGLE

EXAMPLES = 400


def outputs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(EXAMPLES, classes)).astype(np.float32), random.integers(0, classes, EXAMPLES)


def record_of(classes: int) -> Any:
    """As much of a `RunRecord` as the confusion matrix reads."""
    logits, references = outputs(classes)
    labels = SimpleNamespace(labels=[f"class {i}" for i in range(classes)])
    return SimpleNamespace(confusion={"test": SINGLE.confusion(logits, references)}, data=labels)


def test_confusion_lists_the_pairs_that_occur() -> None:
    logits, references = outputs(5)
    cells = np.zeros((5, 5), dtype=int)
    for true, predicted, count in SINGLE.confusion(logits, references):
        assert count > 0
        cells[true, predicted] = count
    expected = np.zeros((5, 5), dtype=int)
    np.add.at(expected, (references, logits.argmax(axis=1)), 1)
    np.testing.assert_array_equal(cells, expected)


def test_record_grows_with_the_examples() -> None:
    """A table of 3,000 classes would have nine million cells; JSON of it took longer than the training."""
    found = record_of(3000).confusion["test"]
    assert sum(count for _, _, count in found) == EXAMPLES
    assert len(found) <= EXAMPLES
    assert len(json.dumps(found)) < 30 * EXAMPLES


def test_members_of_classes_grow_with_the_examples() -> None:
    """What is summed_loss over in resampling holds an entry for each example, not for each example and class."""
    logits, references = outputs(3000)
    split = metrics._split(logits, references, SINGLE_LABEL, 0.5)
    grouping(np.array([0]), 1)  # imports scipy
    tracemalloc.start()
    right, predicted, actual = split.members
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < EXAMPLES * 3000 / 4  # one table of the two as single bytes would be four times as large
    assert predicted.nnz == actual.nnz == EXAMPLES
    assert right.nnz == (logits.argmax(axis=1) == references).sum()
    assert right.shape == predicted.shape == actual.shape == (3000, EXAMPLES)
    np.testing.assert_array_equal(actual.sum(axis=1), np.bincount(references, minlength=3000))


def calls_of(classes: int, path: Path) -> int:
    """How many functions drawing a confusion matrix calls, those written in C included."""
    record, calls = record_of(classes), 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        save_figure(confusion_matrix(record), path)
    finally:
        sys.setprofile(None)
    return calls


def test_drawing_takes_no_call_for_each_cell(tmp_path: Path) -> None:
    """It summed_loss each row once for each of its cells: of 3,000 classes it was never finished."""
    calls_of(50, tmp_path / "warm.png")
    few, many = (calls_of(classes, tmp_path / f"{classes}.png") for classes in (50, 600))
    assert many - few < 600 * 600 / 10
    picture = np.asarray(Image.open(tmp_path / "600.png").convert("RGB"))
    assert picture.std() > 1
