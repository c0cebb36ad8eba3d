"""Random numbers that depend on a few integers alone, not on what was drawn before."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_numbers_of(what: Sequence[int]) -> Iterator[None]:
    """Seed all random generators by some integers; afterwards their states are restored."""
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
