"""The comparisons beside a plain Trainer: ratios and tables of made-up numbers, real but short processes."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.processes import python

FOLDER = Path(__file__).parent.parent / "benchmarks"
MODULES = ("variants", "frozen", "side_by_side", "quality_data", "quality_peers", "gpu_wheels")
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in MODULES)
OTHERS = (
    *(
        "calibration",
        "compare",
        "depth",
        "export",
        "few_shot_text",
        "gpu",
        "imbalance",
        "long_texts",
        "methods",
        "quality",
        "rank",
    ),
    "tune_defaults",
)
OWN_MODELS = ("calibration", "export")
"""Scripts whose models are not to be chosen."""
COMPARISONS = [path for path in SCRIPTS if path.stem not in OTHERS]
MIB = 2**20


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as the scripts import it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("side_by_side")


def start(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a script as a user does."""
    return python(str(script), *arguments)


def made_up(variant: str, seed: int, seconds: float, **more: Any) -> dict[str, Any]:
    """A run as a benchmark keeps it."""
    apart = {"imports": 5.0, "loading": 1.0, "besides": 0.25}
    shared = {"repetition": 0, "accuracy": 0.75, "peak": 500 * MIB, "apart": apart}
    return {"variant": variant, "seed": seed, "seconds": seconds, **shared, **more}


RUNS = [
    made_up("plain", 0, 12.0, accuracy=0.7),
    made_up("ours", 0, 3.0, peak=400 * MIB),
    made_up("plain", 1, 30.0, accuracy=0.9),
    made_up("ours", 1, 5.0, peak=600 * MIB),
    made_up("plain", 2, 10.0, accuracy=0.8),
    made_up("ours", 2, 5.0, peak=500 * MIB),
    made_up("pass", 2, 1.0, accuracy=None),
]


# --- Whole comparisons ----------------------------------------------------------------------------------------------


def test_comparison_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What shares nothing counts alike on both sides, and the limit is its part of the whole."""
    monkeypatch.syspath_prepend(str(FOLDER))
    compare = importlib.import_module("compare")
    cut = {"before the head": [5, 10]}

    def side(**methods: tuple[float, dict[str, Any]]) -> dict[str, Any]:
        return {
            "runs": [{"method": name, "seconds": each, "features": made} for name, (each, made) in methods.items()],
            "rows": [{"method": name, "mean": 0.5} for name in methods],
        }

    cached = side(head=(2.0, cut), full=(30.0, {}))
    assert compare.sharing(cached) == ["head"]
    lines = compare.table(side(head=(10.0, {})), cached).splitlines()
    assert "| head | 10.0 | 2.0 | 0.20 | 0.500 | 0.500 |" in lines
    assert "| full | 30.0 | 30.0 | the same |  | 0.500 |" in lines
    assert "| with a frozen prefix | 10.0 | 2.0 | 0.20 |  |  |" in lines
    assert "| all methods | 40.0 | 32.0 | 0.80 |  |  |" in lines
    assert lines[-1] == "Limit by arithmetic for all methods: 0.75"


def test_tuning_compares_candidates_on_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regret is against the best candidate of each data set and size; a candidate that is not asked for is left out."""
    monkeypatch.syspath_prepend(str(FOLDER))
    tune = importlib.import_module("tune_defaults")
    grid = tune.candidates(["--learning_rate=1e-4,3e-4", "cache=off"])
    assert grid == [{"learning_rate": 1e-4, "cache": "off"}, {"learning_rate": 3e-4, "cache": "off"}]
    assert tune.candidates([]) == [{}]
    slow, fast, other = tune.name_of(grid[0]), tune.name_of(grid[1]), "defaults"
    scores = {(slow, "a"): (0.5, 0.7), (fast, "a"): (0.8, 0.8), (slow, "b"): (0.9, 0.9), (fast, "b"): (0.8, 0.8)}
    lines = [
        {"candidate": name, "set": data, "size": 10, "seed": seed, "score": score, "training_seconds": 4.0}
        for (name, data), found in {**scores, (other, "a"): (1.0, 1.0)}.items()
        for seed, score in enumerate(found)
    ]
    table = tune.tables(lines, [slow, fast]).splitlines()
    assert table[2] == f"| {fast} | +0.0500 (-0.100 to +0.300) | 0.0500 | 1 | 4.0 |"
    assert table[3] == f"| {slow} |  | 0.1000 | 1 | 4.0 |"
    assert table[-2] == "| a | 10 | 0.600 (0.500 to 0.700) | 0.800 (0.800 to 0.800) |"
    assert other not in "".join(table)
    given = argparse.Namespace(grid=[], each=["mixup=0.2,0.4", "soup=3"])
    assert tune.listed_candidates(given) == [{}, {"mixup": 0.2}, {"mixup": 0.4}, {"soup": 3}]


def test_table_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each candidate with the spread of its seeds, and a tau for each score."""
    monkeypatch.syspath_prepend(str(FOLDER))
    rank = importlib.import_module("rank")
    row = {"name": "a", "scores": {"logme": 1.0, "knn": 0.5, "probe": 0.25}, "mean_rank": 1.0}
    told = rank.report([{**row, "values": [0.5, 0.75], "mean": 0.625}], {"logme": 0.5, "mean_rank": None}).splitlines()
    assert "| a | 1.000 | 0.500 | 0.250 | 1.0 | 0.6250 | 0.500, 0.750 |" in told
    assert told[-2:] == ["| LogME | 0.50 |", "| mean rank | undefined |"]


# --- Scripts --------------------------------------------------------------------------------------------------------


def test_scripts_are_found() -> None:
    """Those that the README names, and no others."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+\.py)` \|", readme, re.MULTILINE)
    assert sorted(listed) == [path.name for path in SCRIPTS]
    assert len(listed) >= 13
    commands = [path.name for path in COMPARISONS if f"python benchmarks/{path.name}" in readme]
    assert commands == [path.name for path in COMPARISONS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_answers(script: Path) -> None:
    """`--help` ends well and says what the script measures; the option of its own processes is not shown."""
    done = start(script, "--help")
    assert done.returncode == 0, done.stderr
    assert ("--model" in done.stdout) == (script.stem not in OWN_MODELS)
    assert "--variant" not in done.stdout
    if script in COMPARISONS:
        assert f"python benchmarks/{script.name}" in done.stdout
        assert all(option in done.stdout for option in ("--quick", "--seeds", "--threads", "--device", "--output"))


def test_without_data_there_is_one_error() -> None:
    """No data set: exit code 2 and the remedy, before anything is loaded."""
    done = start(FOLDER / "frozen_text.py", "--quick")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "frozen_text.py: error: give --dataset, a Hub id or a folder"


def test_quick_gives_way_to_what_is_given(side_by_side: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--quick` replaces defaults, not what stands on the command line."""
    quick = {"num_train_epochs": 1, "seeds": [7]}
    monkeypatch.setattr(sys, "argv", ["x.py", "--dataset", "d", "--quick", "--num_train_epochs", "4"])
    options = side_by_side.parse(side_by_side.parser("x"), quick)
    assert (options.num_train_epochs, options.seeds) == (4, [7])
    monkeypatch.setattr(sys, "argv", ["x.py", "--dataset", "d"])
    options = side_by_side.parse(side_by_side.parser("x"), quick)
    assert (options.num_train_epochs, options.seeds) == (10, [0, 1, 2])


def test_gpu_script_in_small(tmp_path: Path) -> None:
    """Both sides of every model train; each run is in the file, and the tables have a ratio for each pair."""
    output = tmp_path / "gpu.json"
    small = ("--device", "cpu", "--tiny", "--method", "full", "head", "--output", str(output))
    done = start(FOLDER / "gpu.py", *small)
    assert done.returncode == 0, done.stderr
    runs = json.loads(output.read_text(encoding="utf-8"))["runs"]
    assert len(runs) == 3 * 2 * 2
    assert all(run["seconds"] > 0 and run["rate"] > 0 for run in runs)
    for model in {run["model"] for run in runs}:
        assert f"**{model}**" in done.stdout
    assert (
        len(re.findall(r"^\| (?:full|head) \| hf_ft \| [\d.]+ \| [\d,]+ \| [\d.]+ \|", done.stdout, re.MULTILINE)) == 6
    )


def test_wheels_for_the_gpu_machine_hold_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out stands neither in a wheel nor in its record; the rest is as it was."""
    import zipfile

    monkeypatch.syspath_prepend(str(FOLDER))
    shrink = importlib.import_module("gpu_wheels").shrink
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    names = ("thing/__init__.py", "thing/tests/test_thing.py", "thing/include/thing.h")
    record = "".join(f"{name},sha256=x,1\n" for name in (*names, "thing-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(wheel, "w") as new:
        for name in names:
            new.writestr(name, "answer = 42\n")
        new.writestr("thing-1.0.dist-info/RECORD", record)
    shrink(wheel)
    with zipfile.ZipFile(wheel) as found:
        assert found.namelist() == ["thing/__init__.py", "thing-1.0.dist-info/RECORD"]
        assert found.read("thing/__init__.py") == b"answer = 42\n"
        assert "tests" not in found.read("thing-1.0.dist-info/RECORD").decode()


# --- Numbers --------------------------------------------------------------------------------------------------------


def test_ratios_are_of_the_same_repetition(side_by_side: ModuleType) -> None:
    """12/3, 30/5 and 10/5, whatever order the runs stand in; the median of ratios is not the ratio of medians."""
    assert side_by_side.ratios(RUNS, "plain", "ours") == [4.0, 6.0, 2.0]
    assert sorted(side_by_side.ratios(RUNS[::-1], "plain", "ours")) == [2.0, 4.0, 6.0]
    assert side_by_side.ratios(RUNS, "ours", "plain") == [0.25, 1 / 6, 0.5]
    assert side_by_side.spread(side_by_side.ratios(RUNS, "plain", "ours"), 2) == "4.00 (2.00 to 6.00)"


def test_ratios_tell_repetitions_of_a_seed_apart(side_by_side: ModuleType) -> None:
    """Two repetitions of one seed are two ratios."""
    runs = [
        made_up(variant, 0, seconds) | {"repetition": repetition}
        for repetition, variant, seconds in [(0, "plain", 8.0), (0, "ours", 2.0), (1, "plain", 9.0), (1, "ours", 3.0)]
    ]
    assert side_by_side.ratios(runs, "plain", "ours") == [4.0, 3.0]


@pytest.mark.parametrize("names", [("plain", "pass"), ("pass", "plain"), ("plain", "nobody"), ("nobody", "nothing")])
def test_ratios_need_both(side_by_side: ModuleType, names: tuple[str, str]) -> None:
    """A repetition with one of the two variants only is no ratio."""
    with pytest.raises(ValueError, match=f"'{names[0]}' and '{names[1]}' were not run in the same repetitions"):
        side_by_side.ratios(RUNS, *names)


def test_spread(side_by_side: ModuleType) -> None:
    """Median and range; one value stands alone, none is empty."""
    assert side_by_side.spread([3.0, 1.0, 10.0], 1) == "3.0 (1.0 to 10.0)"
    assert side_by_side.spread([1.0, 2.0], 1) == "1.5 (1.0 to 2.0)"
    assert side_by_side.spread([1234.4], 0) == "1,234"
    assert side_by_side.spread([], 1) == side_by_side.middle([]) == ""
    assert side_by_side.middle([4.0, 1.0, 2.0]) == "2.0"


def test_table(side_by_side: ModuleType) -> None:
    """A row for each variant in the order asked for, cells empty where a variant has no such number."""
    lines = side_by_side.table(
        RUNS[:6] + [made_up("pass", seed, 1.0, accuracy=None) for seed in range(3)],
        ["plain", "ours", "pass"],
        {"ours": ("plain", "ours"), "pass": ("plain", "pass")},
        "test",
        "cpu",
    ).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    assert cells[0][:5] == ["variant", "training s", "plain / hf_ft", "test accuracy", "peak MiB"]
    assert cells[2][:5] == ["plain", "12.00 (10.00 to 30.00)", "", "0.800 (0.700 to 0.900)", "500 (500 to 500)"]
    assert cells[3][:5] == ["ours", "5.00 (3.00 to 5.00)", "4.00 (2.00 to 6.00)", *cells[3][3:5]]
    assert cells[3][4] == "500 (400 to 600)"
    assert cells[4][1:4] == ["1.00 (1.00 to 1.00)", "12.00 (10.00 to 30.00)", ""]
    assert dict(zip(cells[0], cells[2], strict=True))["imports s"] == "5.0"
    assert dict(zip(cells[0], cells[2], strict=True))["evaluation s"] == ""
    on_gpu = side_by_side.table(RUNS[:1], ["plain"], {}, "validation", "cuda")
    assert "peak GPU MiB" in on_gpu
    assert "validation accuracy" in on_gpu


def test_turns(side_by_side: ModuleType) -> None:
    """Repetitions within seeds."""
    assert side_by_side.turns([3, 5], 2) == [(3, 0), (3, 1), (5, 0), (5, 1)]


# --- Processes ------------------------------------------------------------------------------------------------------

CHILD = """
import json, sys, time
request = json.loads(sys.argv[2])
print("phase: before", flush=True)
time.sleep(0.2)
print("phase: train", flush=True)
if request.get("fails"):
    print("no such thing", file=sys.stderr)
    sys.exit(2)
held = bytearray(b"x") * (request["mib"] << 20)
time.sleep(0.3)
del held
print("phase: after", flush=True)
time.sleep(0.2)
print(json.dumps({"seconds": 1.5, "asked": request}))
"""


def test_an_arm_is_a_process_with_peaks_by_phase(side_by_side: ModuleType, tmp_path: Path) -> None:
    """What a process answers last comes back, and its memory is told of the phase that held it and of no other."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    answer = side_by_side.run_variant(script, {"mib": 200}, os.environ)
    assert answer["seconds"] == 1.5
    assert answer["asked"] == {"mib": 200}
    peaks = answer["peaks"]
    assert list(peaks) == ["start", "before", "train", "after"]
    assert 0 < peaks["before"] < 100 * MIB
    assert 200 * MIB < peaks["train"] < 300 * MIB
    assert peaks["after"] < 100 * MIB


def test_an_arm_that_fails(side_by_side: ModuleType, tmp_path: Path) -> None:
    """Its exit code and what it wrote come back; nothing is taken for an answer."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    with pytest.raises(side_by_side.VariantFailure, match="no such thing") as failure:
        side_by_side.run_variant(script, {"fails": True}, os.environ)
    assert (failure.value.code, str(failure.value)) == (2, "no such thing")


def test_mapped_files_are_not_counted(side_by_side: ModuleType, tmp_path: Path) -> None:
    """The pages of a mapped file make the process no larger, while memory of its own does."""
    (tmp_path / "large").write_bytes(b"x" * (100 * MIB))
    script = tmp_path / "child.py"
    script.write_text(
        "import json, mmap, sys, time\nprint('phase: train', flush=True)\nrequest = json.loads(sys.argv[2])\n"
        "with open(request['file'], 'rb') as file:\n    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "touched = sum(pages[i] for i in range(0, len(pages), 4096))\ntime.sleep(0.3)\n"
        "print(json.dumps({'sum': touched}))"
    )
    answer = side_by_side.run_variant(script, {"file": str(tmp_path / "large")}, os.environ)
    assert answer["sum"] == ord("x") * 100 * MIB // 4096
    assert 0 < answer["peaks"]["train"] < 50 * MIB


def test_sentences_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic data of `memory.py`: as many as asked for, half of each label, the same with the same seed."""
    import csv
    import random

    monkeypatch.syspath_prepend(str(FOLDER))
    memory = importlib.import_module("memory")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        memory.write_sentences(tmp_path / name, 50, random.Random(seed))
    texts = {name: (tmp_path / name).read_text() for name in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]
    rows = list(csv.DictReader((tmp_path / "a").open(encoding="utf-8")))
    assert len(rows) == 50
    assert sum(row["label"] == "good" for row in rows) == 25
    assert all(6 <= len(row["text"].split()) <= 30 for row in rows)
    assert len({row["text"] for row in rows}) == 50


def test_runs_are_written_without_paths(side_by_side: ModuleType, tmp_path: Path) -> None:
    """`--output` holds every run and the options, folders by their last part."""
    (tmp_path / "data").mkdir()
    (tmp_path / "some_model" / "model").mkdir(parents=True)
    arguments = ["--model", str(tmp_path / "some_model" / "model"), "--dataset", str(tmp_path / "data")]
    options = side_by_side.parser("x").parse_args([*arguments, "--output", str(tmp_path / "out.json")])
    with side_by_side.Benchmark(__file__, options, "text_classification") as benchmark:
        assert benchmark.folder.is_dir()
        benchmark.runs.append(made_up("plain", 0, 1.0))
        benchmark.write()
    assert not benchmark.folder.exists()
    text = (tmp_path / "out.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert (record["options"]["model"], record["options"]["dataset"]) == ("some_model", "data")
    assert record["runs"] == [made_up("plain", 0, 1.0)]
    assert "torch" in record["machine"]
