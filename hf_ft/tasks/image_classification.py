"""Image classification: one label or several labels per image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.modalities import get_modality
from hf_ft.tasks.base import Raw, Task

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.settings import EncodingSettings


def encode(dataset: Dataset, processor: Any, config: EncodingSettings, training: bool) -> Dataset:
    """Decode, augment (in training) and process images when they are read, so memory does not grow with the data."""
    from hf_ft.modalities import ImageTransform

    augment, erasing = (config.augment or "none", config.erasing) if training else ("none", 0.0)
    return dataset.with_transform(ImageTransform(processor, augment, erasing))


def collator(processor: Any) -> Any:
    """Return the default collator, which stacks images: all have the processor's size."""
    from transformers import default_data_collator

    return default_data_collator


def raw(rows: Dataset, processor: Any, config: EncodingSettings, folder: Path) -> Raw:
    """Save the images as files, which the pipeline reads."""
    from hf_ft.modalities import upright_rgb

    paths = [str(folder / f"{i}.png") for i in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        upright_rgb(row["image"]).save(path)
    return Raw(rows, paths)


TASK = Task(
    name="image_classification",
    summary="one or several labels per image",
    modality=get_modality("image"),
    auto_class="AutoModelForImageClassification",
    pipeline="image-classification",
    inputs={"image": ("image", "img", "image_file_path", "file_name", "pixel_values")},
    encode=encode,
    collator=collator,
    raw=raw,
)
