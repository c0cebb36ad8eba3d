"""Fixed views: each training image augmented K times, always in the same way, so that its features can be cached.

An augmentation that draws new random numbers in each epoch gives other features each time. With K fixed views of each
image, epochs cycle through K versions of the data, all of which run through the frozen layers once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import default_data_collator

from hf_ft.environment import random_numbers_of
from hf_ft.feature_cache.feature_files import Features
from hf_ft.feature_cache.rows import CachedRows


class FixedViews:
    """Encoded images in several views each: place `row * views + view`, read like a `Dataset`.

    The random numbers of a view depend on the seed, the row and the number of the view alone.

    Args:
        rows: The encoded training split, whose transform augments.
        views: Views of each image.
        seed: Of the data order.
    """

    def __init__(self, rows: Dataset, views: int, seed: int) -> None:
        self.plain, self.views, self.seed = rows.with_format(None), views, seed
        self.transform = rows.format["format_kwargs"]["transform"]

    def __len__(self) -> int:
        return len(self.plain) * self.views

    def __getitem__(self, places: Sequence[int]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        # Neighbouring places are views of one image, which is decoded once for all of them.
        for row, group in itertools.groupby(places, key=lambda place: place // self.views):
            image = {name: [value] for name, value in self.plain[row].items()}
            for place in group:
                with random_numbers_of([self.seed, row, place % self.views]):
                    encoded = self.transform(dict(image))
                for name, values in encoded.items():
                    columns.setdefault(name, []).extend(values)
        return columns

    def fingerprints(self, of_images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the fingerprints of all views `(rows * views, 16)` from those of the images `(rows, 16)`.

        Pillow takes part, because it is what augmentations call and no identity of code shows its version.
        """
        found, pillow = np.empty((len(self), of_images.shape[1]), dtype=np.uint8), version("pillow")
        for place in range(len(self)):
            row, view = divmod(place, self.views)
            content = of_images[row].tobytes() + f" {self.seed} {row} {view} {pillow}".encode()
            digest = hashlib.blake2b(content, digest_size=of_images.shape[1]).digest()
            found[place] = np.frombuffer(digest, dtype=np.uint8)
        return found

    def cached(self, features: Features) -> CachedViews:
        """Return the views with their features, as training reads them."""
        return CachedViews(features, self.plain.select_columns(["labels"]), self.views, self.seed)


class CachedViews(CachedRows):
    """Cached images of which each epoch reads one view: all views once, in random order, then all of them again.

    It takes the indices of `EpochOrder`, `epoch * rows + row`.

    Attributes:
        every: All views of all images as rows of their own, for a head that is solved from all at once.
    """

    def __init__(self, features: Features, rows: Dataset, views: int, seed: int) -> None:
        super().__init__(features, rows, default_data_collator, None)
        self.views, self.seed = views, seed
        repeated = rows.select(np.repeat(np.arange(len(rows)), views))
        self.every = CachedRows(features, repeated, default_data_collator, None)

    def view_in(self, epoch: int) -> int:
        """Return the view that an epoch reads."""
        cycle, place = divmod(epoch, self.views)
        return int(np.random.default_rng([self.seed, cycle]).permutation(self.views)[place])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        rows, views = len(self.rows), {index // len(self.rows): 0 for index in indices}
        views = {epoch: self.view_in(epoch) for epoch in views}
        return self.every.__getitems__([index % rows * self.views + views[index // rows] for index in indices])
