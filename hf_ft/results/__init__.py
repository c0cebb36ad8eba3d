"""The result folder: saving a plain Hub model, averaging several, and publishing at the end of a run.

Its door, the names that other rooms may use, stands in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
