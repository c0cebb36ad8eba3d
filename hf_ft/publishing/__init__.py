"""Publishing: which files may leave the machine, the search for secrets in them, and the upload in one commit.

The names that other rooms may use are listed in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
