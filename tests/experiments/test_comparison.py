"""Comparisons of methods in real trainings: what is shared, what is kept, what goes on, what is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hf_ft
from hf_ft import UserError, compare
from hf_ft.cli.app import main
from hf_ft.experiments.comparison import supported_methods
from hf_ft.experiments.comparison_rows import advice, best_of
from hf_ft.experiments.comparison_settings import parse_methods
from hf_ft.experiments.training_experiment import TrainingExperiment
from hf_ft.experiments.trials import Trial, trial_result
from hf_ft.records import ComparisonRecord, ComparisonRow, Interval, TrialResult, read_record
from hf_ft.reports.comparison_figures import pareto_front
from hf_ft.reports.registry import write_reports
from hf_ft.storage import output_folder
from hf_ft.tasks.registry import task_names
from hf_ft.training.run import StageResult
from tests.support.processes import python

SMALL = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "max_eval_examples": 12}
TASKS = {
    "image_classification": ("image_model", "image_data"),
    "text_classification": ("text_model", "text_data"),
    "text_regression": ("text_model", "regression_data"),
    "token_classification": ("text_model", "token_data"),
}


def scores(record: ComparisonRecord) -> dict[tuple[str, Any, int], dict[str, float]]:
    """Every score of every run, without what differs from day to day."""
    return {
        (run.method, run.size, run.seed): {
            f"{split} {name}": score.value for split, found in run.metrics.items() for name, score in found.items()
        }
        for run in record.runs
    }


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, image_model: str, image_data: str
) -> tuple[Path, ComparisonRecord]:
    """A finished comparison on images: three methods, two sizes, two seeds."""
    out = tmp_path_factory.mktemp("compared") / "out"
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, "augment": "none"}
    settings["cache_dir"] = str(out.parent / "cache")  # what other tests computed would be found
    record = compare(
        **settings, **SMALL, output_dir=str(out), methods="head,last_n:1,full", seeds=2, examples_per_class="2,6"
    )
    return out, record


def test_every_task_has_a_comparison() -> None:
    assert set(TASKS) == set(task_names())
    assert len(TASKS) == 4


@pytest.mark.parametrize("task", TASKS)
def test_compares_every_task(task: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model, data = (request.getfixturevalue(name) for name in TASKS[task])
    settings = {"task": task, "model": model, "dataset": data, "output_dir": str(tmp_path / "out"), **SMALL}
    record = compare(**settings, methods="head,full", seeds=1)
    assert [row.method for row in record.rows] == ["head", "full"]
    assert sum(row.best for row in record.rows) == 1
    assert all(row.low <= row.mean <= row.high for row in record.rows)
    assert not record.failed
    assert len(record.advice) == 1


def test_default_methods_fit_the_model(tmp_path: Path, image_model: str, image_data: str) -> None:
    layer = {"task": "image_classification", "model": image_model, "dataset": image_data}
    experiment = TrainingExperiment([("a test", layer)], tmp_path, ComparisonRecord)
    notes: list[str] = []
    assert supported_methods(experiment, 0, notes) == ["scratch", "head", "last_n:1", "lora", "lp_ft", "full"]
    assert not notes


def test_rows_say_how_many_blocks_are_frozen(compared: tuple[Path, ComparisonRecord]) -> None:
    _, record = compared
    assert len(record.runs) == 3 * 2 * 2
    assert not record.failed
    assert {row.method: row.frozen for row in record.rows} == {"head": 4, "last_n:1": 3, "full": 0}


def test_trials_of_a_size_have_as_many_examples(compared: tuple[Path, ComparisonRecord]) -> None:
    _, record = compared
    assert {(run.size, run.examples) for run in record.runs} == {(2, 6), (6, 18)}


def test_what_is_frozen_runs_once_for_all_arms(compared: tuple[Path, ComparisonRecord]) -> None:
    _, record = compared
    heads = [run for run in record.runs if run.method == "head"]
    computed = [sum(made for made, _ in run.features.values()) for run in heads]
    read = [sum(examples for _, examples in run.features.values()) for run in heads]
    assert all(read)
    assert computed[0] > 0
    # Validation is the same for all, and the larger sizes hold the smaller ones of their seed.
    assert sum(computed) < sum(read) / 1.5


def test_folder_holds_table_pictures_and_all_runs(compared: tuple[Path, ComparisonRecord]) -> None:
    out, record = compared
    assert read_record(out, ComparisonRecord) == record
    page = (out / "compare.md").read_text()
    assert all(f"| {row.method} |" in page for row in record.rows)
    names = {"score_and_seconds", "score_and_examples", "score_and_frozen_blocks"}
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("png", "svg")
    }
    assert not [path for path in (out / "trials").iterdir() if path.is_dir()]  # no checkpoints are left behind


def test_redrawn_byte_for_byte(compared: tuple[Path, ComparisonRecord], tmp_path: Path) -> None:
    out, _ = compared
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(out / "compare.json", copy)
    assert main(["compare", "--redraw", str(copy)]) == 0
    drawn = sorted((out / "figures").iterdir())
    assert len(drawn) == 6
    for path in drawn:
        assert (copy / "figures" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (copy / "compare.md").read_bytes() == (out / "compare.md").read_bytes()


def test_second_call_runs_nothing(compared: tuple[Path, ComparisonRecord], image_model: str, image_data: str) -> None:
    out, record = compared
    before = {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, "augment": "none"}
    methods = ["head", "last_n:1", "full"]
    again = compare(**settings, **SMALL, output_dir=str(out), methods=methods, seeds=2, examples_per_class=[2, 6])
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()} == before
    assert again.rows == record.rows


def test_other_settings_start_nothing(
    compared: tuple[Path, ComparisonRecord], image_model: str, image_data: str, text_model: str, text_data: str
) -> None:
    out, _ = compared
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, "augment": "none"}
    with pytest.raises(UserError, match=r"num_train_epochs was '2', now '3'.*Nothing was started"):
        compare(**settings, **{**SMALL, "num_train_epochs": 3}, output_dir=str(out))
    text = {"task": "text_classification", "model": text_model, "dataset": text_data}
    with pytest.raises(UserError, match=r"task was 'image_classification', now 'text_classification'"):
        compare(**text, **SMALL, output_dir=str(out))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_failed_trial_leaves_the_others(tmp_path: Path, text_model: str, text_data: str, capsys: Any) -> None:
    settings = {"task": "text_classification", "model": text_model, "dataset": text_data, **SMALL}
    # What checkpointing does not know fails in the first step, not before; a head that is solved makes none.
    del settings["num_train_epochs"]  # who sets epochs wants steps
    with_fault = {**settings, "output_dir": str(tmp_path / "out"), "methods": "head,full,last_n:1", "seeds": 1}
    fault = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"nonsense": 1, "use_reentrant": True}}
    record = compare(**with_fault, **fault)
    assert {run.method for run in record.runs if run.error} == {"full", "last_n:1"}
    assert [row.method for row in record.rows] == ["head"]
    told = capsys.readouterr().out
    assert told.count("FAILED") == 2
    assert "full-all-seed0" in told


KILLED = """
import sys
from hf_ft import compare
compare(task="text_classification", model=sys.argv[1], dataset=sys.argv[2], output_dir=sys.argv[3],
        methods="head,full", seeds=2, num_train_epochs=2, per_device_train_batch_size=8)
"""


def test_killed_and_run_again_gives_the_same(tmp_path: Path, text_model: str, text_data: str) -> None:
    """A real process, killed when it has finished some trials and not others."""
    arguments = ["-c", KILLED, text_model, text_data]
    whole = tmp_path / "whole"
    assert python(*arguments, str(whole)).returncode == 0
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, *arguments, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list((out / "trials").glob("*.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (out / "trials").glob("*.json")}
    assert 2 <= len(done) < 4
    assert python(*arguments, str(out)).returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "trials").glob("*.json")}
    assert len(after) == 4
    assert done.items() <= after.items()
    records = [read_record(folder, ComparisonRecord) for folder in (whole, out)]
    assert scores(records[0]) == scores(records[1])
    assert len(scores(records[0])) == 4


def test_the_log_of_an_interrupted_trial_is_ours(
    tmp_path: Path, text_model: str, text_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C within a trial: the next call writes over its log, and does not take it for the user's."""
    words = ["compare", "--task=text_classification", f"--model={text_model}", f"--dataset={text_data}"]
    words += [f"--output_dir={tmp_path / 'out'}", "--methods=head,full", "--seeds=2"]

    def interrupted(*_: Any) -> None:
        print("begun")
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingExperiment, "_in_scratch", interrupted)
    assert main(words) == 130
    assert main(words) == 130
    logs = [path.name for path in (tmp_path / "out/trials").iterdir()]
    assert logs == ["head-all-seed0.log"]
    entry = output_folder.files_of(tmp_path / "out")["trials/head-all-seed0.log"]
    assert output_folder.is_unchanged(tmp_path / "out/trials/head-all-seed0.log", entry)


def row(method: str, mean: float, seconds: float, best: bool = False, indistinguishable: bool = True) -> ComparisonRow:
    """A row with what `advice` reads; the rest is made up."""
    return ComparisonRow(
        method=method,
        size=None,
        examples=10,
        seeds=[0],
        values=[mean],
        mean=mean,
        low=mean,
        high=mean,
        std=None,
        seconds=seconds,
        seconds_per_trial=[seconds],
        blocks=3,
        frozen=0,
        trainable=1,
        incomplete=False,
        best=best,
        difference=None if best else Interval(mean - 0.9, mean - 0.92, mean - 0.88),
        indistinguishable=indistinguishable,
        inconclusive=False,
    )


def test_advice() -> None:
    best = row("full", 0.9, 40.0, best=True)
    assert "`head` is indistinguishable from `full` (0.890 against 0.900" in advice([best, row("head", 0.89, 1.0)])
    assert "at 1/40 of its time" in advice([best, row("head", 0.89, 1.0)])
    between = advice([best, row("head", 0.86, 1.0), row("last_n:2", 0.899, 20.0), row("lora", 0.88, 30.0)])
    assert between.endswith("at 1/40 of its time; `last_n:2` comes closer (0.899) at 50%.")
    assert "closer" not in advice([best, row("head", 0.89, 1.0), row("lora", 0.88, 30.0)])
    assert "better than every other method beyond noise" in advice(
        [best, row("head", 0.5, 1.0, indistinguishable=False)]
    )
    assert "faster than those indistinguishable from it: `lora`" in advice([best, row("lora", 0.89, 90.0)])
    apart = replace(row("lora", 0.95, 1.0, indistinguishable=False), difference=None)
    assert advice([best, apart]) == (
        "Only `full` was compared (0.900). Not considered, since they share no seed with `full`: `lora`."
    )


def test_seconds_alone_charge_what_was_there() -> None:
    first = TrialResult("a", "head", 0, None, seconds=12.0, feature_seconds=10.0, build_seconds=10.0)
    second = TrialResult("b", "head", 1, None, seconds=3.0, feature_seconds=1.0, build_seconds=10.5)
    live = TrialResult("c", "full", 0, None, seconds=50.0)
    assert [one.standalone_seconds for one in (first, second, live)] == [12.0, 12.5, 50.0]


def test_features_of_an_earlier_run_do_not_look_free(
    compared: tuple[Path, ComparisonRecord], tmp_path: Path, image_model: str, image_data: str
) -> None:
    """Another comparison on the same cache computes nothing, and is charged what computing took the first time."""
    out, record = compared
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, "augment": "none"}
    settings |= {"cache_dir": str(out.parent / "cache"), "output_dir": str(tmp_path / "out")}
    warm = compare(**settings, **SMALL, methods="head,last_n:1", seeds=[0], examples_per_class="6")
    for run in warm.runs:
        (cold,) = (one for one in record.runs if (one.method, one.seed, one.size) == (run.method, run.seed, run.size))
        assert all(computed == 0 for computed, _ in run.features.values())
        assert run.build_seconds == pytest.approx(cold.build_seconds, abs=0.002)
        assert run.build_seconds > 0
        assert run.standalone_seconds == pytest.approx(run.seconds - run.feature_seconds + run.build_seconds, abs=0.002)


REGRESSION = {"scratch": 4.0, "head": 2.0, "full": 1.0, "last_n:1": 1.001}
"""Made up mean squared errors by method: `full` is the best, `last_n:1` hardly behind."""


@pytest.fixture(scope="module")
def regressed(
    tmp_path_factory: pytest.TempPathFactory, text_model: str, regression_data: str
) -> tuple[dict[str, Any], Path]:
    """The settings of a comparison of numbers, where lower is better, and a folder with two of its trials."""
    out = tmp_path_factory.mktemp("regressed") / "out"
    settings = {"task": "text_regression", "model": text_model, "dataset": regression_data, **SMALL}
    compare(**settings, methods="head,full", seeds=1, output_dir=str(out))
    return settings, out


def made_up(out: Path, copy: Path, errors: dict[str, float], seeds: int = 3, failed: tuple[str, int] = ("", -1)) -> str:
    """A copy whose trials are made up: seeds are alike but for a thousandth, and one may have failed."""
    shutil.copytree(out, copy)
    (found,) = (copy / "trials").glob("full-*.json")
    result = json.loads(found.read_text())
    for path in (copy / "trials").iterdir():
        path.unlink()
    for method, error in errors.items():
        for seed in range(seeds):
            name = Trial(method, seed).id
            about = result | {"method": method, "seed": seed, "seconds": 10.0 / error}
            if (method, seed) == failed:
                continue
            about["metrics"]["test"]["mse"]["value"] = error + seed / 1000
            (copy / "trials" / f"{name}.json").write_text(json.dumps(about))
            spread = np.random.default_rng(0).normal(0, 0.005, 1000)  # of the test examples, which all share
            np.save(copy / "trials" / f"{name}.npy", error + seed / 1000 + spread)
    output_folder.record_files(copy, (copy / "trials").iterdir())  # else they are not ours, and stay for ever
    return str(copy)


def test_lower_errors_are_better(
    regressed: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best, the sign of what others are behind, what is noise, the front of the picture and the advice."""
    settings, out = regressed
    copy = made_up(out, tmp_path / "copy", REGRESSION | {"last_n:1": 1.0})
    for seed, off in enumerate((0.004, -0.003, 0.001)):  # not always behind
        np.save(Path(copy) / f"trials/last_n_1-all-seed{seed}.npy", np.full(1000, 1.0 + off))
        path = Path(copy) / f"trials/last_n_1-all-seed{seed}.json"
        about = json.loads(path.read_text())
        about["metrics"]["test"]["mse"]["value"] = 1.001 + off + seed / 1000
        path.write_text(json.dumps(about))
    record = compare(**settings, methods=list(REGRESSION), output_dir=copy)
    rows = {row.method: row for row in record.rows}
    assert record.metric == "mse"
    assert not record.higher_is_better
    assert [method for method, row in rows.items() if row.best] == ["full"]
    assert rows["head"].difference.value == pytest.approx(1.0)  # errors are higher
    assert {method: row.indistinguishable for method, row in rows.items()} == {
        "scratch": False,
        "head": False,
        "full": True,
        "last_n:1": True,
    }
    assert [(x, y) for x, y in pareto_front(record.rows, False)] == sorted(
        (rows[name].seconds, rows[name].mean) for name in ("scratch", "head", "full")
    )
    page = (Path(copy) / "compare.md").read_text()
    assert page.index("| full |") < page.index("| last_n:1 |") < page.index("| head |") < page.index("| scratch |")
    assert "indistinguishable from" in record.advice[0]
    told = capsys.readouterr().out
    assert "--seeds 5 runs only those that are missing" in " ".join(told.split())
    assert "n=12 (lower is better)" in told
    table = told[told.index("method ") : told.index("\n\n", told.index("method "))]
    assert "mean squared error" in table
    assert max(map(len, table.splitlines())) <= 88  # with so long a name


def test_two_seeds_that_do_not_agree_are_said_to_tell_nothing(
    regressed: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No interval that reaches over all scores there are, and no advice from it: what is apart stays apart."""
    settings, out = regressed
    copy = made_up(out, tmp_path / "copy", {"scratch": 4.0, "head": 1.0, "full": 1.0}, seeds=2)
    path = Path(copy) / "trials/head-all-seed1"
    about = json.loads(path.with_suffix(".json").read_text())
    about["metrics"]["test"]["mse"]["value"] = 1.3
    path.with_suffix(".json").write_text(json.dumps(about))
    np.save(path.with_suffix(".npy"), np.full(1000, 1.3))
    record = compare(**settings, methods="scratch,head,full", seeds=2, output_dir=copy)
    rows = {row.method: row for row in record.rows}
    assert {method: row.inconclusive for method, row in rows.items()} == {
        "scratch": False,
        "head": True,
        "full": False,
    }
    assert rows["head"].difference.low < -1
    page, told = (Path(copy) / "compare.md").read_text(), capsys.readouterr().out
    for text in (page, told):
        assert "inconclusive (2 seeds)" in text
        assert f"{rows['head'].difference.low:+.3f}" not in text
        assert f"{rows['scratch'].difference.low:+.3f}" in text
    assert "`full` is best" in record.advice[0]
    assert "Two seeds are inconclusive about `head`" in record.advice[0]
    assert "indistinguishable" not in record.advice[0]


def test_failed_seeds_win_nothing(
    regressed: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method of which a seed failed is not the best, is compared by the seeds it has, and says so in the table."""
    settings, out = regressed
    copy = made_up(out, tmp_path / "copy", {"head": 2.0, "full": 1.0}, failed=("full", 0))
    train = TrainingExperiment._train

    def failing(self: TrainingExperiment[Any], trial: Trial, others: int) -> Any:
        if trial == Trial("full", 0):
            raise RuntimeError("CUDA out of memory")
        return train(self, trial, others)

    monkeypatch.setattr(TrainingExperiment, "_train", failing)
    compare(**settings, methods="head,full", output_dir=copy)
    record = compare(**settings, methods="head", output_dir=copy)  # what failed is not forgotten
    rows = {row.method: row for row in record.rows}
    assert record.failed == ["full-all-seed0: CUDA out of memory"]
    assert rows["head"].best
    assert rows["full"].seeds == [1, 2]
    assert rows["full"].difference.value == pytest.approx(-1.0)
    assert "| full (2 of 3 seeds) |" in (Path(copy) / "compare.md").read_text()
    assert record.advice == ["Only `head` was compared (2.001). Not considered, since a trial failed: `full`."]
    lonely = made_up(out, tmp_path / "lonely", {"head": 2.0, "full": 1.0}, seeds=1, failed=("full", 0))
    record = compare(**settings, methods="head,full", seeds=[0], output_dir=lonely)
    assert [row.method for row in record.rows] == ["head"]
    assert record.advice == ["Only `head` was compared (2.000)."]


def test_best_is_by_the_seeds_that_all_share() -> None:
    assert best_of({"a": {0: 0.8, 1: 0.8}, "b": {0: 0.7, 1: 0.7, 2: 1.0, 3: 1.0}}, True) == "a"
    assert best_of({"a": {0: 0.8, 1: 0.8}, "b": {0: 0.7, 1: 0.7, 2: 1.0, 3: 1.0}}, False) == "b"
    assert best_of({"a": {0: 0.8}, "b": {1: 0.9}}, True) == "b"
    one_seed_more = {"a": {0: 0.9, 1: 0.5, 2: 0.5}, "b": {0: 0.8, 1: 0.8, 2: 0.8}, "c": {0: 0.1}}
    assert best_of(one_seed_more, True) == "b"  # a is ahead on the one seed that all three have


def test_images_that_two_stages_read_are_charged_once() -> None:
    decoded = {"seconds": 0.0, "build_seconds": 30.0}
    stages = [stage_of(seconds=100.0, images=decoded | {"seconds": 30.0}), stage_of(seconds=50.0, images=decoded)]
    plan = SimpleNamespace(stages=[], combined=list)
    run = SimpleNamespace(stages=stages, plan=plan, splits=SimpleNamespace(train=[]))
    patched = trial_result(Trial("lp_ft", 0), run)  # type: ignore[arg-type]
    assert (patched.seconds, patched.standalone_seconds) == (150.0, 150.0)


def stage_of(**facts: Any) -> StageResult:
    """A stage with these facts and nothing else of interest."""
    fields: dict[str, Any] = {"epochs": 1.0, "steps": 1, "peak_memory": 0, "trainable": 1, "total": 1}
    return StageResult("one", frozen_checked=0, best_metric=None, checkpoint=None, **(fields | facts))


def test_more_methods_join_and_none_is_lost(regressed: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """A call with one more method keeps those that are there; one that begins anew has only its own."""
    settings, out = regressed
    copy = made_up(out, tmp_path / "copy", REGRESSION, seeds=1)
    files = {path: path.read_bytes() for path in Path(copy, "trials").iterdir()}
    compare(**settings, methods="scratch,head,full", seeds=1, output_dir=copy)
    record = compare(**settings, methods="last_n:1", seeds=1, output_dir=copy, resume_from_checkpoint=True)
    assert {row.method for row in record.rows} == set(REGRESSION)
    assert {path: path.read_bytes() for path in Path(copy, "trials").iterdir()} == files
    (Path(copy) / "mine.txt").write_text("mine")
    record = compare(**settings, methods="head,last_n:1", seeds=1, output_dir=copy, overwrite_output_dir=True)
    assert {row.method for row in record.rows} == {"head", "last_n:1"}
    assert all(row.mean != REGRESSION[row.method] for row in record.rows)
    assert (Path(copy) / "mine.txt").read_text() == "mine"


def test_options_of_adapters_go_to_methods_with_adapters(tmp_path: Path, text_model: str, text_data: str) -> None:
    usual = {"task": "text_classification", "model": text_model, "dataset": text_data, **SMALL, "seeds": 1}
    record = compare(**usual, methods="head,lora", lora_r=2, output_dir=str(tmp_path / "two"))
    other = compare(**usual, methods="lora,peft:ia3,head", lora_r=4, output_dir=str(tmp_path / "four"))
    small, large = (next(r for r in one.rows if r.method == "lora").trainable for one in (record, other))
    assert small < large
    assert record.settings["lora_r"] == 2
    with pytest.raises(UserError, match=r"--lora_r does not go with method 'head', which has no adapters"):
        compare(**usual, methods="head,full", lora_r=2, output_dir=str(tmp_path / "none"))
    joined = compare(**usual, methods="full", lora_r=2, output_dir=str(tmp_path / "two"))
    assert {row.method for row in joined.rows} == {"head", "lora", "full"}
    with pytest.raises(UserError, match=r"lora_r was '2', now '4'"):
        compare(**usual, methods="head,lora", lora_r=4, output_dir=str(tmp_path / "two"))


def test_frozen_layers_that_ran_in_every_epoch_are_told(
    tmp_path: Path, image_model: str, image_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default augmentation makes other images in each epoch; who waits for it should know."""
    settings = {"task": "image_classification", "model": image_model, "dataset": image_data, **SMALL, "seeds": 1}
    record = compare(**settings, methods="last_n:1,full,lora", output_dir=str(tmp_path / "out"))
    (told,) = record.uncached
    assert told.startswith("last_n:1 ran frozen layers in every epoch: augmentation 'basic'")
    assert "--augment none" in told
    printed = capsys.readouterr().out
    assert f"Note     {told}" in " ".join(printed.split()).replace("Note ", "Note     ")
    ours = [line for line in printed.splitlines() if not line.startswith("Tables, figures")]
    assert max(map(len, ours[ours.index("Methods  last_n:1, full, lora") + 4 :])) < 80
    assert told in (tmp_path / "out/compare.md").read_text()


def test_without_test_split_the_page_says_so(tmp_path: Path, text_model: str, text_data: str) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(text_data, bare)
    for path in bare.glob("test*"):
        path.unlink()
    settings = {"task": "text_classification", "model": text_model, "dataset": str(bare), **SMALL, "seeds": 1}
    record = compare(**settings, methods="head,last_n:1", output_dir=str(tmp_path / "out"))
    assert record.split == "validation"
    page = (tmp_path / "out/compare.md").read_text()
    assert "There is no test split" in page
    assert "one seed does not show how much seeds vary" in page


def test_trials_have_files_of_their_own() -> None:
    """Patterns differ in characters that names of files cannot hold."""
    methods = ["train:*bias", "train:bias", "train:*attention*", "train:attention*", "last_n:1", "peft:ia3", "head"]
    names = [Trial(method, 0).id for method in methods]
    assert len(set(names)) == len(methods)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
    assert names[4:] == ["last_n_1-all-seed0", "peft_ia3-all-seed0", "head-all-seed0"]


def test_patterns_with_commas() -> None:
    assert parse_methods("head,train:*attention*,*norm*,full") == ["head", "train:*attention*,*norm*", "full"]
    assert parse_methods("train:*bias,head") == ["train:*bias", "head"]
    two = ["train:classifier.*", "train:encoder.11.*", "peft:ia3"]
    assert parse_methods(",".join(two)) == parse_methods(two) == two


def test_pictures_have_every_method(compared: tuple[Path, ComparisonRecord], tmp_path: Path) -> None:
    _, record = compared
    (svg,) = (path for path in write_reports(record, tmp_path) if path.name == "score_and_seconds.svg")
    drawn = set(re.findall(r"<!-- (\S+) -->", svg.read_text()))
    assert {row.method for row in record.rows} <= drawn


def test_seeds_that_agree_are_drawn(compared: tuple[Path, ComparisonRecord], tmp_path: Path) -> None:
    """Three times 0.704 have a mean below 0.704: what a head that is fitted to convergence gives."""
    rows = [replace(row, values=[0.704] * 3, mean=sum([0.704] * 3) / 3) for row in compared[1].rows]
    assert rows[0].mean != 0.704
    assert len(write_reports(replace(compared[1], rows=rows), tmp_path)) >= 2


def test_help_and_mistakes_are_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--methods" in shown
    assert "--redraw" in shown
    assert "--plan" not in shown
    script = "import sys; from hf_ft.cli import main; sys.exit(main(sys.argv[1:]) + 10 * ('torch' in sys.modules))"
    wrong = ["compare", "--task", "text_classification", "--model", ".", "--dataset", ".", "--methods", "heat,full"]
    done = subprocess.run(
        [sys.executable, "-c", script, *wrong, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Did you mean 'head'?" in done.stderr


MISTAKES = {
    "one method": ({"methods": "head"}, r"One method \(head\) at one size is nothing to compare"),
    "a method": ({"method": "head"}, r"`method` in .* is not supported in a comparison"),
    "no such method": ({"methods": "head,fulll"}, r"Did you mean 'full'"),
    "too deep": ({"methods": "head,last_n:9"}, r"last_n:9 asks for more blocks than the model has \(\d+\)"),
    "too many of a class": (
        {"methods": "head,full", "examples_per_class": "2,90"},
        r"90 is more than the training split has: .*has 1\d.*Set at most 1\d",
    ),
    "no size": ({"methods": "head,full", "examples_per_class": "ten"}, r"whole numbers"),
    "no seed": ({"methods": "head,full", "seeds": 0}, r"--seeds takes whole numbers from 1 on"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, tmp_path: Path, text_model: str, text_data: str) -> None:
    settings, said = MISTAKES[mistake]
    out = tmp_path / "out"
    usual = {"task": "text_classification", "model": text_model, "dataset": text_data, "output_dir": str(out)}
    with pytest.raises(UserError, match=said):
        compare(**usual, **SMALL, **settings)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that hf_ft did not write"):
        compare(**usual, **SMALL, methods="head,full")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_compare_is_public() -> None:
    assert hf_ft.compare is compare
