"""Images: any image to upright RGB, and the transform that a dataset applies when rows are read."""

from __future__ import annotations

from collections.abc import Callable
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

    Args:
        processor: The model's image processor.
        augment: A name in `AUGMENTATIONS`, applied before the processor.
        erasing: The probability that a random rectangle of the model's input is set to 0, the mean colour after
            normalisation (https://arxiv.org/abs/1708.04896).
    """

    def __init__(self, processor: Any, augment: str, erasing: float = 0.0) -> None:
        self.processor, self.augments = processor, augment != "none" or erasing > 0
        self.augment, self.erase = augmentation(augment), _erasing(erasing)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [self.augment(upright_rgb(image)) for image in batch["image"]]
        pixels = list(self.processor(images, return_tensors="pt")["pixel_values"])
        if self.erase is not None:
            pixels = [self.erase(one) for one in pixels]
        encoded = {"pixel_values": pixels}
        return encoded | ({"labels": batch["labels"]} if "labels" in batch else {})


def _erasing(probability: float) -> Any:
    if not probability:
        return None
    from torchvision.transforms import v2

    return v2.RandomErasing(probability)


class ChangedImages:
    """Change images before the transform `inner` of a dataset encodes them, as the views of one image do."""

    def __init__(self, change: Callable[[Image.Image], Image.Image], inner: Callable[[dict[str, Any]], Any]) -> None:
        self.change, self.inner = change, inner

    def __call__(self, batch: dict[str, list[Any]]) -> Any:
        return self.inner({**batch, "image": [self.change(upright_rgb(image)) for image in batch["image"]]})
