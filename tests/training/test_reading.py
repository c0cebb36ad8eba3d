"""How stages read their data: workers change no tensor, waiting is measured, and full memory halves batches."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_ft import finetune
from hf_ft.environment import with_halved_batches
from hf_ft.evaluation import head_input
from hf_ft.feature_cache import build
from hf_ft.training import data_wait
from hf_ft.training.data_wait import DataWait, waiting_line

FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def test_results_are_the_same_with_any_number_of_workers(image_data: str, image_model: str, tmp_path: Path) -> None:
    """Random crops depend on seed, epoch and row, and features come in the order of the rows."""
    records = {}
    for workers in (0, 2):
        records[workers] = finetune(
            task="image_classification", model=image_model, dataset=image_data, method="full", augment="basic",
            num_train_epochs=2, seed=1, per_device_train_batch_size=8, load_back_proof=False, cache="off",
            output_dir=str(tmp_path / str(workers)), **({"dataloader_num_workers": 2} if workers else {}),
        ).record  # fmt: skip
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("0", "2"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    few, set_by_user = (records[workers]["stages"][0]["reading"] for workers in (0, 2))
    assert (few["workers"], set_by_user["workers"]) == (0, 2)
    assert "--dataloader_num_workers" in set_by_user["reason"]
    assert "fewer than" in few["reason"]
    assert few["waited"] > 0
    assert 0 < few["share"] < 1
    assert few["device_idle"] is None


def test_memory_that_runs_out_halves_batches(
    image_data: str,
    image_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In features, evaluations and scores; the run goes on, and says so once for each."""
    from transformers import ResNetForImageClassification

    forward, find_split, sizes = ResNetForImageClassification.forward, build.find_split, list[int]()

    def limited(*args: Any) -> Any:
        split = find_split(*args)
        capture = split.capture

        def captured(batch: Any) -> Any:
            sizes.append(len(batch["pixel_values"]))
            if sizes[-1] > 8:
                raise RuntimeError(FULL)
            return capture(batch)

        split.capture = captured  # type: ignore[method-assign]
        return split

    def small(self: Any, pixel_values: Any = None, **kwargs: Any) -> Any:
        if len(pixel_values) > 8:
            raise RuntimeError(FULL)
        return forward(self, pixel_values, **kwargs)

    common: dict[str, Any] = {
        "task": "image_classification", "model": image_model, "dataset": image_data, "load_back_proof": False,
        "per_device_train_batch_size": 8, "max_steps": 2,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(build, "find_split", limited)
        patch.setattr(head_input, "HiddenStateReader", None)  # the states of layers come from the same passes
        halved = finetune(**common, method="head", head_solver="sgd", cache="on", cache_dir=str(tmp_path / "cache"),
                          output_dir=str(tmp_path / "head")).record  # fmt: skip
    assert max(sizes) > 8
    said = capsys.readouterr().out
    assert re.search(r"computing features ran out of it at \d\d examples a batch: [1-8] are used", said)
    # Once for train, though half as many were too many as well, and once for test, whose features the scores read.
    assert said.count("memory ") == 2
    whole = finetune(**common, method="head", head_solver="sgd", cache="on", cache_dir=str(tmp_path / "other"),
                     output_dir=str(tmp_path / "whole")).record  # fmt: skip
    assert halved["head_input"]["boundary_scores"] == whole["head_input"]["boundary_scores"]
    monkeypatch.setattr(ResNetForImageClassification, "forward", small)
    record = finetune(
        **common, method="full", cache="off", validation_fraction=0.5, output_dir=str(tmp_path / "full")
    ).record
    said = capsys.readouterr().out
    for what in ("evaluation", "scoring"):
        assert said.count(f"{what} ran out of it at 64 examples a batch: 8 are used") >= 1
    assert said.count("evaluation ran out") == 1
    assert record["metrics"]["test"]


def test_batches_are_halved_until_they_fit(capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[int] = []

    def run(size: int) -> str:
        tried.append(size)
        if size > most:
            raise RuntimeError(error)
        return "done"

    args: Any = type("Args", (), {"should_save": True})
    most, error = 10, FULL
    assert with_halved_batches(run, 64, "scoring", args) == "done"
    assert tried == [64, 32, 16, 8]
    assert capsys.readouterr().out.count("memory ") == 1
    most = 0
    with pytest.raises(RuntimeError, match="allocate"):
        with_halved_batches(run, 2, "examples", args)
    tried.clear()
    error = "shape mismatch"  # a failure of the code is none of the memory
    with pytest.raises(RuntimeError, match="mismatch"):
        with_halved_batches(run, 2, "examples", args)
    assert tried == [2]


def test_waiting_is_what_is_neither_work_nor_pause() -> None:
    wait = DataWait()
    for _ in range(3):
        with wait.fetching():
            time.sleep(0.02)
        time.sleep(0.01)
        with wait.pausing():
            time.sleep(0.05)
    facts = wait.facts()
    assert 0.06 <= facts["waited"] < 0.5
    assert wait.worked >= 0.02
    assert 0.2 < facts["share"] < 0.95
    assert facts["device_idle"] is None
    assert DataWait().facts() == {"waited": 0.0, "share": 0.0, "device_idle": None}


def test_idle_time_of_a_gpu_is_that_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of a step to the start of the next in the queue of the GPU, however early they were queued."""
    clock = [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            clock[0] += 250.0
            self.time = clock[0]

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: Any) -> float:
            return float(other.time - self.time)

    monkeypatch.setattr(data_wait.torch.cuda, "Event", Event)
    wait = DataWait(events=True)
    for _ in range(3):
        with wait.fetching():
            pass
    wait.waited, wait.worked = 1.0, 1.0
    assert wait.facts()["device_idle"] == 0.25  # two gaps of 250 ms in 2 s
    assert wait.facts()["device_idle"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"share": 0.1, "workers": 0, "cores": 8}, ""),
        ({"share": 0.3, "workers": 0, "cores": 8}, "--dataloader_num_workers 2"),
        ({"share": 0.3, "workers": 3, "cores": 8}, "--dataloader_num_workers 6"),
        ({"share": 0.3, "workers": 8, "cores": 8}, "store images closer"),
        ({"share": 0.02, "workers": 7, "cores": 8, "idle": 0.4}, "idle for 40%"),
    ],
)
def test_notable_waiting_has_a_remedy(arguments: dict[str, Any], said: str) -> None:
    line = waiting_line("stage 'full'", **arguments)
    assert said in line
    assert bool(line) == bool(said)
