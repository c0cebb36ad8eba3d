"""Scores of predictions, their bootstrap intervals, and paired tests of significance.

`__init__.pyi` lists its door: the names that other rooms may use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
