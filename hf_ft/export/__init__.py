"""Export: a trained model as ONNX, OpenVINO or `torch.export`, quantised on request, compared with PyTorch.

Its door, the names that other rooms may use, stands in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
