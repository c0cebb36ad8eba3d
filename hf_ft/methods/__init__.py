"""Methods of fine-tuning: their stages, the selectors of what trains, and the methods of PEFT.

Its door, the names that other rooms may use, is in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
