"""hf_ft: transfer learning on Hugging Face models: plain Hub models in, plain Hub models out.

The names below are the public interface. They are imported when first used, so that `import hf_ft` is immediate.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_ft.config import Config, parse
    from hf_ft.data import Splits, load_splits
    from hf_ft.depth_groups import Anatomy, DepthGroup, anatomy
    from hf_ft.evaluation import score
    from hf_ft.freezing import audit, freeze
    from hf_ft.hub import save
    from hf_ft.lookup import UserError
    from hf_ft.model import load_model
    from hf_ft.optim import param_groups
    from hf_ft.run import finetune
    from hf_ft.training import make_plan, train

__version__ = "0.1.0"

_HOME = {
    "Anatomy": "depth_groups",
    "DepthGroup": "depth_groups",
    "anatomy": "depth_groups",
    "Config": "config",
    "parse": "config",
    "Splits": "data",
    "load_splits": "data",
    "score": "evaluation",
    "audit": "freezing",
    "freeze": "freezing",
    "save": "hub",
    "UserError": "lookup",
    "load_model": "model",
    "param_groups": "optim",
    "finetune": "run",
    "make_plan": "training",
    "train": "training",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_ft' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"hf_ft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
