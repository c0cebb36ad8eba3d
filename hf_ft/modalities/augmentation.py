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


AUGMENTATIONS: dict[str, Callable[[], list[Any]]] = {
    "none": _none,
    "basic": _basic,
    "trivial": _trivial,
}
"""Name -> a function that returns the steps, each from a PIL image to a PIL image, random by torch's generator."""


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
