"""Graphs of several architectures: the same logits from the runtime alone, for any number of examples and tokens."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from hf_ft.export.graph import CannotExport, export_graph, logits_alone
from hf_ft.export.parity import Answers, difference
from tests.support.tiny_models import Subject, batch, build, subjects

SAMPLE = (
    "image-resnet",
    "image-vit",
    "sequence-bert",
    "sequence-gpt2",
    "token-modernbert",
    "timm-test_efficientnet",
)
"""Convolution and attention, encoder and decoder, words and sentences."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/export.py`, which tries all architectures in the same way."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("export")


def subject(identifier: str) -> Subject:
    """An architecture of the matrix."""
    kind = identifier.partition("-")[0]
    return next(one for one in subjects(kind) if one.id == identifier)


@pytest.mark.parametrize("identifier", SAMPLE)
@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch_export"])
def test_architectures(identifier: str, format_name: str, benchmark: ModuleType) -> None:
    """Single examples, another length, and a larger batch than the traced one."""
    model = build(subject(identifier))
    found = benchmark.attempt(model, batch(model), format_name)
    assert "failed" not in found, found
    assert found["difference"] <= 1e-3


def test_a_reason_is_given(benchmark: ModuleType) -> None:
    """A model whose answer depends on its numbers in Python cannot be traced, and says so."""
    model = build(subject("image-resnet"))
    forward = model.forward

    def branching(pixel_values: torch.Tensor) -> object:
        return forward(pixel_values if pixel_values.sum().item() > 0 else -pixel_values)

    model.forward = branching
    with pytest.raises(CannotExport):
        export_graph(model, batch(model), "torch_export")
    assert "failed" in benchmark.attempt(model, batch(model), "torch_export")


def test_logits_alone_are_returned_within_the_block() -> None:
    """Afterwards the model returns what it did."""
    model = build(subject("sequence-gpt2"))
    inputs = batch(model)
    with logits_alone(model), torch.no_grad():
        assert list(model(**inputs)) == ["logits"]
    with torch.no_grad():
        assert type(model(**inputs)).__name__ == "SequenceClassifierOutputWithPast"
    assert "forward" not in vars(model)


def test_differences_are_relative_and_never_nothing() -> None:
    """What is not a number differs, and so does another shape."""
    one = Answers([np.array([10.0, -2.0], np.float32)], 1.0)
    near = Answers([np.array([10.005, -2.0], np.float32)], 1.0)
    far = Answers([np.array([10.5, -2.0], np.float32)], 1.0)
    broken = Answers([np.array([np.nan, -2.0], np.float32)], 1.0)
    assert difference(one, near).is_rounding
    assert difference(one, near).scale == 10.0
    assert not difference(one, far).is_rounding
    assert not difference(one, broken).is_rounding
    with pytest.raises(CannotExport):
        difference(one, Answers([np.array([10.0], np.float32)], 1.0))


def test_the_table_counts_and_names(benchmark: ModuleType) -> None:
    """Architectures that cannot be built are not counted; failures stand below with their reasons."""
    facts = [
        {"kind": "image", "name": "a", "format": "onnx", "difference": 1e-6},
        {"kind": "image", "name": "b", "format": "onnx", "failed": "why"},
        {"kind": "image", "name": "c", "format": "onnx", benchmark.CANNOT_BUILD: "no library"},
        {"kind": "token", "name": "a", "format": "onnx", "failed": "why"},
    ]
    text = benchmark.table({(one["kind"], one["name"], one["format"]): one for one in facts}, ["onnx"])
    assert "| image classifiers of transformers | 1 of 2 |" in text
    assert "| all | 1 of 3 (33%) |" in text
    assert "- image-b, token-a: why" in text


def test_the_published_table_is_that_of_the_attempts(benchmark: ModuleType) -> None:
    """`docs/export.md` has the counts of `benchmarks/export.jsonl`, whose architectures are those of the matrix."""
    facts = benchmark.collect(benchmark.FACTS)
    known = {(one.kind, one.name) for kind in benchmark.KINDS for one in subjects(kind)}
    assert len({(kind, name) for kind, name, _ in facts}) >= 35
    assert {(kind, name) for kind, name, _ in facts} <= known
    page = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
    counts = [line for line in benchmark.table(facts, benchmark.FORMATS).splitlines() if line.startswith("|")]
    assert len(counts) >= 5
    assert "\n".join(counts) in page
