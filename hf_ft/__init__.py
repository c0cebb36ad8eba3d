"""hf_ft: transfer learning on Hugging Face models: plain Hub models in, plain Hub models out.

The public names are listed in `__init__.pyi`. They are imported when first used, so `import hf_ft` is immediate.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
