"""What a training reads, in which order and how augmented: from the seed and the epoch alone.

So a run that goes on within an epoch reads the same as one that was never interrupted: `Trainer` skips the batches that
it had, and puts the state of the random numbers back only after it has read two more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class EpochOrder(Sampler[int]):
    """The rows of an epoch in an order of its own; `order` makes it with a generator.

    An index says the epoch as well, `epoch * rows + row`, so that workers know it which live longer than one.
    """

    def __init__(
        self, rows: int, seed: int, epoch: Callable[[], int], order: Callable[[torch.Generator], Sequence[int]]
    ) -> None:
        self.rows, self.seed, self.epoch, self.order = rows, seed, epoch, order

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch()
        generator = torch.Generator()
        generator.manual_seed(self.seed + epoch)
        return (epoch * self.rows + int(row) for row in self.order(generator))


class SeededRows(Dataset[Any]):
    """Batches whose random transforms depend on seed, epoch and rows alone; takes the indices of `EpochOrder`.

    Gives them collated (`__getitems__`), since a collator may draw random numbers as well.
    """

    def __init__(self, rows: Any, seed: int, collate: Callable[[Any], Any]) -> None:
        self.rows, self.seed, self.collate = rows, seed, collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index % len(self.rows)]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        whole = getattr(self.rows, "__getitems__", None)
        places = [index % len(self.rows) for index in indices]
        with random_numbers_of([self.seed, *indices]):
            return self.collate(whole(places) if whole else [self.rows[place] for place in places])


@contextmanager
def random_numbers_of(what: Sequence[int]) -> Iterator[None]:
    """Random numbers that follow from whole numbers alone; afterwards they go on as if nothing had been drawn."""
    seed = int(np.random.SeedSequence(what).generate_state(1)[0])
    python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would touch the GPUs' too
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(own)
