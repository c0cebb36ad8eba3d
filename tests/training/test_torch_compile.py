"""`--torch_compile`: the same training as without, with frozen layers, BatchNorm, adapters and cached features.

Most runs use the backend `aot_eager`, which traces and differentiates like the usual one but generates no code: its
numbers are those of an uncompiled run, to the bit. One run uses the usual one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_ft.cli import main

pytestmark = pytest.mark.usefixtures("quick_proof")

TRACED = ("--torch_compile", "--torch_compile_backend", "aot_eager")
GENERATED = ("--torch_compile",)
SHORT = ("--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no")


def trained(model: str, data: str, out: Path, kind: str, *options: str) -> dict[str, Any]:
    """The record of a short run by the command line."""
    words = ["train", "--task", f"{kind}_classification", "--model", model, "--dataset", data, "--output_dir", str(out)]
    assert main([*words, "--seed", "1", "--cache_dir", str(out.parent / "features"), *options]) == 0
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


def check(record: dict[str, Any], out: Path, plain: dict[str, Any], other: Path, exact: bool) -> None:
    """The same tensors and losses as an uncompiled run; it loads back, and frozen tensors kept their bits."""
    assert record["settings"]["torch_compile"]
    assert not plain["settings"]["torch_compile"]
    assert record["proofs"]["load_back"]["passed"]
    for mine, theirs in zip(record["stages"], plain["stages"], strict=True):
        assert mine["frozen_checked"] == theirs["frozen_checked"]
        assert bool(mine["cache"]) == bool(theirs["cache"])
        assert bool(mine["solver"]) == bool(theirs["solver"])
    tensors, expected = (load_file(folder / "model.safetensors") for folder in (out, other))
    assert tensors.keys() == expected.keys()
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], **tolerance)


CASES = {
    "a frozen prefix with BatchNorm": ("image", ("--method", "last_n:1", "--cache", "off", *SHORT)),
    "cached features, then all": ("image", ("--method", "lp_ft", "--num_train_epochs", "1", "--augment", "none")),
    "adapters": ("text", ("--method", "lora", *SHORT)),
    "texts above cached features": ("text", ("--method", "last_n:1", "--cache", "on", *SHORT)),
}


@pytest.mark.parametrize("case", CASES)
def test_traced_run_is_the_uncompiled_run(
    case: str, image_model: str, image_data: str, text_model: str, text_data: str, tmp_path: Path
) -> None:
    """Tracing sees the hooks that hold frozen layers in evaluation mode, and the stubs of a model split."""
    kind, options = CASES[case]
    model, data = (image_model, image_data) if kind == "image" else (text_model, text_data)
    record = trained(model, data, tmp_path / "traced", kind, *options, *TRACED)
    plain = trained(model, data, tmp_path / "plain", kind, *options)
    check(record, tmp_path / "traced", plain, tmp_path / "plain", exact=True)
    assert (record["stages"][0]["cache"] is not None) == ("cached" in case)
    if case == "a frozen prefix with BatchNorm":
        assert record["stages"][0]["frozen_checked"] > 0


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_generated_code_trains_alike(image_data: str, tmp_path: Path) -> None:
    """The usual backend, whose kernels round in another way, on everything with BatchNorm of one block."""
    model = str(tmp_path / "model")
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(model)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(model)
    record = trained(model, image_data, tmp_path / "code", "image", "--method", "full", *SHORT, *GENERATED)
    plain = trained(model, image_data, tmp_path / "plain", "image", "--method", "full", *SHORT)
    check(record, tmp_path / "code", plain, tmp_path / "plain", exact=False)
