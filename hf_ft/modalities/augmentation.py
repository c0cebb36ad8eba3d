"""Image augmentations, the values of `--augment`: each maps an upright RGB image to another one.

Light, since settings list the names: torchvision is imported when an augmentation is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

Step = Callable[["Image.Image"], "Image.Image"]


class RandomRegion:
    """Crop a random region of 35 to 100 % of the image; resizing is left to the model's own processor.

    Sampled like `torchvision.transforms.v2.RandomResizedCrop`, with less zoom than its 8 %, which is meant for
    training on ImageNet from scratch.
    """

    def __call__(self, image: Image.Image) -> Image.Image:
        from torchvision.transforms import RandomResizedCrop

        top, left, height, width = RandomResizedCrop.get_params(image, scale=[0.35, 1.0], ratio=[0.75, 4 / 3])
        return image.crop((left, top, left + width, top + height))


def _none() -> list[Any]:
    return []


def _basic() -> list[Any]:
    """Random region and horizontal flip."""
    from torchvision.transforms import v2

    return [RandomRegion(), v2.RandomHorizontalFlip()]


def _trivial() -> list[Any]:
    """`basic` and TrivialAugment (https://arxiv.org/abs/2103.10158): stronger, for methods that train everything."""
    from torchvision.transforms import v2

    return [*_basic(), v2.TrivialAugmentWide()]


def _randaugment() -> list[Any]:
    """`basic` and RandAugment (https://arxiv.org/abs/1909.13719): two operations of medium strength for each image."""
    from torchvision.transforms import InterpolationMode, v2

    return [*_basic(), v2.RandAugment(num_ops=2, magnitude=9, interpolation=InterpolationMode.BILINEAR)]


def _augmix() -> list[Any]:
    """`basic` and AugMix (https://arxiv.org/abs/1912.02781): the image mixed with augmented versions of itself."""
    from torchvision.transforms import InterpolationMode, v2

    return [*_basic(), v2.AugMix(interpolation=InterpolationMode.BILINEAR)]


AUGMENTATIONS: dict[str, Callable[[], list[Any]]] = {
    "none": _none,
    "basic": _basic,
    "trivial": _trivial,
    "randaugment": _randaugment,
    "augmix": _augmix,
    "strong": _randaugment,
}
"""Name -> a function that returns the steps, each from a PIL image to a PIL image, random by torch's generator."""

ERASING = {"strong": 0.25}
"""Augmentation -> its probability of random erasing, which `ImageTransform` applies after the processor."""


def augmentation(name: str) -> Step:
    """The augmentation of that name, as a function from a PIL image to a PIL image."""
    steps = AUGMENTATIONS[name]()
    if not steps:
        return _unchanged
    from torchvision.transforms import v2

    composed: Step = v2.Compose(steps)
    return composed


def _unchanged(image: Image.Image) -> Image.Image:
    return image
