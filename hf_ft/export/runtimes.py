"""Exported models as they run: loaded from their files by the runtime alone, from arrays to logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_ft.environment import block_telemetry
from hf_ft.export.formats import FORMATS

Arrays = Mapping[str, NDArray[Any]]
Runtime = Callable[[Arrays], NDArray[np.float32]]
"""Returns the logits of a batch."""


def load_runtime(folder: Path, format_name: str, threads: int) -> Runtime:
    """Load an exported model from its folder.

    Args:
        threads: How many threads it uses, as far as the runtime can be told.
    """
    path = str(folder / FORMATS[format_name].program)
    return {"onnx": _onnx, "openvino": _openvino, "torch_export": _torch_export}[format_name](path, threads)


def _onnx(path: str, threads: int) -> Runtime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]  # an input that the model does not read is left out

    def run(arrays: Arrays) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["logits"], {name: arrays[name] for name in names})[0]
        return found

    return run


def _openvino(path: str, threads: int) -> Runtime:
    block_telemetry()
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where it is fast
    model = openvino.Core().compile_model(path, "CPU", options)
    names = [one.any_name for one in model.inputs]

    def run(arrays: Arrays) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model({name: arrays[name] for name in names})["logits"]
        return np.array(found)  # the runtime writes into the same memory again

    return run


def _torch_export(path: str, threads: int) -> Runtime:
    model = torch.export.load(path).module()

    def run(arrays: Arrays) -> NDArray[np.float32]:
        with torch.no_grad():
            found = model(**{name: torch.from_numpy(value) for name, value in arrays.items()})["logits"]
        return np.asarray(found, dtype=np.float32)

    return run
