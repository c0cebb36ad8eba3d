"""Autotuning: a step of a model in several forms that give the same numbers, tried on this machine; the fastest runs.

Its door, the names that other rooms may use, stands in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
