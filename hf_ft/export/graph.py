"""A model as one graph from inputs to logits, traced by the exporters of `transformers`."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from hf_ft.environment import block_telemetry
from hf_ft.errors import first_line
from hf_ft.models import patched_forward

Batch = Mapping[str, torch.Tensor]


class CannotExport(Exception):
    """The model cannot be exported; the text says why."""


def export_graph(
    model: PreTrainedModel, inputs: Batch, format_name: str, quantize: bool = False, calibration: Sequence[Batch] = ()
) -> Any:
    """Return a model as a `transformers.exporters.ExportedModel` whose only output is `logits`.

    The number of examples is free, and so is the length of texts.

    Args:
        model: In evaluation mode, in float32.
        inputs: A batch of at least two examples, by which the model is traced.
        format_name: One of `FORMATS`.
        quantize: Whether to quantise to int8.
        calibration: Batches of typical examples by which ranges of activations are measured; without any, ONNX Runtime
            measures them while the model runs.

    Raises:
        CannotExport: The exporter does not support the model.
    """
    exporters = _exporters()
    known = {
        "onnx": (exporters.OnnxExporter, exporters.OnnxConfig),
        "openvino": (exporters.OpenVINOExporter, exporters.OpenVINOConfig),
        "torch_export": (exporters.DynamoExporter, exporters.DynamoConfig),
    }
    exporter, settings = known[format_name]
    quantizer = _quantizer(format_name, calibration) if quantize else None
    shapes = {name: dict.fromkeys(_free_axes(value), torch.export.Dim.AUTO) for name, value in inputs.items()}
    # No cache of keys and values: the graph answers once. The exporter takes this flag out of the inputs.
    given = {**inputs, "use_cache": False}
    try:
        with _quiet(), logits_alone(model):
            return exporter().export(model, given, settings(dynamic_shapes=shapes, quantizer=quantizer))
    except Exception as error:  # the code of any model is traced here, and any of it may raise anything
        raise CannotExport(first_line(type(error).__name__, error)) from error


def _exporters() -> Any:
    """The exporters of `transformers`, whose names are made when they are asked for; they import OpenVINO and NNCF."""
    block_telemetry()
    return importlib.import_module("transformers.exporters")


def _free_axes(value: torch.Tensor) -> range:
    """The axes whose size is free: examples, and the tokens of texts, whose inputs are (examples, tokens)."""
    return range(2 if value.ndim == 2 else 1)


@contextmanager
def logits_alone(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, the model returns a dictionary with its logits and nothing else.

    Plain dictionaries are loaded by `torch.export.load` without `transformers`.
    """
    forward = model.forward

    def logits(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {"logits": forward(*args, **kwargs)["logits"]}

    with patched_forward(model, {"": logits}):
        yield


def _quantizer(format_name: str, calibration: Sequence[Batch]) -> Any:
    """The quantiser of a format; see `docs/export.md` for the reasons of these choices."""
    exporters = _exporters()
    if format_name == "openvino":
        return exporters.NNCFOpenVINOQuantizer(calibration_dataset=[dict(batch) for batch in calibration])
    from onnxruntime.quantization import QuantType

    if not calibration:
        dynamic = exporters.OnnxRuntimeDynamicConfig(per_channel=True, weight_type=QuantType.QInt8)
        return exporters.OnnxRuntimeQuantizer(dynamic)
    static = exporters.OnnxRuntimeStaticConfig(
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )
    return exporters.OnnxRuntimeQuantizer(static, calibration_dataset=[dict(batch) for batch in calibration])


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress and warnings of the exporters about their own insides, which nobody can act on."""
    before, level = transformers.logging.get_verbosity(), logging.root.manager.disable
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        transformers.logging.set_verbosity(before)
