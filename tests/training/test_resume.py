"""A real process, really killed, goes on where it stopped; a finished run is not written over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_ft.cli.app import main

PLAN = """
stages:
  - {name: head, trains: head, share: 0.3, scale: 10}
  - {name: full, trains: all, share: 0.7, peft: lora, peft_options: {init_lora_weights: pissa}}
"""


def command(what: tuple[str, str, str], out: Path, stages: str) -> list[str]:
    """A two-stage run of 2 and 4 epochs with five steps each; its stages are those of `lp_ft` or of a plan."""
    task, model, data = what
    plan = out.parent / "plan.yaml"
    plan.write_text(PLAN)
    return [
        "train",
        f"--task={task}",
        f"--model={model}",
        f"--dataset={data}",
        # The head of `lp_ft` is solved. With the plan it is the last stage that counts, the one with adapters.
        *(["--method=lp_ft"] if stages == "lp_ft" else [f"--plan={plan}", "--load_best_model_at_end=false"]),
        f"--output_dir={out}",
        "--num_train_epochs=6",
        "--per_device_train_batch_size=8",
        "--load_back_proof=false",
        "--metric_for_best_model=loss",
        "--seed=3",
    ]


@pytest.mark.parametrize(
    ("task", "kind", "stages"),
    [
        ("text_classification", "text", "lp_ft"),
        ("text_regression", "regression", "lp_ft"),
        ("text_regression", "regression", "plan with adapters"),
        ("text_classification", "text", "plan with adapters"),
    ],
)
def test_killed_in_the_second_stage_resumes_there(
    task: str, kind: str, stages: str, text_model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SIGKILL after the first checkpoint of stage two: the first stage is not repeated, the result is the same.

    Checkpoints of a regression hold a head of standardised numbers, the result one of the data's.
    """
    what = (task, text_model, request.getfixturevalue(f"{kind}_data"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(command(what, whole, stages)) == 0
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command(what, killed, stages)],
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/2-full/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = (killed / "checkpoints/1-head/stage.json").read_text()
    assert not (killed / "run.json").exists()

    assert main([*command(what, killed, stages), "--resume"]) == 0
    record, expected = (json.loads((folder / "run.json").read_text()) for folder in (killed, whole))
    assert record["stages"][0]["seconds"] == json.loads(first)["seconds"]
    assert record["stages"][1]["steps"] == expected["stages"][1]["steps"]
    assert not (killed / "checkpoints").exists()
    one, other = (load_file(folder / "model.safetensors") for folder in (killed, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)
    folders = [(folder / "adapter/adapter_model.safetensors").exists() for folder in (killed, whole)]
    assert folders == [stages != "lp_ft"] * 2


SLOW = """
import sys, time
import hf_ft.training.stage_runner as training
class Slow(training.Lines):
    def on_step_end(self, *args, **kwargs):
        time.sleep(0.1)
training.Lines = Slow
from hf_ft.cli import main
main(sys.argv[1:])
"""
"""Runs the command with a pause after each step, so that there is time to kill it between two checkpoints."""
