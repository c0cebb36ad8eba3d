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
    patched = []
    for name, forward in forwards.items():
        module = model.get_submodule(name)
        patched.append((module, vars(module).get("forward")))
        module.forward = forward
    try:
        yield
    finally:
        # by the modules themselves: a pass may put another one under a name, as BigBird's does for short texts
        for module, before in patched:
            del module.forward
            if before is not None:
                module.forward = before
