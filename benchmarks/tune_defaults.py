"""How the default learning rates, epochs and schedules were chosen: candidates on several data sets, sizes and seeds.

    python benchmarks/tune_defaults.py --data DATA --modality text --method full --grid "learning_rate=5e-5,2e-4"
    python benchmarks/tune_defaults.py --data DATA --modality image --method lp_ft --grid "learning_rate=1e-4,3e-4" \
        "early_stopping_patience=0,3" --sizes 10 100
    python benchmarks/tune_defaults.py --data DATA --modality image --each mixup=0.2 cutmix=1.0 ema=auto soup=3

A *candidate* is one combination of the values of `--grid`, each an option of `hf-ft train`; with `--each`, the defaults
and each option alone. The first candidate is what the others are compared with. Every candidate trains on the same
examples: each data set that DATA holds, `--sizes` examples of each class, `--seeds`. The validation split is held out
of the training split, as it is for a user who has only one, and chooses the checkpoint; the score is of examples that
took part in neither.

Every run is a line in OUTPUT (JSON lines); runs that are there are not repeated, so that a grid can grow. The tables
show the mean score of each candidate on each data set, how often it is the best one, and its mean regret: how much of
the best candidate's score on the same data set and size it loses.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from side_by_side import machine_line

from hf_ft.reports.tables import markdown_table


@dataclass(frozen=True)
class DataSet:
    """A folder below DATA, with the options that it needs; `scored` is its split of unseen examples."""

    folder: str
    task: str
    scored: str = "test"
    options: Mapping[str, Any] = field(default_factory=dict)


SETS = {
    "image": [
        DataSet("hymenoptera", "image_classification", "val"),
        DataSet("cifar10_small", "image_classification"),
        DataSet("cifar100", "image_classification"),
        DataSet("sign_digits", "image_classification"),
        DataSet("trashnet", "image_classification"),
        DataSet("clothing", "image_classification"),
    ],
    "text": [
        DataSet("sst2", "text_classification"),
        DataSet("ag_news_small", "text_classification"),
        DataSet("trec", "text_classification"),
        DataSet("banking77", "text_classification"),
        DataSet("go_emotions", "text_classification"),
        DataSet("btc_ner", "token_classification"),
    ],
}
"""The data sets by modality; those that DATA lacks are left out, and said."""

MODELS = {"image": "builtin:efficientnet-lite0", "text": "builtin:minilm"}
SCORED = 500
"""Most examples that a run is scored on."""


def value_of(text: str) -> Any:
    """A value of `--grid` as Python: a number, true/false, none, or a word."""
    words = {"true": True, "false": False, "none": None}
    if text in words:
        return words[text]
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def candidates(grid: Sequence[str]) -> list[dict[str, Any]]:
    """All combinations of `NAME=VALUE,VALUE ...`; one candidate without settings where the grid is empty."""
    axes = []
    for axis in grid:
        name, _, values = axis.partition("=")
        axes.append([(name.strip().lstrip("-"), value_of(value.strip())) for value in values.split(",")])
    return [dict(combination) for combination in itertools.product(*axes)]


def listed_candidates(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The candidates of `--grid` or of `--each`."""
    if options.each:
        return [{}, *(candidate for axis in options.each for candidate in candidates([axis]))]
    return candidates(options.grid)


def name_of(candidate: Mapping[str, Any]) -> str:
    """The candidate in words, as its settings; `defaults` without any."""
    return ", ".join(f"{name}={value}" for name, value in candidate.items()) or "defaults"


def sampled(data: DataSet, size: int) -> dict[str, Any]:
    """The options that sample `size` training examples of each class, and a fifth as many to validate on."""
    if data.folder in ("go_emotions", "btc_ner"):  # several labels an example: as many examples as for 10 classes
        return {"max_train_examples": 10 * size}
    return {"examples_per_class": size, "val_examples_per_class": max(5, size // 5)}


def train(data: DataSet, size: int, seed: int, candidate: Mapping[str, Any], options: argparse.Namespace) -> dict:
    """Train one candidate once; returns scores, seconds and what stopped when."""
    import hf_ft
    from hf_ft.settings import build

    settings: dict[str, Any] = {
        "task": data.task,
        "dataset": str(options.data / data.folder),
        "model": options.model,
        "method": options.method,
        "seed": seed,
        "disable_tqdm": True,
        "max_eval_examples": options.scored,
        **sampled(data, size),
        **data.options,
        **candidate,
    }
    if data.scored != "test":  # its validation split is what is scored, and another one is held out of train
        settings["test_split"] = data.scored
    started, before = time.perf_counter(), time.process_time()
    with (
        tempfile.TemporaryDirectory(prefix="hf-ft-tune-") as out,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        built = build(("the benchmark", {**settings, "output_dir": out}))
        config, args = built.config, built.arguments()
        splits = hf_ft.load_splits(config, args.seed)
        model, processor, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, args.seed)
        plan = hf_ft.make_plan(config, args, loaded.groups, len(splits.train))
        curve = _curve_callback(splits, processor, config) if options.curves else None
        run = hf_ft.train(model, processor, splits, plan, config, args, loaded, callbacks=[curve] if curve else None)
        metrics = hf_ft.score(run).metrics
    metric = run.shown
    return {
        "score": metrics["test"][metric].value,
        "validation": metrics["validation"][metric].value,
        "metric": metric,
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(time.process_time() - before, 2),
        "training_seconds": sum(stage.seconds for stage in run.stages),
        "stages": [[stage.name, stage.best_metric] for stage in run.stages],
        "curve": [
            [entry["epoch"], entry["eval_loss"], entry.get(f"eval_{metric}")]
            for stage in run.stages
            for entry in stage.history
            if "eval_loss" in entry
        ],
        "scored": curve.found if curve else [],
    }


def _curve_callback(splits: Any, processor: Any, config: Any) -> Any:
    """A callback that scores the unseen examples after each evaluation, to see what another epoch would have given."""
    from transformers import PreTrainedModel, TrainerCallback

    from hf_ft.evaluation.outputs import predict_outputs
    from hf_ft.tasks import get_task

    class Curve(TrainerCallback):
        """Collects the score of each epoch in `found`."""

        def __init__(self) -> None:
            self.found: list[float | None] = []

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Score the model as it is."""
            model = kwargs["model"]
            if not isinstance(model, PreTrainedModel):  # the trained part of a stage with cached features
                self.found.append(None)
                return
            training = model.training
            outputs = predict_outputs(model, processor, get_task(config.task), splits.test, config)
            model.train(training)
            scores = splits.target.score(outputs, splits.test["labels"][:], splits.labels, None)
            self.found.append(scores[splits.target.default_metric].value)

    return Curve()


def runs(options: argparse.Namespace) -> Iterator[tuple[DataSet, int, int, dict[str, Any]]]:
    """Everything to run: sizes from the smallest, and within a size all candidates of a data set in turn."""
    known = {data.folder: data for data in SETS[options.modality]}
    names = options.sets or list(known)
    for name in names:
        if not (options.data / name).is_dir():
            print(f"{options.data} has no {name}: it is left out", file=sys.stderr)
    there = [known[name] for name in names if (options.data / name).is_dir()]
    for size, seed, data in itertools.product(options.sizes, options.seeds, there):
        for candidate in listed_candidates(options):
            yield data, size, seed, candidate


def examples_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What says on which examples a run trained and was scored."""
    return line["set"], line["size"], line["seed"]


def signed(values: Sequence[float]) -> str:
    """The mean of differences, with their range."""
    if not any(values):
        return ""
    return f"{statistics.mean(values):+.4f} ({min(values):+.3f} to {max(values):+.3f})"


def tables(lines: Sequence[Mapping[str, Any]], listed: Sequence[str]) -> str:
    """Two tables: the scores by data set and size, and of each candidate its mean difference from the first one (with
    that of the worst and best pair of runs on the same examples), its mean regret and seconds."""
    scores: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    first = {examples_of(line): line["score"] for line in lines if line["candidate"] == listed[0]}
    differences: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line["candidate"] in listed:
            if examples_of(line) in first:
                differences[line["candidate"]].append(line["score"] - first[examples_of(line)])
            scores[line["set"], line["size"]][line["candidate"]].append(line["score"])
            seconds[line["candidate"]].append(line["training_seconds"])
    regrets: dict[str, list[float]] = defaultdict(list)
    wins: dict[str, int] = defaultdict(int)
    rows = []
    for (data, size), found in sorted(scores.items(), key=lambda item: (item[0][1], item[0][0])):
        means = {name: statistics.mean(values) for name, values in found.items()}
        best = max(means.values())
        for name, mean in means.items():
            regrets[name].append(best - mean)
            wins[name] += mean == best
        cells = []
        for name in listed:
            values = found.get(name, [])
            wide = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{means[name]:.3f}{wide}" if values else "")
        rows.append([data, str(size), *cells])
    summary = [
        [
            name,
            signed(differences[name]),
            f"{statistics.mean(regrets[name]):.4f}",
            str(wins[name]),
            f"{statistics.mean(seconds[name]):.1f}",
        ]
        for name in listed
        if regrets[name]
    ]
    summary.sort(key=lambda row: float(row[2]))
    titles = ["candidate", f"difference from {listed[0]}", "mean regret", "best", "training s"]
    return markdown_table(titles, summary) + "\n\n" + markdown_table(["data", "per class", *listed], rows)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with the data sets")
    add("--modality", choices=tuple(SETS), default="text")
    add("--model", help="default: builtin:efficientnet-lite0 or builtin:minilm")
    add("--method", default="lp_ft", help="(default: %(default)s)")
    add("--grid", nargs="*", default=[], metavar="NAME=VALUE,...", help="values of options to combine")
    add(
        "--each",
        nargs="*",
        default=[],
        metavar="NAME=VALUE,...",
        help="options to compare with the defaults one by one",
    )
    add("--sets", nargs="*", help="default: all that DATA has")
    add("--sizes", type=int, nargs="+", default=[10, 100], help="examples of each class (default: 10 100)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--scored", type=int, default=SCORED, help="most examples that are scored (default: %(default)s)")
    add("--curves", action="store_true", help="score the unseen examples after every evaluation as well")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--output", type=Path, default=Path("runs/tune_defaults.jsonl"))
    options = parser.parse_args()
    if options.grid and options.each:
        parser.error("give either --grid or --each")
    options.model = options.model or MODELS[options.modality]
    return options


def main() -> None:
    """Run what has not been run, and print the tables."""
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.device = "cpu"
    print(machine_line(options), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    names = ("model", "method", "set", "size", "seed", "candidate")
    done = {tuple(line[name] for name in names) for line in lines}
    for data, size, seed, candidate in runs(options):
        values = (options.model, options.method, data.folder, size, seed, name_of(candidate))
        key = dict(zip(names, values, strict=True))
        if values in done:
            continue
        lines.append(key | train(data, size, seed, candidate, options))
        found = f"{lines[-1]['score']:.4f} in {lines[-1]['training_seconds']:.1f} s"
        print(f"{data.folder} {size} seed {seed}, {key['candidate']}: {found}", flush=True)
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    chosen = [
        line
        for line in lines
        if (line["model"], line["method"]) == (options.model, options.method) and line["size"] in options.sizes
    ]
    print("\n" + tables(chosen, [name_of(candidate) for candidate in listed_candidates(options)]))


if __name__ == "__main__":
    main()
