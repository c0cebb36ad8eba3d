"""A training that is interrupted at a step, as by Ctrl-C, without other code in the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hf_ft.training.trainer import StageTrainer


@contextmanager
def interrupted_after(step: int) -> Iterator[None]:
    """Within the block, the training of a stage raises `KeyboardInterrupt` once it has made so many steps.

    A callback would do, but its code is part of what a resumed run has to share with the one that it continues.
    """
    inner = StageTrainer.training_step

    def limited(self: StageTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step >= step:
            raise KeyboardInterrupt
        return inner(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, "training_step", limited)
        with pytest.raises(KeyboardInterrupt):
            yield
