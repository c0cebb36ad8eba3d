"""The formats of an export, and the packages that each of them needs; without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_ft.errors import UserError, choose

INSTALL = "pip install 'hf-ft[export]'"
QUANTIZED = ("int8",)
"""The values of `--quantize`."""


@dataclass(frozen=True)
class Format:
    """A format of exported models.

    Args:
        title: What it is called in texts.
        packages: Packages that exporting and running needs beside those of hf_ft.
        program: The file of the graph.
        files: Patterns of the files that hold graph and weights.
        int8: Packages that quantising needs as well; None where quantising is not supported.
    """

    title: str
    packages: tuple[str, ...]
    program: str
    files: tuple[str, ...]
    int8: tuple[str, ...] | None = None


FORMATS = {
    "onnx": Format("ONNX", ("onnx", "onnxscript", "onnxruntime"), "model.onnx", ("*.onnx", "*.onnx.data"), ()),
    "openvino": Format(
        "OpenVINO", ("openvino",), "openvino_model.xml", ("openvino_*.xml", "openvino_*.bin"), ("nncf",)
    ),
    "torch_export": Format("torch.export", (), "model.pt2", ("*.pt2",)),
}
"""The values of `--format`."""


def check_format(name: str, quantize: str | None) -> Format:
    """Return a format after checking that it can be written here.

    Raises:
        UserError: No such format or quantisation, one that does not go with the other, or a package is missing.
    """
    format = FORMATS[choose(name, FORMATS, "format", option="format")]
    needed = list(format.packages)
    if quantize is not None:
        choose(quantize, QUANTIZED, "quantisation", option="quantize")
        if format.int8 is None:
            able = [other for other, found in FORMATS.items() if found.int8 is not None]
            raise UserError(
                f"--quantize {quantize} does not go with --format {name}.",
                option="quantize",
                value=quantize,
                hint=f"Use --format {' or '.join(able)}, or leave out --quantize.",
            )
        needed += format.int8
    asked = f"--format {name}" + (f" --quantize {quantize}" if quantize else "")
    if missing := missing_packages(needed):
        raise UserError(
            f"{asked} needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed.",
            option="format",
            value=name,
            hint=f"Install with: {INSTALL}",
        )
    if not _has_exporters():
        raise UserError(
            f"{asked} needs a transformers with exporters (transformers.exporters), and the installed one has none.",
            option="format",
            value=name,
            hint=f"Install a newer one: {INSTALL}",
        )
    return format


def missing_packages(names: Sequence[str]) -> list[str]:
    """Return those of some packages that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def _has_exporters() -> bool:
    """Whether the installed `transformers` has its exporters, seen without importing it."""
    spec = importlib.util.find_spec("transformers")
    places = (spec.submodule_search_locations or []) if spec else []
    return any((Path(place) / "exporters" / "__init__.py").is_file() for place in places)
