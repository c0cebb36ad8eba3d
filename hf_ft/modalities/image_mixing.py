"""Mixing of training images: mixup and CutMix, which give a batch soft labels, each by torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MIXES = {"mixup": "MixUp", "cutmix": "CutMix"}
"""Option -> the class of `torchvision.transforms.v2` that does it."""


class ImageMixing:
    """Mix the images and labels of each batch in pairs; `labels` become shares of classes, (batch, classes).

    The partner of an image is its neighbour in the shuffled batch, and one share is drawn for the batch. Random numbers
    come from torch's generator: `SeededRows` makes them depend on the seed, the epoch and the rows of the batch alone.

    Args:
        alphas: `mixup` and `cutmix`, or one of them, -> the parameter of its Beta distribution. Of both, one is drawn
            for each batch.
        classes: The number of classes.
        collate: Makes the batch that is mixed.
    """

    def __init__(self, alphas: Mapping[str, float], classes: int, collate: Callable[[Any], Any]) -> None:
        from torchvision.transforms import v2

        mixes = [getattr(v2, MIXES[name])(alpha=alpha, num_classes=classes) for name, alpha in alphas.items()]
        self.mix, self.collate = v2.RandomChoice(mixes), collate

    def __call__(self, rows: Any) -> dict[str, Any]:
        batch = self.collate(rows)
        pixels, labels = self.mix(batch["pixel_values"], batch["labels"])
        return {**batch, "pixel_values": pixels, "labels": labels}
