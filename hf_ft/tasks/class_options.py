"""Options that concern classes, which only some kinds of labels take."""

from __future__ import annotations

from typing import Any

CLASS_OPTIONS = (
    "class_weights",
    "sampler",
    "loss",
    "threshold",
    "calibrate",
    "label_smoothing_factor",
    "label_separator",
    "examples_per_class",
    "val_examples_per_class",
)
"""Their names; a target may refuse them."""

NEUTRAL: tuple[Any, ...] = (None, "none", 0, "cross_entropy", {})
"""Values by which an option about classes changes nothing."""
