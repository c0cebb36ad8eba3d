"""Typed records of finished results: `run.json`, `compare.json`, `depth.json`, `rank.json` and the files of trials.

Every record is a dataclass with a schema version; `record_files` is the one place that reads and writes them. Its
door, the names that other rooms may use, stands in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
