"""Reports: renderers of records. Each is a function `render(record) -> str | Figure`, found by its `@report` decorator.

A new format is one file here; `registry` finds it. The door, the names that other rooms may use, stands in
`__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
