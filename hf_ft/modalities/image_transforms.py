"""Images: any picture to upright RGB, augmentation, and the transform that a data set applies when read."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageOps


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


class RandomRegion:
    """Cut out a random region of 35 to 100 % of the picture; resizing is left to the model's own processor.

    The sampling is that of `torchvision.transforms.v2.RandomResizedCrop`, with less zoom than its 8 %, which is
    meant for training on ImageNet from scratch.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        from torchvision.transforms import RandomResizedCrop

        top, left, height, width = RandomResizedCrop.get_params(image, scale=[0.35, 1.0], ratio=[0.75, 4 / 3])
        return image.crop((left, top, left + width, top + height))


def augmentation(name: str) -> Any:
    """A function from a PIL image to a PIL image.

    `none`; `basic`: random region and horizontal flip; `trivial`: the same and TrivialAugment
    (https://arxiv.org/abs/2103.10158), the stronger choice when everything trains.
    """
    from torchvision.transforms import v2

    steps = {
        "none": [],
        "basic": [RandomRegion(), v2.RandomHorizontalFlip()],
        "trivial": [RandomRegion(), v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
    }[name]
    return v2.Compose(steps) if steps else _unchanged


def _unchanged(image: Image.Image) -> Image.Image:
    return image


class ImageTransform:
    """Turn a batch with an `image` column into `pixel_values` (batch, channels, height, width) and `labels`.

    Without augmentation this is exactly what `pipeline` does at inference: the model's processor, nothing else.
    """

    def __init__(self, processor: Any, augment: str) -> None:
        self.processor = processor
        self.augment = augmentation(augment)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [self.augment(upright_rgb(image)) for image in batch["image"]]
        encoded = {"pixel_values": list(self.processor(images, return_tensors="pt")["pixel_values"])}
        return encoded | ({"labels": batch["labels"]} if "labels" in batch else {})
