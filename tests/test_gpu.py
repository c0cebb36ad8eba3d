"""Smoke tests on a GPU (`-m gpu`; skipped where there is none): training, precision, cached features, predictions.

Everything goes in by the command line on files, and comes out by the record and by a plain `pipeline`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_ft.cli import main

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("quick_proof")]

METHODS = ("head", "last_n:1", "full", "lp_ft", "lora", "bitfit")
PRECISIONS: Mapping[str, tuple[str, ...]] = {"default": (), "float32": ("--bf16", "false"), "fp16": ("--fp16",)}


def trained(model: str, data: str, out: Path, task: str, *options: str) -> dict[str, Any]:
    """The record of a run on the GPU."""
    words = ["train", "--task", task, "--model", model, "--dataset", data, "--output_dir", str(out)]
    assert main([*words, "--num_train_epochs", "2", *options]) == 0
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["machine"]["device"] == torch.cuda.get_device_name(0)
    return record


def check(record: Mapping[str, Any]) -> None:
    """Losses are numbers, scores are between 0 and 1, frozen tensors kept their bits, and the result loads back."""
    losses = [entry["loss"] for stage in record["stages"] for entry in stage["history"] if "loss" in entry]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert 0 <= record["metrics"]["test"][record["metric"]]["value"] <= 1
    assert record["proofs"]["load_back"]["largest_difference"] < 1e-2  # by a fresh process, on the CPU
    for stage in record["stages"]:
        assert stage["trainable"] == stage["total"] or stage["frozen_checked"] > 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_images(image_model: str, image_data: str, tmp_path: Path, method: str, precision: str) -> None:
    """Every kind of method in every precision, through the whole path."""
    check(
        trained(
            image_model,
            image_data,
            tmp_path / "out",
            "image_classification",
            *("--method", method, *PRECISIONS[precision]),
        )
    )


@pytest.mark.parametrize("method", METHODS)
def test_texts(text_model: str, text_data: str, tmp_path: Path, method: str) -> None:
    """The same for texts, in the default precision, as most would train them."""
    check(trained(text_model, text_data, tmp_path / "out", "text_classification", "--method", method))


def test_default_precision(text_model: str, text_data: str, tmp_path: Path) -> None:
    """bfloat16 where the GPU has units for it; `--bf16 false` is float32 without TF32; no setting outlives a run."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    units = torch.cuda.is_bf16_supported(including_emulation=False)
    default = trained(text_model, text_data, tmp_path / "default", "text_classification", "--method", "full")
    assert default["precision"]["compute"] == ("bfloat16" if units else "float32")
    assert default["settings"]["bf16"] is units
    plain = trained(
        text_model, text_data, tmp_path / "plain", "text_classification", "--method", "full", "--bf16", "false"
    )
    assert (plain["precision"]["compute"], plain["precision"]["tf32"]) == ("float32", False)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_cached_features_give_the_scores_of_uncached_ones(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The linear probe on cached features and by running the frozen layers in every epoch: the same test scores."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "features"))
    options = ("--method", "last_n:1", "--seed", "1", "--bf16", "false")
    cached = trained(text_model, text_data, tmp_path / "on", "text_classification", *options, "--cache", "on")
    uncached = trained(text_model, text_data, tmp_path / "off", "text_classification", *options, "--cache", "off")
    assert cached["stages"][0]["cache"]["examples"] > 0
    assert uncached["stages"][0]["cache"] is None
    for name in ("accuracy", "log_loss"):
        both = (record["metrics"]["test"][name]["value"] for record in (cached, uncached))
        assert next(both) == pytest.approx(next(both), abs=2e-3)


def test_freezing_saves_memory(text_model: str, text_data: str, tmp_path: Path) -> None:
    """A run with frozen layers allocates less of the GPU than one that trains everything."""
    uncached = ("--cache", "off", "--head_solver", "sgd")
    peaks = {}
    for method in ("head", "full"):
        record = trained(text_model, text_data, tmp_path / method, "text_classification", "--method", method, *uncached)
        peaks[method] = record["stages"][0]["peak_memory"]
    assert 0 < peaks["head"] < peaks["full"]


def test_a_result_answers_on_the_gpu_and_without_it(
    image_model: str, image_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate` and `predict` on the GPU agree with a plain `pipeline` on the CPU."""
    from transformers import pipeline

    out = tmp_path / "out"
    record = trained(image_model, image_data, out, "image_classification", "--method", "full")
    capsys.readouterr()
    assert main(["evaluate", str(out), "--dataset", image_data, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    expected = record["metrics"]["test"]["accuracy"]["value"]
    assert scores["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=0.06)  # one of 18 images
    photo = next(Path(image_data).glob("test/*/*.png"))
    answers = {
        device: pipeline("image-classification", model=str(out), device=device)(str(photo)) for device in ("cpu", 0)
    }
    for one, other in zip(answers["cpu"], answers[0], strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-3)
