"""A run in another form of its steps: the same model up to rounding, recorded, resumed to the bit, saved as usual."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_ft.autotune import USUAL, Variant, tuner
from hf_ft.autotune.trial import Trial
from hf_ft.cli.app import main
from hf_ft.storage import read_json
from hf_ft.training import stage_runner

LAST = Variant("channels_last")
STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}


class Bench:
    """A tiny training on images, and what its first convolution looked like in each step."""

    def __init__(self, model: str, data: str, root: Path) -> None:
        self.model, self.data, self.root, self.trials = model, data, root, 0
        self.contiguous: list[bool] = []
        self.kill_at: int | None = None

    def words(self, name: str, **settings: Any) -> list[str]:
        """The command line of a run with a cache folder for all runs of a test."""
        usual: dict[str, Any] = {
            "task": "image_classification",
            "model": self.model,
            "dataset": self.data,
            "method": "full",
        }
        usual |= {"num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 3, "load_back_proof": "false"}
        usual |= {
            "augment": "none",
            "cache_dir": self.root / "cache",
            "output_dir": self.root / name,
            "learning_rate": 0.001,
        }
        return ["train", *(f"--{key}={value}" for key, value in (usual | settings).items())]

    def train(self, name: str, **settings: Any) -> dict[str, Any]:
        """Train; returns the record."""
        self.contiguous = []
        assert main(self.words(name, **settings)) == 0
        found: dict[str, Any] = read_json(self.root / name / "run.json")
        return found

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of a result."""
        return load_file(self.root / name / "model.safetensors")

    def try_variants(self, *_: Any) -> Trial:
        """A trial that channels last wins."""
        self.trials += 1
        return Trial(LAST, {USUAL: 2.0, LAST: 1.0}, {LAST: 1e-7}, 0.5)


@pytest.fixture
def bench(image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Trials are scripted and pay however short the run is; each step looks at a convolution that trains."""
    found = Bench(image_model, image_data, tmp_path)

    class Looking(stage_runner.Lines):  # type: ignore[name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            weights = [one.weight for one in model.modules() if isinstance(one, nn.Conv2d) and one.kernel_size[0] > 1]
            found.contiguous += [all(weight.is_contiguous() for weight in weights)]
            if found.kill_at == state.global_step + 1:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(stage_runner, "Lines", Looking)
    monkeypatch.setattr(tuner, "SHARE", 1e9)
    monkeypatch.setattr(tuner, "try_variants", found.try_variants)
    return found


def choices(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was chosen for the stages and for the scores, and how."""
    every = [*(one for stage in record["stages"] for one in stage["autotune"]), *record["autotune"]]
    return [(one["what"], one["memory_format"], one["source"]) for one in every]


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full", "ema": 0.9},
        {"method": "last_n:1", "cache": "on"},  # trains the upper part of a split model
        {"method": "lora"},
    ],
    ids=lambda settings: settings["method"],
)
def test_another_form_gives_the_same_model(
    settings: dict[str, Any], bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to rounding; it is said and recorded, checkpoints can be written, the result is stored as ever and loads."""
    record = bench.train("last", load_back_proof="true", **STEPS, **settings)
    features, prediction = (("features", "channels_last", "tried"), ("prediction", "channels_last", "tried"))
    training = ("training", "channels_last", "tried")  # scores read cached features, where there are any
    assert choices(record) == ([features, training] if "cache" in settings else [training, prediction])
    assert capsys.readouterr().out.count("autotune ") == len(choices(record))
    assert bench.contiguous
    assert not any(bench.contiguous)
    assert record["proofs"]["load_back"]["passed"]
    plain = bench.train("usual", autotune="off", **STEPS, **settings)
    assert choices(plain) == []
    assert all(bench.contiguous)
    assert "autotune " not in capsys.readouterr().out
    found, usual = bench.weights("last"), bench.weights("usual")
    assert list(found) == list(usual)
    for name, tensor in usual.items():
        assert torch.allclose(tensor.float(), found[name].float(), rtol=1e-3, atol=1e-4), name


def test_off_and_short_runs_are_as_they_were(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is too short for a trial ends with the same bits as one without autotuning."""
    monkeypatch.setattr(tuner, "SHARE", 0.1)
    assert choices(bench.train("short")) == []
    bench.train("off", autotune="off")
    assert bench.trials == 0
    short, off = bench.weights("short"), bench.weights("off")
    assert all(torch.equal(tensor, off[name]) for name, tensor in short.items())
    assert not (bench.root / "cache/autotune.json").exists()


@pytest.mark.parametrize("method", ["full", "last_n:1"])
def test_a_resumed_run_keeps_its_form(method: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the tensors of an uninterrupted one, though the decision is forgotten and no trial may be made."""
    settings = {"method": method, "cache": "on"} if method != "full" else {"method": method}
    bench.train("whole", **STEPS, **settings)
    bench.kill_at = 6
    assert main(bench.words("killed", **STEPS, **settings)) == 143
    bench.kill_at = None
    (bench.root / "cache/autotune.json").unlink()
    monkeypatch.setattr(tuner, "try_variants", None)
    monkeypatch.setattr("hf_ft.evaluation.scores.make_tuner", lambda *_: None)
    bench.contiguous = []
    assert main([*bench.words("killed", **STEPS, **settings), "--resume"]) == 0
    assert len(bench.contiguous) < 10
    assert not any(bench.contiguous)
    whole, killed = bench.weights("whole"), bench.weights("killed")
    assert all(torch.equal(tensor, killed[name]) for name, tensor in whole.items())
    resumed = choices(read_json(bench.root / "killed/run.json"))
    assert resumed[-1] == ("training", "channels_last", "resumed")


def test_a_run_that_began_as_usual_stays_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another run has found out in the meantime."""
    with monkeypatch.context() as short:
        short.setattr(tuner, "SHARE", 0.1)
        bench.train("whole", **STEPS)
        bench.kill_at = 6
        assert main(bench.words("killed", **STEPS)) == 143
    bench.kill_at = None
    bench.train("another", **STEPS)
    assert (bench.root / "cache/autotune.json").exists()
    assert not any(bench.contiguous)
    bench.contiguous = []
    assert main([*bench.words("killed", **STEPS), "--resume"]) == 0
    assert all(bench.contiguous)
    whole, killed = bench.weights("whole"), bench.weights("killed")
    assert all(torch.equal(tensor, killed[name]) for name, tensor in whole.items())


def test_features_of_another_form_are_other_features(bench: Bench) -> None:
    """Those in the usual form are read where they are cached, and only they without autotuning."""
    settings = {"method": "head", "head_solver": "exact"}
    computed = [bench.train("last", **settings)["stages"][0]["cache"]["computed"]]
    assert bench.trials == 1
    computed += [bench.train("again", **settings)["stages"][0]["cache"]["computed"]]
    computed += [bench.train("off", autotune="off", **settings)["stages"][0]["cache"]["computed"]]
    assert computed[0] == computed[2] > computed[1] == 0
    record = bench.train("usual", **settings)
    assert record["stages"][0]["cache"]["computed"] == 0
    assert choices(record) == []
    keys = [json.loads(path.read_text()) for path in (bench.root / "cache").glob("*/key.json")]
    assert {key.get("memory_format", "") for key in keys} == {"", "channels_last"}


def test_predict_and_evaluate_say_it_beside_their_answer(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The line goes to stderr, since the predictions go to stdout; with `--autotune off` there is none."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "mine"))
    bench.train("done", num_train_epochs=1, autotune="off")
    photos, out = str(Path(bench.data) / "test/red"), str(bench.root / "done")
    capsys.readouterr()
    answers = []
    for words in (["predict", out, photos], ["predict", out, photos, "--autotune", "off"]):
        assert main(words) == 0
        answers.append(capsys.readouterr())
    assert ["autotune prediction runs channels last" in answer.err for answer in answers] == [True, False]
    rows = [[line.split(",")[:2] for line in answer.out.splitlines()] for answer in answers]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 7
    assert main(["evaluate", out, "--dataset", bench.data, "--json"]) == 0
    answer = capsys.readouterr()
    assert "autotune prediction runs channels last, 2.00 times as fast as usual (remembered)" in answer.err
    assert json.loads(answer.out)["examples"] == 18
    shutil.rmtree(tmp_path / "mine")
    assert main(["evaluate", out, "--dataset", bench.data, "--autotune", "off"]) == 0
    assert not (tmp_path / "mine").exists()


def test_a_wrong_choice_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is read."""
    assert main(bench.words("never", autotune="fast")) == 2
    assert "autotune" in capsys.readouterr().err
    assert not (bench.root / "never").exists()
