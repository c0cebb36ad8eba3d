"""Types of columns: what a column of a data set can be used for, by its feature alone."""

from __future__ import annotations

from typing import Any

import datasets
from datasets import ClassLabel, LargeList, List, Value


def is_list(feature: Any) -> bool:
    """Whether each row holds a list."""
    return isinstance(feature, List | LargeList)


def element(feature: Any) -> Any:
    """The type of what a list holds; of a column without lists its own type."""
    return feature.feature if is_list(feature) else feature


def type_name(feature: Any) -> str:
    """The type of a column in words."""
    kind = type(feature).__name__
    # `Json` is what `datasets` makes of a column of JSON lines whose values are of several types.
    return "a mix of types" if kind == "Json" else str(getattr(feature, "dtype", kind))


def holds_text(feature: Any) -> bool:
    """Whether a column of this type holds text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def holds_words(feature: Any) -> bool:
    """Whether a column of this type holds lists of text."""
    return is_list(feature) and holds_text(element(feature))


def holds_images(feature: Any) -> bool:
    """Encoded images: the `Image` feature, or what it is stored as when a file does not say so."""
    is_struct = isinstance(feature, dict) and "bytes" in feature
    return isinstance(feature, datasets.Image) or is_struct or type_name(feature) in ("binary", "large_binary")


def holds_labels(feature: Any) -> bool:
    """Whether a column of this type can hold labels: text or numbers, or lists of them."""
    kinds = ("int", "uint", "bool", "float", "double", "string", "large_string")
    inner = element(feature)
    return isinstance(inner, ClassLabel | Value) and inner.dtype.startswith(kinds)


def file_column(rows: Any) -> str | None:
    """The column of encoded files that are decoded when they are read, such as images; None where there is none.

    Rows of any kind are asked, also those that a recipe brings.
    """
    features = getattr(rows, "features", None) or {}
    return next((name for name, feature in features.items() if hasattr(feature, "decode_example")), None)


def image_column(rows: Any) -> str | None:
    """The column of images that are decoded when they are read; None where there is none."""
    name = file_column(rows)
    return name if name is not None and holds_images(rows.features[name]) else None
