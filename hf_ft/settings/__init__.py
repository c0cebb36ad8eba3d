"""All settings: what can be set, how layers of them are merged, and every check before torch is imported.

Its door, the names that other rooms may use, is in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
