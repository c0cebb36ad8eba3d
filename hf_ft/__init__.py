"""hf_ft: transfer learning on Hugging Face models: plain Hub models in, plain Hub models out.

The names in `__all__` are the public interface. They are imported when first used, so `import hf_ft` is immediate.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_ft.comparison import compare
    from hf_ft.config import Config, parse
    from hf_ft.data import Splits, load_splits
    from hf_ft.depth_groups import Anatomy, DepthGroup, anatomy
    from hf_ft.depth_search import depth
    from hf_ft.evaluation import score
    from hf_ft.feature_cache import FeatureCache
    from hf_ft.freezing import freeze
    from hf_ft.hub import save
    from hf_ft.lookup import UserError
    from hf_ft.model import load_model
    from hf_ft.optim import param_groups
    from hf_ft.ranking import rank
    from hf_ft.run import finetune
    from hf_ft.training import make_plan, train

__version__ = "0.1.0"
__all__ = [
    "Anatomy",
    "Config",
    "DepthGroup",
    "FeatureCache",
    "Splits",
    "UserError",
    "anatomy",
    "compare",
    "depth",
    "finetune",
    "freeze",
    "load_model",
    "load_splits",
    "make_plan",
    "param_groups",
    "parse",
    "rank",
    "save",
    "score",
    "train",
]

_HOME = {
    "Anatomy": "depth_groups",
    "Config": "config",
    "DepthGroup": "depth_groups",
    "FeatureCache": "feature_cache",
    "Splits": "data",
    "UserError": "lookup",
    "anatomy": "depth_groups",
    "compare": "comparison",
    "depth": "depth_search",
    "finetune": "run",
    "freeze": "freezing",
    "load_model": "model",
    "load_splits": "data",
    "make_plan": "training",
    "param_groups": "optim",
    "parse": "config",
    "rank": "ranking",
    "save": "hub",
    "score": "evaluation",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_ft' has no attribute '{name}'")
    return getattr(importlib.import_module(f"hf_ft.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
