"""Views of one image for test-time augmentation: the image, crops of it, and the mirror image of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

CROP = 0.875
"""Width and height of a crop, as shares of those of the image: the usual margin at 224 pixels."""
PLACES = (None, (0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
"""What a view shows: None for the whole image; else the shares of the margin above and left of a crop."""
MOST_VIEWS = 2 * len(PLACES)


def image_views(number: int) -> list[Callable[[Any], Any]]:
    """Return the first `number` views, functions from a PIL image to a PIL image.

    They are the image itself, its mirror image, and crops of the centre and the corners with theirs, in pairs. A plain
    mean over all twelve is the ten-crop testing of AlexNet with the whole image added.
    """
    views = [partial(_view, place=place, mirrored=mirrored) for place in PLACES for mirrored in (False, True)]
    return [*views[:number]]


def _view(image: Image.Image, place: tuple[float, float] | None, mirrored: bool) -> Any:
    from torchvision.transforms.v2 import functional

    if place is not None:
        height, width = (max(1, round(CROP * side)) for side in (image.height, image.width))
        top, left = round(place[0] * (image.height - height)), round(place[1] * (image.width - width))
        image = functional.crop(image, top, left, height, width)
    return functional.horizontal_flip(image) if mirrored else image
