"""Training batches of texts by tokens: as many texts of similar length as fit, the same number of batches each epoch.

Texts are shuffled, then sorted by length within large groups, as `Trainer` does for `group_by_length`, then cut into
batches. How many batches that gives differs a little from epoch to epoch, and the schedule of the learning rate needs
one number. So the count is the largest of all epochs, and epochs with fewer batches divide their largest ones.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from hf_ft.errors import UserError
from hf_ft.feature_cache import row_lengths
from hf_ft.methods import AppliedStage
from hf_ft.modalities import filled_batches, longest_first
from hf_ft.training.data_order import balanced_order, classes_of

if TYPE_CHECKING:
    from hf_ft.training.run import Run

Batches = list[list[int]]

LEAST_GROUP, LARGEST_GROUP = 8, 50
"""Batches within which texts are sorted by length: a quarter of the data, and at most as many as in `Trainer`.

`Trainer` sorts within one batch where data are small, which saves no padding.
"""


@dataclass(eq=False)
class TokenBatches:
    """The batches of each epoch of a stage, a function of the seed and the epoch.

    Args:
        lengths: Tokens of each row.
        tokens: Most tokens of a batch, padding included; a longer text is a batch of its own.
        draw: Makes the rows of an epoch, in random order.
        seed: Of the order, as in `EpochOrder`.
        steps: The optimizer steps of the stage, where they are set; the epochs otherwise.
        accumulated: Batches of one optimizer step.
    """

    lengths: NDArray[np.int64]
    tokens: int
    draw: Callable[[torch.Generator], Sequence[int]]
    seed: int
    epochs: int
    steps: int = -1
    accumulated: int = 1

    def __len__(self) -> int:
        return self._count

    @functools.cached_property
    def _count(self) -> int:
        first = len(self._cut(0))
        epochs = self.epochs if self.steps < 0 else math.ceil(self.steps * self.accumulated / first)
        return max(first, *(len(self._cut(epoch)) for epoch in range(1, max(epochs, 2))))

    def of(self, epoch: int) -> Batches:
        """The batches of an epoch in random order; the first has the longest text, so that memory runs out early."""
        generator = self._generator(epoch)
        batches = _divided(self._cut(epoch, generator), len(self))
        order = torch.randperm(len(batches), generator=generator).tolist()
        longest = max(order, key=lambda place: max(self.lengths[batches[place]]))
        order.remove(longest)
        return [batches[place] for place in (longest, *order)]

    def facts(self) -> dict[str, float]:
        """For the record: batches of an epoch, and texts a batch and the share of padding in the first epoch."""
        batches = self.of(0)
        padded = sum(len(rows) * int(self.lengths[rows].max()) for rows in batches)
        real = int(self.lengths[[row for rows in batches for row in rows]].sum())
        texts = len(self.lengths) / len(batches)
        return {"tokens": self.tokens, "batches": len(batches), "texts": round(texts, 2), "padding": 1 - real / padded}

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + epoch)

    def _cut(self, epoch: int, generator: torch.Generator | None = None) -> Batches:
        generator = generator or self._generator(epoch)
        drawn = np.asarray(self.draw(generator), dtype=np.int64)
        texts = max(1, int(self.tokens / max(1.0, float(self.lengths.mean()))))
        group = min(max(LEAST_GROUP, len(drawn) // (4 * texts)), LARGEST_GROUP)
        places = get_length_grouped_indices(self.lengths[drawn].tolist(), texts, group, generator)
        return [rows.tolist() for rows in filled_batches(self.lengths, drawn[places], self.tokens)]


def _divided(batches: Batches, count: int) -> Batches:
    """Divide the largest batches in halves until there are `count`."""
    heap = [(-len(rows), place) for place, rows in enumerate(batches)]
    heapq.heapify(heap)
    while len(batches) < count:
        _, place = heapq.heappop(heap)
        rows = batches[place]
        batches[place] = rows[: len(rows) // 2]
        batches.append(rows[len(rows) // 2 :])
        for changed in (place, len(batches) - 1):
            heapq.heappush(heap, (-len(batches[changed]), changed))
    return batches


class TokenBatchSampler(Sampler[list[int]]):
    """The batch sampler of a training loader; indices hold the epoch, as those of `EpochOrder`."""

    batch_size = None
    """What accelerate asks a batch sampler for: these batches have no one size."""

    def __init__(self, batches: TokenBatches, epoch: Callable[[], int]) -> None:
        self.batches, self.epoch = batches, epoch
        self.drop_last = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch()
        first = epoch * len(self.batches.lengths)
        return ([first + row for row in rows] for rows in self.batches.of(epoch))


class FilledBatches(Sampler[list[int]]):
    """The batch sampler of an evaluation: texts from the longest to the shortest, filled up to some tokens.

    Rows without lengths, such as cached features of one size, come in order, as many at a time as there are tokens.
    """

    batch_size = None

    def __init__(self, rows: Any, tokens: int) -> None:
        lengths = row_lengths(rows)
        lengths = np.ones(len(rows), dtype=np.int64) if lengths is None else lengths
        self.batches = [found.tolist() for found in filled_batches(lengths, longest_first(lengths), tokens)]
        self.drop_last = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def token_batches(run: Run, stage: AppliedStage, rows: Any) -> TokenBatches | None:
    """The batches of a stage by tokens; None where the user set no tokens, so that batches are of examples.

    Lengths are those of the whole texts, also where the stage reads cached features: caching changes no result.

    Raises:
        UserError: the encoded rows are not texts.
    """
    tokens = run.config.tokens_per_batch
    if tokens is None:
        return None
    if stage.name not in run.batches:
        lengths = row_lengths(rows)
        if lengths is None:
            raise UserError(
                "--tokens_per_batch counts tokens, and the encoded examples have none.",
                option="tokens_per_batch",
                value=tokens,
                hint="Use --per_device_train_batch_size.",
            )
        draw: Callable[[torch.Generator], Sequence[int]]
        if run.config.sampler == "balanced":
            draw = functools.partial(balanced_order, classes_of(rows))
        else:
            draw = functools.partial(_shuffled, len(lengths))
        seed = run.args.seed if run.args.data_seed is None else run.args.data_seed
        accumulated = run.args.gradient_accumulation_steps
        epochs = math.ceil(stage.epochs)
        run.batches[stage.name] = TokenBatches(lengths, tokens, draw, seed, epochs, stage.max_steps, accumulated)
    return run.batches[stage.name]


def _shuffled(rows: int, generator: torch.Generator) -> list[int]:
    found: list[int] = torch.randperm(rows, generator=generator).tolist()
    return found
