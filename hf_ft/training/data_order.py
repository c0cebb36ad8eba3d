"""The order of training examples and their random transforms, as a function of the seed and the epoch.

So a run that is resumed within an epoch reads the same as one that was never interrupted. `Trainer` would not: it
skips the batches that were done, and restores the random state only after it has read two more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from hf_ft.environment import random_numbers_of
from hf_ft.feature_cache import CachedViews


class EpochOrder(Sampler[int]):
    """A sampler with a new order of the rows for each epoch, which `order` makes with a generator.

    An index holds the epoch as well, `epoch * rows + row`, for workers that serve several epochs.
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
    """A dataset whose random transforms depend on seed, epoch and row alone; takes the indices of `EpochOrder`.

    Batches come collated (`__getitems__`), because a collator may use random numbers as well. With `classes`, that of
    each row, `StageTrainer` draws all classes equally often.
    """

    classes: torch.Tensor | None = None

    def __init__(self, rows: Any, seed: int, collate: Callable[[Any], Any]) -> None:
        self.rows, self.seed, self.collate = rows, seed, collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index % len(self.rows)]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        whole = getattr(self.rows, "__getitems__", None)
        by_epoch = isinstance(self.rows, CachedViews)
        places = indices if by_epoch else [index % len(self.rows) for index in indices]
        with random_numbers_of([self.seed, *indices]):
            return self.collate(whole(places) if whole else [self.rows[place] for place in places])


def classes_of(rows: Any) -> torch.Tensor:
    """Return the class of each row of an encoded split, without reading its inputs."""
    return torch.tensor(rows.with_format(None).select_columns(["labels"])["labels"][:])


def balanced_order(classes: torch.Tensor, generator: torch.Generator) -> list[int]:
    """Return as many rows as there are, in random order, in which all classes are equally frequent (within one).

    An example is repeated only once all others of its class were drawn as often. Classes get what does not divide
    evenly at random. `torch.utils.data.WeightedRandomSampler` would draw each row on its own, and leave out many.

    Args:
        classes: The class of each row.
        generator: The random numbers.
    """
    members = [torch.nonzero(classes == one).flatten() for one in classes.unique()]
    sizes = torch.full((len(members),), len(classes) // len(members))
    sizes[torch.randperm(len(members), generator=generator)[: len(classes) % len(members)]] += 1
    drawn = []
    for rows, size in zip(members, sizes.tolist(), strict=True):
        rounds = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-size // len(rows)))]
        drawn.append(torch.cat([*rounds, rows[:0]])[:size])
    every = torch.cat(drawn)
    found: list[int] = every[torch.randperm(len(every), generator=generator)].tolist()
    return found
