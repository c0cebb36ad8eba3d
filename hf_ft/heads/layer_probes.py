"""Layer probes: linear probes on the hidden states at each boundary between blocks, from one pass over a split.

The depth with the best probe is not the best freeze depth: a probe sees what the layers below have made of an example,
not what the layers above could learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.nn.functional import linear
from transformers import PreTrainedModel

from hf_ft.heads.hidden_states import pooled_states
from hf_ft.heads.linear_solver import fit_linear
from hf_ft.modalities import longest_first, token_counts
from hf_ft.models import DepthGroups

Loss = Callable[..., torch.Tensor]

BATCH = 32
PENALTIES = tuple(10.0**power for power in range(1, -5, -1))
"""A coarser grid than that of a head that is saved."""
MAX_CLASSES = 300
"""More classes are not probed: the time grows with them, and a few hundred examples say little about so many."""


@dataclass(frozen=True)
class HiddenStateReader:
    """Turns rows into pooled hidden states.

    Args:
        encode: makes encoded rows, without augmentation.
        collate: makes a batch of encoded rows.
        head: adds what the head reads after the boundaries.
    """

    model: PreTrainedModel
    groups: DepthGroups
    encode: Callable[[Dataset], Dataset]
    collate: Callable[[list[dict[str, Any]]], Mapping[str, torch.Tensor]]
    device: torch.device
    head: bool = False

    def states(self, rows: Dataset) -> list[torch.Tensor]:
        """Pooled states `(rows, width)` at each boundary, from one pass.

        Raises:
            CannotSplit: the output of a block cannot be pooled.
        """
        encoded = self.encode(rows)
        self.model.to(self.device)  # type: ignore[arg-type]  # its annotation is that of a decorator
        lengths = token_counts(encoded)
        order = np.arange(len(encoded)) if lengths is None else longest_first(lengths)
        parts = []
        for begin in range(0, len(order), BATCH):
            batch = self.collate([encoded[int(place)] for place in order[begin : begin + BATCH]])
            inputs = {name: value.to(self.device) for name, value in batch.items() if name != "labels"}
            parts.append(pooled_states(self.model, self.groups, inputs, self.head))
        back = np.argsort(order)
        return [torch.cat(values)[back] for values in zip(*parts, strict=True)]


def sample_rows(rows: Dataset, most: int, seed: int) -> Dataset:
    """A random sample of at most so many rows of a split, in their order."""
    return rows.select(sample_places(len(rows), most, seed))


def sample_places(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """The ascending positions of a random sample of at most so many among `count` rows."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


PROBED, SAMPLE_SEED = 500, 0
"""Most examples of a split whose states are probed beside the head, and the seed of their sample.

The seed is that of no run, so that runs with other seeds find the same states cached.
"""


def fit_layer_probes(
    states: Sequence[torch.Tensor],
    rows: Sequence[Dataset],
    outputs: int,
    loss: Loss,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = 1e-7,
) -> NDArray[np.float32]:
    """Fit a linear probe on pooled states; returns its logits on validation `(rows, outputs)`.

    Args:
        states: of the training and of the validation examples.
        rows: the same examples, for their labels.
        outputs: logits of the probe.
    """
    fit = fit_linear(
        lambda: [(states[0], _labels(rows[0]))],
        outputs,
        loss,
        _validate(loss, states[1], rows[1]),
        penalties=penalties,
        tolerance=tolerance,
    )
    found: NDArray[np.float32] = linear(states[1], fit.weight, fit.bias).numpy()
    return found


def _labels(rows: Dataset) -> torch.Tensor:
    cells: NDArray[Any] = np.asarray(rows["labels"][:])
    labels = torch.tensor(cells)
    return labels.double() if labels.is_floating_point() else labels


def _validate(loss: Loss, states: torch.Tensor, rows: Dataset) -> Callable[..., float]:
    labels = _labels(rows)

    def validate(weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        logits = SimpleNamespace(logits=linear(states, weight, bias))
        return float(loss(logits, labels, num_items_in_batch=int((labels != -100).sum())))

    return validate
