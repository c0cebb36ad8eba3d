"""Images: any image to upright RGB, and the transform that a dataset applies when rows are read."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageOps

from hf_ft.modalities.augmentation import augmentation


def upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation and convert to RGB.

    Transparent pixels become white (a plain `convert` shows whatever colour lies beneath them), and 16-bit grey
    is scaled to 8 bits (a plain `convert` clips it to white).
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        import numpy as np

        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


class ImageTransform:
    """Turn a batch with an `image` column into `pixel_values` (batch, channels, height, width) and `labels`.

    Without augmentation this is exactly what `pipeline` does at inference: the model's processor, nothing else.
    """

    def __init__(self, processor: Any, augment: str) -> None:
        self.processor, self.augments = processor, augment != "none"
        self.augment = augmentation(augment)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [self.augment(upright_rgb(image)) for image in batch["image"]]
        encoded = {"pixel_values": list(self.processor(images, return_tensors="pt")["pixel_values"])}
        return encoded | ({"labels": batch["labels"]} if "labels" in batch else {})
