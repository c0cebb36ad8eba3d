"""What is taken of a pass through the frozen layers besides the features, and of which examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Batch = Mapping[str, torch.Tensor]


class Watch(Protocol):
    """Takes small tensors of passes of a model."""

    def begin(self, batch: Batch) -> None:
        """Watch the next pass, which is that of a batch."""

    def states(self) -> list[torch.Tensor]:
        """Return the tensors `(examples, width)` of that pass, float32 on the CPU.

        Raises:
            CannotSplit: It has none.
        """


@dataclass(frozen=True)
class Summary:
    """What to take of a pass, and of which examples.

    Args:
        name: Says what is taken; a part of the key.
        watch: A block within which passes of the model are watched.
        sample: The positions of the examples among so many.
    """

    name: str
    watch: Callable[[], AbstractContextManager[Watch]]
    sample: Callable[[int], NDArray[np.int64]]
