"""The search for a depth: who goes on, what is chosen and from what, what is kept, and method `auto`."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from hf_ft import UserError, depth, depth_groups, finetune
from hf_ft.cli.app import main
from hf_ft.experiments import depth_settings as depths
from hf_ft.experiments import freeze_depth as depth_search
from hf_ft.experiments.depth_settings import (
    MAX_DEPTHS,
    best_depths,
    freeze_depths,
    halving_schedule,
    read_depth_settings,
)
from hf_ft.experiments.freeze_depth import Race, TrainedDepth
from hf_ft.experiments.trials import Trial
from hf_ft.heads.hidden_states import pool, pooled_states
from hf_ft.models.module_calls import CannotSplit
from hf_ft.publishing.contents import publishable
from hf_ft.records import FreezeDepthRecord, TrialResult, read_record
from hf_ft.tasks.registry import task_names
from tests.support.processes import python

LEAST_STEPS = depths.MIN_STEPS
SHORT = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "max_eval_examples": 12}
TASKS = {
    "image_classification": ("image_model", "image_data", [0, 3]),
    "text_classification": ("text_model", "multi_label_data", [1, 3]),
    "text_regression": ("text_model", "regression_data", [0, 2, 3]),
    "token_classification": ("text_model", "token_data", [2, 3]),
}
"""Task -> fixtures of model and data, and the depths to try."""

# --- Rules ------------------------------------------------------------------------------------------------------------


def test_depths_are_methods() -> None:
    """None frozen is `full`, all of them `head`; deep models are tried at few depths, both ends among them."""
    assert freeze_depths(None, 3) == {0: "full", 1: "last_n:2", 2: "last_n:1", 3: "head"}
    assert freeze_depths([6, 0, 4], 6) == {0: "full", 4: "last_n:2", 6: "head"}
    assert freeze_depths(None, 1) == {0: "full", 1: "head"}
    assert list(freeze_depths(None, 24)) == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert list(freeze_depths(None, 12)) == [0, 2, 3, 4, 6, 8, 9, 10, 12]
    for blocks in range(1, 100):
        depths = list(freeze_depths(None, blocks))
        assert len(depths) == len(set(depths)) == min(MAX_DEPTHS, blocks + 1)
        assert (depths[0], depths[-1]) == (0, blocks)


def test_depths_that_cannot_be() -> None:
    """More than the model has, and a model that has none."""
    with pytest.raises(UserError, match=r"--depths 4: the model has 3 blocks, so 0 \(full\) to 3 \(head\)"):
        freeze_depths([0, 4], 3)
    with pytest.raises(UserError, match=r"The model has no blocks.*Use --method head or full"):
        freeze_depths(None, 0)


@pytest.mark.parametrize("count", range(1, 40))
def test_rungs_shrink(count: int) -> None:
    """Fewer depths and longer trainings from rung to rung, one at the end; never more than half of a whole sweep."""
    left, last, spent = count, 0.0, 0.0
    for share, going in halving_schedule(count):
        assert last < share < 1
        assert 1 <= going < left
        spent += share * left
        left, last = going, share
    assert left == 1
    assert spent <= count / 2


def test_the_best_go_on() -> None:
    """The highest scores; of equal ones those that freeze more."""
    assert best_depths({0: 0.9, 1: 0.7, 2: 0.8, 3: 0.6}, 2) == [0, 2]
    assert best_depths({0: 0.5, 1: 0.5, 2: 0.5}, 2) == [1, 2]
    assert best_depths({0: 0.5, 4: 0.5}, 1) == [4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "head"}, r"`method` in the call is not supported by hf-ft depth"),
        ({"plan": "mine.yaml"}, r"`plan` in the call is not supported by hf-ft depth"),
        ({"depths": "2"}, r"One depth \(2 frozen blocks\) is nothing to choose from"),
        ({"depths": "1,-1"}, r"--depths takes whole numbers from 0 on, not '1,-1'"),
        ({"seeds": 0}, r"--seeds takes whole numbers from 1 on"),
        ({"output_dir": None}, r"`--output_dir` is missing"),
        ({"epohcs": 3}, r"Unknown option 'epohcs'"),
    ],
)
def test_what_cannot_be_searched(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One error for each mistake, before anything is loaded."""
    good = {"task": "text_classification", "model": "org/model", "dataset": "org/data", "output_dir": str(tmp_path)}
    with pytest.raises(UserError, match=message):
        read_depth_settings([("the call", {**good, **settings})])
    assert read_depth_settings([("the call", good)]).seeds == [0]


# --- Evidence ---------------------------------------------------------------------------------------------------------


def test_states_are_those_of_the_model(text_model: str) -> None:
    """Mean states of tokens, with padding left out, are those that `output_hidden_states` gives for each text alone."""
    model = AutoModelForSequenceClassification.from_pretrained(text_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    texts = ["a good film", "a very long and rather boring film about nothing"]
    found = pooled_states(model, depth_groups(model), tokenizer(texts, padding=True, return_tensors="pt"))
    assert len(found) == 4
    for i, text in enumerate(texts):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for mine, theirs in zip(found, states, strict=True):
            assert torch.allclose(mine[i], theirs[0].mean(0), atol=1e-5)
    assert not torch.allclose(found[0], found[3])


def test_states_of_pictures(image_model: str) -> None:
    """Means over the picture; blocks of several widths."""
    model = AutoModelForImageClassification.from_pretrained(image_model).eval()
    pixels = torch.rand(2, 3, 32, 32)
    found = pooled_states(model, depth_groups(model), {"pixel_values": pixels})
    with torch.no_grad():
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in found] == [(2, 8), (2, 8), (2, 16), (2, 16), (2, 16)]
    assert torch.allclose(found[0], states[0].mean((2, 3)), atol=1e-5)
    assert torch.allclose(found[4], states[-1].mean((2, 3)), atol=1e-5)


def test_pooling_finds_the_positions() -> None:
    """Examples first or second, channels first or last; anything else is refused."""
    state = torch.rand(2, 5, 7)
    assert torch.equal(pool(state, 2), state.mean(1))
    assert torch.equal(pool(state.transpose(0, 1), 2), state.mean(1))
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert torch.allclose(pool(state, 2, mask), torch.stack([state[0, :2].mean(0), state[1].mean(0)]))
    picture = torch.rand(2, 6, 4, 4)
    assert torch.equal(pool(picture, 2), picture.mean((2, 3)))
    assert torch.equal(pool(picture.permute(0, 2, 3, 1), 2), picture.mean((2, 3)))
    with pytest.raises(CannotSplit, match=r"shape \(3, 6, 4, 4\) for 2 examples"):
        pool(torch.rand(3, 6, 4, 4), 2)


# --- Searching --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, text_model: str, text_data: str
) -> tuple[Path, FreezeDepthRecord]:
    """A finished search on texts, two seeds."""
    out = tmp_path_factory.mktemp("searched") / "out"
    cache = str(out.parent / "cache")  # what other tests computed would be found
    return out, depth(**settings(text_model, text_data), output_dir=str(out), seeds=2, cache_dir=cache)


@pytest.fixture(autouse=True, scope="module")
def _few_steps() -> Iterator[None]:
    """Let rungs of three steps count here, so that there are rungs; the tests that need the real number ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depths, "MIN_STEPS", 3)
        patch.setattr(depth_search, "MIN_STEPS", 3)
        yield


def settings(model: str, data: str, task: str = "text_classification") -> dict[str, Any]:
    """Settings of a short search."""
    return {"task": task, "model": model, "dataset": data, **SHORT}


def shape(record: FreezeDepthRecord) -> list[tuple[float, list[int]]]:
    """The share of each rung, and the depths that had a score in it."""
    return [(round(rung.share, 2), [row.frozen for row in rung.rows]) for rung in record.rungs]


def test_fewer_depths_train_longer(searched: tuple[Path, FreezeDepthRecord]) -> None:
    """All depths short, two of them longer, and the head beside them; every training froze what it says."""
    _, record = searched
    (first, second, third), heads = shape(record)[:3], shape(record)[3:]
    assert first == (1.0, [3])
    assert second == (0.17, [0, 1, 2])
    assert third[0] == 0.5
    assert len(third[1]) == 2
    assert set(third[1]) < {0, 1, 2}
    assert [share for share, _ in heads] in ([], [1.0])
    lengths = {round(run.share, 2): run.epochs for run in record.runs if run.method != "head"}
    assert (lengths[0.17], lengths[0.5]) == (0.67, 2)
    assert {run.seed for run in record.runs} == {0, 1}
    assert record.choice.method == {0: "full", 1: "last_n:2", 2: "last_n:1", 3: "head"}[record.choice.frozen]


def test_test_split_is_left_alone(searched: tuple[Path, FreezeDepthRecord]) -> None:
    """Nothing was scored on it, and the search does not know how large it is."""
    _, record = searched
    assert record.runs
    assert all(set(run.metrics) == {"validation"} for run in record.runs)
    assert set(record.data.sizes) == {"train", "validation"}
    assert record.split == "validation"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (20, [(1.0, 1)]),  # shorter than any rung: all depths at their own length
        (60, [(50 / 60, 1)]),  # both rungs would be as long
        (200, [(50 / 200, 2), (1 / 2, 1)]),
        (300, [(1 / 6, 2), (1 / 2, 1)]),
        (3000, [(1 / 6, 2), (1 / 2, 1)]),
    ],
)
def test_rungs_have_a_least_number_of_steps(
    steps: int, expected: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty steps, or the whole length where that is shorter; rungs that become equal are one."""
    monkeypatch.setattr(depths, "MIN_STEPS", LEAST_STEPS)
    assert halving_schedule(6, steps) == [(pytest.approx(share), going) for share, going in expected]
    assert all(share * steps >= min(steps, LEAST_STEPS) - 1e-9 for share, _ in halving_schedule(6, steps))


def test_short_lengths_are_noted_and_trained_whole(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs of five steps: every depth has all of them once, and the page says how little that tells."""
    for module in (depths, depth_search):
        monkeypatch.setattr(module, "MIN_STEPS", LEAST_STEPS)
    record = depth(**settings(text_model, text_data), output_dir=str(tmp_path / "out"))
    assert shape(record) == [(1.0, [3]), (1.0, [0, 1, 2])]
    assert {run.epochs for run in record.runs} == {4}
    assert record.notes == [(tmp_path / "out/depth.md").read_text().split("\n- ")[-1].split("\n")[0]]
    assert record.notes[0].startswith("Depths train for 20 steps in full")


def test_what_is_frozen_runs_once(searched: tuple[Path, FreezeDepthRecord]) -> None:
    """Of two seeds and two rungs only one training computed the features of a depth."""
    _, record = searched
    cached = [run for run in record.runs if run.features and run.method == "last_n:1"]
    assert len(cached) >= 2
    assert sum(sum(made for made, _ in run.features.values()) > 0 for run in cached) == 1


def test_cost_is_told(searched: tuple[Path, FreezeDepthRecord]) -> None:
    """Seconds are those of the trainings, and of everything with loading and scoring."""
    _, record = searched
    cost = record.cost
    assert cost.training == pytest.approx(sum(run.seconds for run in record.runs), abs=0.01)
    assert cost.wall > cost.training + cost.layer_probes
    assert cost.full_sweep > 0
    assert len(record.layer_probes.scores) == 4
    assert all(0 <= score <= 1 for score in record.layer_probes.scores)


def test_sweep_is_estimated_by_what_was_trained(searched: tuple[Path, FreezeDepthRecord]) -> None:
    """Rungs are of whole epochs, so the share that a training really had counts, not the one that was meant."""
    _, record = searched
    full = [run for run in record.runs if run.method == "full"]
    longest = max(run.epochs for run in full)
    each = next(run.step_seconds for run in full if run.epochs == longest) * 4 / longest
    assert 0 < 2 * each <= record.cost.full_sweep + 0.1
    race = Race(None, {}, [], record)  # type: ignore[arg-type]
    race.full_length = lambda frozen: (10, 50)  # type: ignore[method-assign]
    parts = [
        race.trained_share(TrainedDepth(Trial("full", 0, settings=had), 0, 1 / 6, TrialResult("a", "full", 0, None)))
        for had in ({"num_train_epochs": 2}, {"max_steps": 9}, {})
    ]
    assert parts == [0.2, 0.18, 1.0]


def test_begun_anew(searched: tuple[Path, FreezeDepthRecord], text_model: str, text_data: str, tmp_path: Path) -> None:
    """`overwrite_output_dir` replaces a search, whatever its settings, and no other file; `resume` changes nothing."""
    copy = Path(shutil.copytree(searched[0], tmp_path / "copy"))
    (copy / "mine.txt").write_text("mine")
    usual = settings(text_model, text_data) | {"output_dir": str(copy), "depths": [0, 3]}
    with pytest.raises(UserError, match=r"seed was not set, now '5'.*--overwrite_output_dir"):
        depth(**usual, seed=5)
    record = depth(**usual, seed=5, overwrite_output_dir=True)
    assert [one.frozen for one in record.candidates] == [0, 3]
    assert not list((copy / "trials").glob("last_n*"))
    assert (copy / "mine.txt").read_text() == "mine"
    assert depth(**usual, seed=5, resume_from_checkpoint=True).runs == record.runs


def test_redrawn_byte_for_byte(searched: tuple[Path, FreezeDepthRecord], tmp_path: Path) -> None:
    """Page and picture come from `depth.json` alone."""
    out, record = searched
    assert read_record(out, FreezeDepthRecord) == record
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(out / "depth.json", copy)
    assert main(["depth", "--redraw", str(copy)]) == 0
    names = ["depth.md", "figures/depth.png", "figures/depth.svg"]
    assert [(copy / name).read_bytes() == (out / name).read_bytes() for name in names] == [True] * 3
    assert f"`{record.choice.method}`" in (out / "depth.md").read_text()
    assert main(["depth", "--redraw", str(tmp_path)]) == 2


def planted(out: Path, copy: Path, scores: dict[str, float]) -> Path:
    """A copy of a finished search whose trainings in the rungs, and head's, are made up: these scores by method."""
    shutil.copytree(out, copy)
    trials = copy / "trials"
    result = json.loads((trials / "head-all-seed0.json").read_text())
    for path in trials.iterdir():
        path.unlink()
    for method, score in scores.items():
        for length in ("",) if method == "head" else ("-num_train_epochs_0.67", "-num_train_epochs_2"):
            for seed in (0, 1):
                result |= {"method": method, "seed": seed}
                result["metrics"]["validation"]["accuracy"] |= {"value": score, "low": score, "high": score}
                result["metrics"]["test"] = {
                    "accuracy": {"value": 1 - score, "low": 0.0, "high": 1.0, "n": 12}
                }  # as if it had been looked at
                name = f"{method.replace(':', '_')}-all{length}-seed{seed}"
                (trials / f"{name}.json").write_text(json.dumps(result))
                np.save(trials / f"{name}.npy", np.full(1000, score))
    return copy


def again(out: Path, text_model: str, text_data: str) -> FreezeDepthRecord:
    """The same search in a folder that holds its trainings."""
    return depth(**settings(text_model, text_data), output_dir=str(out), seeds=2)


def test_second_call_trains_nothing(searched: tuple[Path, FreezeDepthRecord], text_model: str, text_data: str) -> None:
    """Every training is found, the evidence too."""
    out, record = searched
    before = {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}
    second = again(out, text_model, text_data)
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()} == before
    assert len(before) >= 3 * 12
    for name in ("rungs", "choice", "layer_probes", "cost"):
        assert getattr(second, name) == getattr(record, name), name


def test_validation_chooses(
    searched: tuple[Path, FreezeDepthRecord], text_model: str, text_data: str, tmp_path: Path
) -> None:
    """Whoever scores best on validation in the last rung is chosen, whatever a test split would say."""
    scores = {"full": 0.7, "last_n:2": 0.9, "last_n:1": 0.2, "head": 0.3}
    out = planted(searched[0], tmp_path / "copy", scores)
    record = again(out, text_model, text_data)
    assert shape(record) == [(1.0, [3]), (0.17, [0, 1, 2]), (0.5, [0, 1])]  # head is behind: nobody trains longer
    assert (record.choice.method, record.choice.mean) == ("last_n:2", 0.9)
    assert record.choice.alternative is None  # the others are behind by more than noise


def test_what_freezes_more_and_is_as_good_is_named(
    searched: tuple[Path, FreezeDepthRecord], text_model: str, text_data: str, tmp_path: Path
) -> None:
    """The best mean is chosen; a depth within its noise that freezes more is told beside it."""
    out = planted(searched[0], tmp_path / "copy", {"full": 0.71, "last_n:2": 0.2, "last_n:1": 0.7, "head": 0.3})
    for path in (out / "trials").glob("last_n_1*.npy"):
        np.save(path, np.linspace(0.6, 0.8, 1000))
    record = again(out, text_model, text_data)
    assert record.choice.method == "full"
    assert record.choice.alternative.method == "last_n:1"
    assert record.choice.alternative.value == pytest.approx(-0.01)
    assert "`last_n:1` freezes more blocks and is indistinguishable from it" in (out / "depth.md").read_text()


def test_two_seeds_that_do_not_agree_tell_nothing(
    searched: tuple[Path, FreezeDepthRecord], text_model: str, text_data: str, tmp_path: Path
) -> None:
    """Page and table give both scores then, not an interval from below 0 to above 1."""
    out = planted(searched[0], tmp_path / "copy", {"full": 0.71, "last_n:2": 0.2, "last_n:1": 0.7, "head": 0.3})
    for path in (out / "trials").glob("last_n_1*seed1.*"):
        if path.suffix == ".npy":
            np.save(path, np.full(1000, 0.5))
        else:
            result = json.loads(path.read_text())
            result["metrics"]["validation"]["accuracy"] |= {"value": 0.5, "low": 0.5, "high": 0.5}
            path.write_text(json.dumps(result))
    record = again(out, text_model, text_data)
    assert record.choice.alternative.method == "last_n:1"
    assert record.choice.alternative.inconclusive
    page = (out / "depth.md").read_text()
    assert "two seeds that disagree are inconclusive" in page
    assert "0.600 (0.500 0.700)" in page
    assert "±" not in page


def test_head_ahead_is_compared_at_full_length(
    searched: tuple[Path, FreezeDepthRecord], text_model: str, text_data: str, tmp_path: Path
) -> None:
    """Where head is ahead, the winner of the rungs gets its own length; head stays chosen if it is still ahead."""
    out = planted(searched[0], tmp_path / "copy", {"full": 0.5, "last_n:2": 0.4, "last_n:1": 0.5, "head": 1.1})
    record = again(out, text_model, text_data)
    assert shape(record) == [(1.0, [3]), (0.17, [0, 1, 2]), (0.5, [0, 2]), (1.0, [2])]
    longest = [run for run in record.runs if run.share == 1.0 and run.method == "last_n:1"]
    assert [run.epochs for run in longest] == [4, 4]
    assert record.choice.method == "head"


def test_other_data_start_nothing(
    searched: tuple[Path, FreezeDepthRecord], text_model: str, multi_label_data: str
) -> None:
    """A folder with a search of something else is refused, and stays as it is."""
    out, _ = searched
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"other settings or data: dataset was 'opinions'.*, now 'topics'"):
        depth(**settings(text_model, multi_label_data), output_dir=str(out))
    with pytest.raises(UserError, match=r"--depths 4: the model has 3 blocks"):
        depth(**settings(text_model, multi_label_data), output_dir=str(out), depths=[0, 4])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_searched(
    task: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few depths, one seed; an example with many labels has no probe, and says so."""
    model, data, depths = TASKS[task]
    about = settings(request.getfixturevalue(model), request.getfixturevalue(data), task)
    record = depth(**about, output_dir=str(tmp_path / "out"), depths=depths)
    told = capsys.readouterr().out
    assert [one.frozen for one in record.candidates] == depths
    assert record.choice.frozen in depths
    assert not record.failed
    assert bool(record.layer_probes.scores) == (task != "token_classification")
    assert ("a label for each of its parts" in told) == (task == "token_classification")
    assert f"--method {record.choice.method} " in told
    assert [line for line in told.splitlines() if len(line) > 80 and not line.startswith(("Table", "    --"))] == []
    assert (tmp_path / "out/figures/depth.png").stat().st_size > 10_000
    assert len(TASKS) == len(task_names())


KILLED = """
import sys
from hf_ft import depth
depth(task="text_classification", model=sys.argv[1], dataset=sys.argv[2], output_dir=sys.argv[3], depths=[0, 2, 3],
      num_train_epochs=4, per_device_train_batch_size=8)
"""


def test_killed_and_run_again_gives_the_same(tmp_path: Path, text_model: str, text_data: str) -> None:
    """A real process, killed when it has finished some trainings and not others."""
    arguments = ["-c", KILLED, text_model, text_data]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert python(*arguments, str(whole)).returncode == 0
    process = subprocess.Popen(
        [sys.executable, *arguments, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((out / "trials").glob("*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (out / "trials").glob("*.json")}
    assert json.loads((out / "depth.json").read_text())["cost"] is None
    assert main(["depth", "--redraw", str(out)]) == 2
    assert python(*arguments, str(out)).returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "trials").glob("*.json")}
    assert len(after) > len(done) >= 1
    assert done.items() <= after.items()
    records = [read_record(folder, FreezeDepthRecord) for folder in (whole, out)]
    values = [[(row.frozen, row.values) for rung in one.rungs for row in rung.rows] for one in records]
    assert values[0] == values[1]
    first, second = (one.choice for one in records)
    assert first is not None
    assert second is not None
    # some trials ran again, which takes other seconds
    assert dataclasses.replace(first, seconds=0.0) == dataclasses.replace(second, seconds=0.0)


# --- Method `auto` ----------------------------------------------------------------------------------------------------


def test_auto_gives_a_plain_run(text_model: str, text_data: str, tmp_path: Path) -> None:
    """The search first, then a run like any other with what it chose, which says so; the search is not published."""
    out = tmp_path / "out"
    record = finetune(**settings(text_model, text_data), method="auto", output_dir=str(out), seed=3).record
    found = read_record(out / "depth", FreezeDepthRecord)
    assert found.choice
    assert found.seeds == [3]
    assert record["method"] == found.choice.method != "auto"
    assert record["freeze_depth"]["frozen"] == found.choice.frozen
    assert json.loads((out / "run.json").read_text())["freeze_depth"] == record["freeze_depth"]
    assert record["proofs"]["load_back"]["passed"]
    assert record["metrics"]["test"]["accuracy"]["n"] == 12
    assert not [path for path in publishable(out)[0] if "depth" in str(path)]
    alone = finetune(
        **settings(text_model, text_data), method=record["method"], output_dir=str(tmp_path / "2"), seed=3
    ).record
    assert alone["freeze_depth"] is None
    one, other = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "2"))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in other)


def test_auto_is_refused_where_nobody_searches(text_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect` cannot show what has not been chosen."""
    assert main(["inspect", text_model, "--method", "auto"]) == 2
    assert "Run `hf-ft depth` and use the method that it prints" in capsys.readouterr().err
