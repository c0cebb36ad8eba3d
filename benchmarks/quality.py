"""Scores on unseen examples and seconds of hf_ft beside other tools: the same backbone, the same examples, each tool
as its own guide shows it.

    python benchmarks/quality.py --data DATA [--fastai PYTHON] [--timm FOLDER] [--autogluon PYTHON] [--setfit PYTHON]
    python benchmarks/quality.py --data DATA --quick

hf_ft runs as `hf-ft train` with its defaults for each method of `--hf_ft` (a method, and more options behind it).
Beside it: `Trainer` with the settings of the guides of transformers; fastai, `vision_learner(...).fine_tune(4)`;
timm's `train.py`; AutoGluon-Multimodal; SetFit. Each is run by the Python of its option, and left out without one.

Every run is a process of its own. Its seconds, on an idle machine: of the whole process (imports, reading, training,
predictions for the test split; with hf_ft also its scores, proofs and saving), and of training alone. Every run is a
line of OUTPUT_DIR/runs.jsonl with its predictions; runs that are there are not repeated, those that failed are.

The table has the mean score over seeds with its 95 % interval over test examples and seeds, and in brackets the
seconds of training and of the whole process (medians). On a machine that has other work to do, `--threads 1 --clock
processor` shows the processor seconds of the whole process instead, which other programs hardly change. Bold: the best
of the row, and what is indistinguishable from it (paired over seeds and test examples).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quality_data import (
    FILES,
    IMAGES,
    LABELS,
    ONE,
    SETS,
    TAGS,
    TEXTS,
    DataSet,
    Facts,
    backbone,
    numbered,
    predictions_of,
    prepare,
    score,
)
from side_by_side import machine_line, public_name

from hf_ft.errors import UserError
from hf_ft.metrics import SeedScores, difference, mean_interval
from hf_ft.reports.tables import markdown_table

DEFAULT = "lp_ft"
"""The default method of hf_ft."""
METHODS = ["head", DEFAULT, "full", "lora", f"{DEFAULT} --ema auto"]
FEW = 32
"""Most examples of a class with which SetFit runs: it trains on pairs of them."""
CLOCKS = {"wall": "seconds", "processor": "processor_seconds"}
"""`--clock` -> where the seconds of a run stand."""
PEERS = Path(__file__).with_name("quality_peers.py")


@dataclass(frozen=True)
class Side:
    """A column of the table.

    Args:
        name: Its title; for hf_ft the method and its options.
        tool: `hf_ft`, or a tool of `quality_peers.TOOLS`.
        python: The Python that runs it.
        tasks: The tasks it is run for.
        settings: What its request has beside the data.
        one_label: Whether it takes one label an example alone.
        of_timm: Whether it needs a model of timm for images.
        most: Most examples of a class.
    """

    name: str
    tool: str
    python: str = sys.executable
    tasks: Sequence[str] = (IMAGES, TEXTS, TAGS)
    settings: Mapping[str, Any] = field(default_factory=dict)
    one_label: bool = False
    of_timm: bool = False
    most: int | None = None

    def applies(self, facts: Facts, model: Mapping[str, Any]) -> bool:
        """Whether it is run for these data and this model."""
        if facts["task"] not in self.tasks or (self.one_label and facts["kind"] != ONE):
            return False
        if self.most is not None and (facts["size"] is None or facts["size"] > self.most):
            return False
        return not (self.of_timm and facts["task"] == IMAGES) or model["architecture"] is not None


def sides_of(options: argparse.Namespace) -> tuple[list[Side], list[str]]:
    """The columns of the table, and the options of the tools that are left out."""
    ours = [Side(name, "hf_ft") for name in options.hf_ft]
    rates = {
        "Trainer": 5e-5,
        "Trainer, 2e-5": 2e-5,
    }  # of the guide for images, which is the default; of those for texts
    trainers = [
        Side(
            name,
            "trainer",
            tasks=(TEXTS, TAGS) if "," in name else (IMAGES, TEXTS, TAGS),
            settings={"learning_rate": rate},
        )
        for name, rate in rates.items()
    ]
    others = {
        "fastai": Side("fastai", "fastai", options.fastai, (IMAGES,), of_timm=True),
        "timm": Side("timm train.py", "timm", tasks=(IMAGES,), settings={"folder": options.timm}, of_timm=True),
        "autogluon": Side("AutoGluon", "autogluon", options.autogluon, (IMAGES, TEXTS), one_label=True, of_timm=True),
        "setfit": Side("SetFit", "setfit", options.setfit, (TEXTS,), one_label=True, most=FEW),
    }
    given = [name for name in others if getattr(options, name) is not None]
    words = options.only
    sides = [*ours, *trainers, *(others[name] for name in given)]
    chosen = [side for side in sides if words is None or any(word in side.name for word in words)]
    return chosen, [f"--{name}" for name in others if name not in given]


# --- Runs -------------------------------------------------------------------------------------------------------------


class Failed(RuntimeError):
    """A process ended with an error; the message is its last line."""


def ask(command: Sequence[str], environment: Mapping[str, str], folder: str) -> tuple[str, dict[str, float]]:
    """The output of a process, and its seconds: on the wall, and of processors (its own and its children's).

    Raises:
        Failed: It ended with an error.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment), cwd=folder, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise Failed((done.stderr.strip().splitlines() or ["no output"])[-1][:300])
    return done.stdout, {"seconds": round(seconds, 2), "processor_seconds": round(processor, 2)}


def run(side: Side, facts: Facts, folder: Path, model: Mapping[str, Any], seed: int, threads: int) -> dict[str, Any]:
    """Train and predict with one side in a process of its own, with caches of its own.

    Raises:
        Failed: The process ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="hf-ft-quality-") as scratch:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment = {**os.environ, **limits, "HF_DATASETS_CACHE": str(Path(scratch, "datasets"))}
        if side.tool == "hf_ft":
            # Where hf_ft is not installed it is found by PYTHONPATH, which may be relative: the folder stays.
            out = Path(scratch, "out")
            command = command_of(side, facts, folder / FILES, model, seed, out)
            _, seconds = ask(command, environment, os.getcwd())
            record = json.loads((out / "run.json").read_text(encoding="utf-8"))
            training = sum(stage["seconds"] for stage in record["stages"])
            return answer(predictions_of(out, folder / FILES, facts), training, seconds, {})
        environment.pop("PYTHONPATH", None)
        request = request_of(side, facts, folder / FILES, model, seed, threads, scratch)
        output, seconds = ask([side.python, str(PEERS), json.dumps(request)], environment, scratch)
        found = json.loads(output.strip().splitlines()[-1])
        return answer(numbered(found["predicted"], facts), found["training_seconds"], seconds, found["versions"])


def answer(
    predicted: list[Any], training: float, whole: Mapping[str, float], versions: Mapping[str, str]
) -> dict[str, Any]:
    """What is written of a run."""
    return {"training_seconds": round(training, 2), **whole, "versions": dict(versions), "predicted": predicted}


def command_of(side: Side, facts: Facts, files: Path, model: Mapping[str, Any], seed: int, out: Path) -> list[str]:
    """The command of `hf-ft train`; its cache is empty at first."""
    options = {"task": facts["task"], "model": model["name"], "dataset": files, "seed": seed, "output_dir": out}
    options |= {"cache_dir": out.with_name("cache")}
    if facts["task"] != IMAGES:
        options |= {"label_column": LABELS[facts["kind"]]}
    command = [side.python, "-m", "hf_ft", "train"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [*command, "--method", *shlex.split(side.name)]


def request_of(
    side: Side, facts: Facts, files: Path, model: Mapping[str, Any], seed: int, threads: int, scratch: str
) -> dict[str, Any]:
    """What a tool has to know, see `quality_peers`."""
    shared = {name: facts[name] for name in ("task", "kind", "labels")}
    timm = {name: model.get(name) for name in ("architecture", "weights", "image_size")}
    own = {"tool": side.tool, "settings": dict(side.settings), "model": model["folder"], "data": str(files)}
    return {**shared, **timm, **own, "seed": seed, "threads": threads, "scratch": scratch}


def cases(options: argparse.Namespace) -> Iterator[tuple[DataSet, int | None, int]]:
    """Data sets, sizes (None for all examples) and seeds: from the smallest size, all data sets of a seed in turn."""
    known = {data.folder: data for data in SETS}
    for name in options.sets:
        if not (options.data / name).is_dir():
            print(f"{options.data} has no {name}: it is left out", file=sys.stderr)
    there = [known[name] for name in options.sets if (options.data / name).is_dir()]
    for size in [*sorted(options.sizes), None]:
        listed = there if size is not None else [data for data in there if data.folder in options.full]
        for seed in options.seeds:
            for data in listed:
                yield data, size, seed


def cases_with_facts(options: argparse.Namespace) -> Iterator[tuple[int, Facts, Path]]:
    """Seed, facts and folder of each case that its data set is large enough for."""
    for data, size, seed in cases(options):
        name = f"{data.folder}-{'all' if size is None else size}-{options.scored}-seed{seed}"
        folder = options.output_dir / "data" / name
        try:
            yield seed, prepare(data, options.data / data.folder, size, seed, options.scored, folder), folder
        except UserError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def measure(options: argparse.Namespace, sides: Sequence[Side], runs: list[dict[str, Any]]) -> None:
    """Run what has not been run, and add it to `runs` and to the file."""
    names = ("model", "set", "size", "scored", "seed", "side")
    done = {tuple(line[name] for name in names) for line in runs}
    folder = (options.output_dir / "backbones").resolve()
    models = {model: {"name": model} | backbone(model, folder) for model in dict.fromkeys(options.models)}
    for seed, facts, path in cases_with_facts(options):
        model = models[options.models[facts["task"] != IMAGES]]
        for side in (side for side in sides if side.applies(facts, model)):
            values = (public_name(model["name"]), facts["set"], facts["size"], options.scored, seed, side.name)
            if values in done:
                continue
            key = dict(zip(names, values, strict=True))
            case = f"{facts['set']} {facts['size'] or 'all'} seed {seed}, {side.name}"
            try:
                line = key | run(side, facts, path.resolve(), model, seed, options.threads)
            except Failed as failure:
                print(f"{case}: failed: {failure}", flush=True)
                continue
            runs.append(line)
            value = score(facts, line["predicted"])[0]
            print(f"{case}: {value:.4f} in {line['training_seconds']:.1f} / {line['seconds']:.1f} s", flush=True)
            with (options.output_dir / "runs.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


# --- Tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The runs of one side on one data set at one size.

    Args:
        scores: Over seeds.
        seeds: The seeds.
        training: Seconds of training by seed; empty where the clock is that of the processor.
        whole: Seconds of the process by seed.
    """

    scores: SeedScores
    seeds: Sequence[int]
    training: Sequence[float]
    whole: Sequence[float]

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Any]], facts: Facts, clock: str) -> Cell:
        """The cell of some runs; seconds by a clock of `CLOCKS`."""
        runs = sorted(runs, key=lambda line: line["seed"])
        values, draws, ends = zip(*(score(facts, line["predicted"]) for line in runs), strict=True)
        return cls(
            SeedScores(values, draws, ends),
            [line["seed"] for line in runs],
            [line["training_seconds"] for line in runs] if clock == "wall" else [],
            [line[CLOCKS[clock]] for line in runs],
        )

    @property
    def mean(self) -> float:
        """The mean score."""
        return statistics.mean(self.scores.values)

    def only(self, seeds: Sequence[int]) -> SeedScores:
        """The scores of some seeds."""
        places = [self.seeds.index(seed) for seed in seeds]
        found = self.scores
        return SeedScores(*([part[place] for place in places] for part in (found.values, found.draws, found.ends)))

    def level_with(self, best: Cell) -> bool:
        """Whether its score is that of the best or indistinguishable from it."""
        common = [seed for seed in self.seeds if seed in best.seeds]
        return self is best or (bool(common) and difference(self.only(common), best.only(common)).noise)

    def text(self, best: Cell) -> str:
        """The cell in words."""
        found = mean_interval(self.scores)
        mark = "**" if self.level_with(best) else ""
        seconds = [f"{statistics.median(times):.0f}" for times in (self.training, self.whole) if times]
        return f"{mark}{found.value:.3f}{mark} {found.low:.3f} to {found.high:.3f} ({', '.join(seconds)} s)"


@dataclass(frozen=True)
class Row:
    """One data set at one size: its cells by side, and the name of the best."""

    facts: Facts
    cells: Mapping[str, Cell]
    best: str

    @property
    def name(self) -> list[str]:
        """Data set, metric and size."""
        return [self.facts["set"], self.facts["metric"], str(self.facts["size"] or "all")]

    def best_peer(self, ours: Sequence[str]) -> str | None:
        """The other tool with the best mean score; None without one."""
        others = [name for name in self.cells if name not in ours]
        return max(others, key=lambda name: self.cells[name].mean, default=None)


def rows_of(
    runs: Sequence[Mapping[str, Any]], cases: Sequence[Facts], names: Sequence[str], clock: str = "wall"
) -> list[Row]:
    """A row for each data set and size of which there are runs."""
    from hf_ft.experiments.comparison_rows import best_of  # takes seconds to import

    facts = {(one["set"], one["size"]): one for one in cases}
    found: dict[tuple[str, int | None], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for line in runs:
        if (line["set"], line["size"]) in facts and line["side"] in names:
            found[line["set"], line["size"]][line["side"]].append(line)
    rows = []
    for key, one in facts.items():
        cells = {name: Cell.of(found[key][name], one, clock) for name in names if found[key][name]}
        if cells:
            scores = {name: dict(zip(cell.seeds, cell.scores.values, strict=True)) for name, cell in cells.items()}
            most = max(len(cell.seeds) for cell in cells.values())
            whole = {name: scores[name] for name, cell in cells.items() if len(cell.seeds) == most}
            rows.append(Row(one, cells, best_of(whole, True)))
    return rows


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The table of scores and seconds."""
    there = [name for name in names if any(name in row.cells for row in rows)]
    titles = [f"`{name}` (default)" if name == DEFAULT else name for name in there]
    lines = [
        [*row.name, *(row.cells[name].text(row.cells[row.best]) if name in row.cells else "" for name in there)]
        for row in rows
    ]
    # What comes from data is escaped; the only asterisks here are those of bold scores.
    return markdown_table(["data", "metric", "per class", *titles], lines).replace(r"\*\*", "**")


def summary(rows: Sequence[Row], names: Sequence[str]) -> str:
    """For each side: on how many rows it is the best or indistinguishable from it, what it loses, what it takes."""
    lines = []
    for name in names:
        mine = [row for row in rows if name in row.cells]
        if not mine:
            continue
        level = sum(row.cells[name].level_with(row.cells[row.best]) for row in mine)
        lost = statistics.mean(row.cells[row.best].mean - row.cells[name].mean for row in mine)
        seconds = statistics.mean(statistics.median(row.cells[name].whole) for row in mine)
        lines.append([name, f"{level} of {len(mine)}", f"{lost:.4f}", f"{seconds:.0f}"])
    return markdown_table(["side", "best or indistinguishable", "mean distance to the best", "mean whole s"], lines)


def goals(rows: Sequence[Row], ours: Sequence[str]) -> list[str]:
    """Where the default of hf_ft is distinguishably below the best, and where it is slower than the best other tool."""
    found, there = [], [row for row in rows if DEFAULT in row.cells]
    for row in there:
        mine, where = row.cells[DEFAULT], f"{row.name[0]}, {row.name[2]}"
        if not mine.level_with(row.cells[row.best]):
            found.append(
                f"{where}: {DEFAULT} is below {row.best} ({mine.mean:.3f} and {row.cells[row.best].mean:.3f})."
            )
        peer = row.best_peer(ours)
        took = statistics.median(mine.whole)
        if peer and took > statistics.median(row.cells[peer].whole):
            theirs = statistics.median(row.cells[peer].whole)
            found.append(f"{where}: {DEFAULT} takes {took:.0f} s, {peer}, the best other tool, {theirs:.0f} s.")
    if not there:
        return [f"{DEFAULT} was not run."]
    return found or [f"{DEFAULT} is nowhere below the best beyond noise, and nowhere slower than the best other tool."]


def by_seed(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The scores of each seed and the seconds of the data sets at full size, for `head` and the default."""
    lines = []
    for row in (row for row in rows if row.facts["size"] is None):
        for name in (name for name in names if name in row.cells and name in ("head", DEFAULT)):
            cell = row.cells[name]
            each = ", ".join(f"{value:.3f}" for value in cell.scores.values)
            training, whole = (", ".join(f"{value:.1f}" for value in all) for all in (cell.training, cell.whole))
            lines.append([row.name[0], name, each, f"{cell.mean:.3f}", training, whole])
    return markdown_table(["data", "method", "by seed", "mean", "training s", "whole s"], lines) if lines else ""


def report(options: argparse.Namespace, runs: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> str:
    """All tables, and what is not in them."""
    sides, _ = sides_of(options)
    names, ours = [side.name for side in sides], [side.name for side in sides if side.tool == "hf_ft"]
    known = {public_name(model) for model in options.models}
    chosen = [line for line in runs if line["model"] in known and line["scored"] == options.scored]
    chosen = [line for line in chosen if line["seed"] in options.seeds and line["side"] in names]
    facts = [one for _, one, _ in cases_with_facts(options)]
    rows = rows_of(chosen, facts, names, options.clock)
    if not rows:
        return "There are no runs yet."
    parts = [table(rows, names), summary(rows, names), "\n".join(goals(rows, ours))]
    if full := by_seed(rows, names):
        parts.append("All training examples, seed by seed:\n\n" + full)
    versions = {name: number for line in chosen for name, number in line["versions"].items() if name != "torch"}
    if versions:
        parts.append("Other tools: " + ", ".join(f"{name} {number}" for name, number in sorted(versions.items())))
    if left_out:
        parts.append("Left out, since their options were not given: " + ", ".join(left_out))
    return "\n\n".join(parts)


# --- Options ----------------------------------------------------------------------------------------------------------


def interpreter(text: str) -> str:
    """The absolute path of a Python, since runs have folders of their own; a link in a virtual environment stays one.

    Raises:
        argparse.ArgumentTypeError: There is no such program.
    """
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return os.path.abspath(found)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, folders = parser.add_argument, [data.folder for data in SETS]
    add("--data", type=Path, required=True, help="folder with the data sets")
    add("--output_dir", type=Path, default=Path("runs/quality"), help="(default: %(default)s)")
    models = ["builtin:efficientnet-lite0", "builtin:minilm"]
    add("--models", nargs=2, default=models, metavar=("IMAGE", "TEXT"), help=f"(default: {' '.join(models)})")
    add("--sets", nargs="+", choices=folders, default=folders, metavar="NAME", help=f"of: {' '.join(folders)}")
    add("--sizes", type=int, nargs="*", default=[10, 100], help="training examples of each class (default: 10 100)")
    add("--full", nargs="*", default=["hymenoptera"], metavar="NAME", help="sets with all examples as well")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add("--scored", type=int, default=500, help="most test examples (default: %(default)s)")
    add("--hf_ft", nargs="+", default=METHODS, metavar="METHOD", help=f"(default: {shlex.join(METHODS)})")
    for name in ("fastai", "autogluon", "setfit"):
        add(f"--{name}", type=interpreter, metavar="PYTHON", help=f"the Python that has {name}")
    add("--timm", metavar="FOLDER", help="a checkout of pytorch-image-models, whose train.py is run")
    add("--only", nargs="+", metavar="WORD", help="run only sides with one of these words in their name")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each run (default: all cores)")
    add("--clock", choices=tuple(CLOCKS), default="wall", help="whose seconds the tables show (default: %(default)s)")
    add("--quick", action="store_true", help="2 sets, 10 of each class, 1 seed: a few minutes a tool")
    add("--table", action="store_true", help="print the tables of what has been run, and run nothing")
    if "--quick" in sys.argv[1:]:
        parser.set_defaults(sets=["hymenoptera", "sst2"], sizes=[10], full=[], seeds=[0], scored=100)
    options = parser.parse_args()
    if options.timm is not None:
        options.timm = str(Path(options.timm).resolve())
        if not Path(options.timm, "train.py").is_file():
            parser.error(f"--timm {options.timm} has no train.py")
    return options


def main() -> None:
    """Run what has not been run, and print the tables."""
    options = parse()
    import datasets

    datasets.disable_progress_bars()
    options.device, options.model = "cpu", " and ".join(str(public_name(model)) for model in options.models)
    print(machine_line(options) + "\n", flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    file = options.output_dir / "runs.jsonl"
    runs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    sides, left_out = sides_of(options)
    if not options.table:
        measure(options, sides, runs)
    print("\n" + report(options, runs, left_out))


if __name__ == "__main__":
    main()
