"""All that depends on the kind of input: images and texts.

`__init__.pyi` lists its door: the names that other rooms may use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
