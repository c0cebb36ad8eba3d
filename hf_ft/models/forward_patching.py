"""The one place that replaces `forward`: to watch a pass, to stop it, or to answer in a module's place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


class StopForward(Exception):
    """Ends a forward pass early, once everything that is wanted of it has been seen."""


@contextmanager
def patched_forward(model: nn.Module, forwards: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Within the block, the named modules have another `forward`.

    Attributes are replaced instead of hooks being registered, because some models call `layer.forward(...)` directly,
    which runs no hooks. A module that has a `forward` of its own as an attribute (FasterNet's choose theirs when they
    are made) gets it back.
    """
    own = {}
    for name, forward in forwards.items():
        module = model.get_submodule(name)
        own[name] = vars(module).get("forward")
        module.forward = forward
    try:
        yield
    finally:
        for name, before in own.items():
            module = model.get_submodule(name)
            del module.forward
            if before is not None:
                module.forward = before
