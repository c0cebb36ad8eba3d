"""Trials: the trainings of one experiment, one after another in one process, on the same data, each stored when done.

All trials share validation and test; trials of one size and seed share their training examples. What frozen layers give
is shared through the feature cache: in training, and here for validation and test as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hf_ft.data import Splits, load_splits, sample_strata, with_truncation
from hf_ft.environment import machine, versions
from hf_ft.errors import UserError, shorten
from hf_ft.evaluation import predict_split
from hf_ft.experiments.comparison_settings import SECTIONS_OF_TRIALS, Layer, applicable_layers
from hf_ft.methods import MethodSpec, Plan
from hf_ft.metrics import Floats
from hf_ft.models import DepthGroups, adapters, check_model, load_model
from hf_ft.reports import title
from hf_ft.settings import OF_ADAPTERS, Settings, build, normalise
from hf_ft.storage import output_folder, text_digest
from hf_ft.tasks import get_task
from hf_ft.training import Run, describe, discard_model, make_plan, train

UNIMPORTANT = {
    *("method", "model", "dataset", "output_dir", "cache_dir", "cache_max_gb"),
    *("report_to", "run_name", "logging_steps", "disable_tqdm", "save_total_limit", "dataloader_num_workers"),
}
"""Settings that say where things are and what is told of them; model and data are known by their content."""


@dataclass(frozen=True)
class Trial:
    """One training: a method, a seed, a number of examples of each class (None: all), and settings of its own."""

    method: str
    seed: int
    size: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name of its files; patterns of `train:`, which a name of a file cannot hold, by their hash as well."""
        own = "".join(f"-{name}_{value}" for name, value in sorted(self.settings.items()))
        size = "all" if self.size is None else f"n{self.size}"
        method = re.sub(r"[^\w.-]+", "_", self.method)
        if method != self.method.replace(":", "_", 1):
            method += "-" + text_digest(self.method)[:8]
        return f"{method}-{size}{own}-seed{self.seed}"


@dataclass
class TrialResult:
    """What a trial gave. A failed one has `error` and nothing else.

    `seconds` are those of training, with the features that it computed; `step_seconds` are the part of them that went
    into steps and their evaluations, `feature_seconds` into features and decoded images, `features` how many of how
    many examples that were by split. What it found there took `build_seconds`, its own part included:
    `standalone_seconds` is how long it would have trained with nothing there. `wall_seconds` counts everything, from
    loading the model to scores on test. `frozen` counts blocks that never trained, None with adapters; `uncached` says
    why what is frozen ran in every epoch. `metrics` are those of `run.json`, by split and name.
    """

    method: str
    seed: int
    size: int | None
    examples: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    feature_seconds: float = 0.0
    build_seconds: float = 0.0
    features: dict[str, list[int]] = field(default_factory=dict)
    wall_seconds: float = 0.0
    blocks: int = 0
    frozen: int | None = None
    trainable: int = 0
    epochs: float = 0.0
    peak_memory: int = 0
    uncached: list[str] = field(default_factory=list)
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    error: str = ""

    @property
    def standalone_seconds(self) -> float:
        """The seconds of training as if no other had left features or decoded images."""
        return round(self.seconds - self.feature_seconds + self.build_seconds, 3)

    def score(self, split: str, metric: str) -> float:
        """The value of a metric on a split."""
        return self.metrics[split][metric]["value"]


def blocks_of(groups: DepthGroups) -> int:
    """How many blocks a model has."""
    return len(groups.of_role("block"))


class Experiment:
    """What the trials of a comparison share: settings, data, and the folder in which each leaves its files.

    `layers` are those of `config.build`, without a method. Data are read once; trials draw their training examples from
    the train split by their seed, smaller sizes from larger ones. Without `test`, that split is left alone and trials
    are scored on validation: who chooses by their scores must not have seen it. What is wrong with `methods`, or what
    `check` says of the model's depth groups, is told before the data are read.

    Raises:
        UserError: wrong settings or data, or several processes.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        folder: Path,
        test: bool = True,
        methods: Sequence[str] = (),
        check: Callable[[DepthGroups], object] | None = None,
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("Comparisons run in one process. Start the command without accelerate launch.")
        self.layers = [(source, normalise(layer, source)) for source, layer in layers]
        self.root, self.folder = folder, folder / "trials"
        layers = (*applicable_layers(self.layers, "head"), ("the comparison", {"method": "head"}))
        settings = build(*layers, sections=SECTIONS_OF_TRIALS)
        config, args = settings.config, settings.arguments()
        self.task = get_task(config.task)
        check_model(config, args, [MethodSpec.parse(name) for name in methods], check)
        splits = load_splits(config, args.seed)
        self.splits = splits if test else dataclasses.replace(splits, test=None)
        self.metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
        if self.metric == "loss":
            self.metric = self.splits.target.default_metric
        self.higher_is_better = self.splits.target.higher_is_better(self.metric)
        self.split = "validation" if self.splits.test is None else "test"
        self.model, self.processor, self.loaded = load_model(
            config, self.splits.labels, self.splits.problem_type, args.seed
        )
        self.splits = with_truncation(self.splits, self.task, self.processor, config)
        self.about = self._about(settings)

    @property
    def groups(self) -> DepthGroups:
        """The depth groups of the model."""
        return self.loaded.groups

    @property
    def blocks(self) -> int:
        """How many blocks the model has."""
        return blocks_of(self.groups)

    def settings(self, trial: Trial) -> Settings:
        """All settings of a trial."""
        out = {
            "output_dir": str(self.folder / trial.name),
            "overwrite_output_dir": True,
        }  # one that was killed leaves it
        own = {"method": trial.method, "seed": trial.seed, **out, **trial.settings}
        return build(*applicable_layers(self.layers, trial.method), ("the comparison", own))

    def _about(self, settings: Settings) -> dict[str, Any]:
        """What must be equal for two trials to be compared, and what tells a reader where they were run."""
        config, args = settings.config, settings.arguments()
        plan = make_plan(config, args, self.groups, len(self.splits.train))
        known = describe(config, self.splits, self.model, self.loaded, plan, self.task)
        given = {name: value for _, layer in self.layers for name, value in layer.items() if value is not None}
        of_adapters = {
            name: given[name] for name in OF_ADAPTERS & {*given}
        }  # some trials have them, `settings` has not
        values = {**vars(config), **settings.training, **of_adapters}
        named = sorted(name for name in {*given} - UNIMPORTANT if not name.startswith("hub_"))
        return {
            "task": known["task"],
            "model": known["model"],
            "data": known["data"],
            "settings": {name: values[name] for name in named},
            "metric": self.metric,
            "metric_title": title(self.metric),
            "higher_is_better": self.higher_is_better,
            "split": self.split,
            "machine": machine(),
            "versions": versions(),
        }

    def check(self, trials: Sequence[Trial]) -> None:
        """Raise for what no trial could do, before any of them starts.

        Raises:
            UserError: a method that the model lacks, or more examples of a class than there are.
        """
        sizes = {trial.size for trial in trials if trial.size is not None}
        self._check_sizes(sizes)
        for trial in {trial.method: trial for trial in trials}.values():
            for stage in self.plan(trial).stages:
                if stage.peft:
                    adapters.find_targets(self.model, stage, stage.peft, stage.peft_options)

    def plan(self, trial: Trial) -> Plan:
        """What a trial does when it trains on all examples.

        Raises:
            UserError: a method that the model lacks.
        """
        settings = self.settings(trial)
        return make_plan(settings.config, settings.arguments(), self.groups, len(self.splits.train))

    def _check_sizes(self, sizes: set[int]) -> None:
        if not sizes:
            return
        counts = self.splits.target.counts(self.splits.train, self.splits.labels)
        if counts is None or self.splits.target.refused.get("examples_per_class"):
            raise UserError("--examples_per_class needs data with one class an example. Leave it out.")
        few = {name: count for name, count in zip(self.splits.labels, counts, strict=True) if count < max(sizes)}
        if few:
            listed = shorten((f"{name} has {count:,}" for name, count in few.items()), 10)
            raise UserError(
                f"--examples_per_class {max(sizes):,} is more than train has: {listed}. Set at most "
                f"{min(few.values())}, or give more examples of these classes."
            )

    def part(self, trial: Trial) -> Splits:
        """The splits of a trial: all of train, or some examples of each class, drawn by its seed."""
        if trial.size is None:
            return self.splits
        labels = np.asarray(self.splits.train["labels"][:])
        sizes = np.full(len(self.splits.labels), trial.size, dtype=np.int64)
        rows = self.splits.train.select(sample_strata(labels, sizes, trial.seed))
        return dataclasses.replace(self.splits, train=rows)

    # Running.

    def result(self, trial: Trial) -> TrialResult | None:
        """What a trial gave in this run or an earlier one; None while it is missing, or after it failed."""
        path = self.folder / f"{trial.name}.json"
        if not path.exists() or not self._drawn(trial).exists():
            return None
        try:
            found = TrialResult(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):  # damaged: it is trained again
            return None
        return None if found.error else found

    def draws(self, trial: Trial) -> Floats:
        """The metric on resamples of the test split `(resamples,)`, the same draws for all trials."""
        found: Floats = np.load(self._drawn(trial), allow_pickle=False)
        return found

    def _drawn(self, trial: Trial) -> Path:
        return self.folder / f"{trial.name}.npy"

    def run(self, trial: Trial, others: int = 0) -> TrialResult:
        """Train and score a trial, unless it has been done. What it prints goes into a log beside its result.

        `others` is how many trials are still to come that freeze alike, and read the features that this one computes. A
        failure is told by the result; other trials can go on.
        """
        done = self.result(trial)
        if done is not None:
            return done
        scratch = self.folder / trial.name
        self.folder.mkdir(parents=True, exist_ok=True)
        log_file = self.folder / f"{trial.name}.log"
        output_folder.make_way(self.root, f"trials/{log_file.name}")
        log = log_file.open("w", encoding="utf-8")
        try:
            with log, contextlib.redirect_stdout(log):
                result, draws = self._logged(scratch, trial, others, log)
        finally:  # also of a trial that is interrupted: the next call would take the log for the user's
            output_folder.record_files(self.root, [log_file])
        if draws is not None:
            content = io.BytesIO()
            np.save(content, draws)
            output_folder.write(self.root, f"trials/{trial.name}.npy", content.getvalue())
        output_folder.write(self.root, f"trials/{trial.name}.json", json.dumps(asdict(result), indent=1) + "\n")
        gc.collect()
        return result

    def _logged(self, scratch: Path, trial: Trial, others: int, log: TextIO) -> tuple[TrialResult, Floats | None]:
        """Train a trial; what it fails with goes into its log."""
        try:
            return self._in_scratch(scratch, trial, others)
        except Exception as error:  # whatever it is, it must not take the other trials with it
            traceback.print_exc(file=log)
            text = " ".join(str(error).split()) or type(error).__name__
            return TrialResult(trial.method, trial.seed, trial.size, error=text), None

    def _in_scratch(self, scratch: Path, trial: Trial, others: int) -> tuple[TrialResult, Floats]:
        """Train a trial in a folder of its own, which is a run's like any other, and is gone afterwards."""
        try:
            with output_folder.locked(scratch, "run"):
                return self._train(trial, others)
        finally:
            discard_model(scratch)

    def _train(self, trial: Trial, others: int) -> tuple[TrialResult, Floats]:
        started = time.perf_counter()
        settings = self.settings(trial)
        config, args = settings.config, settings.arguments()
        args.disable_tqdm = True  # the comparison has a bar of its own
        splits = self.part(trial)
        model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
        plan = make_plan(config, args, loaded.groups, len(splits.train))
        run = train(model, processor, splits, plan, config, args, loaded, others=others)
        result = _described(trial, run)
        draws = self._score(run, result, others)
        result.wall_seconds = round(time.perf_counter() - started, 3)
        return result, draws

    def _score(self, run: Run, result: TrialResult, others: int) -> Floats:
        """Write scores on validation and test into a result; returns the metric on resamples of the last of them."""
        target, labels, threshold = self.splits.target, self.splits.labels, None
        for name, split in (("validation", self.splits.validation), ("test", self.splits.test)):
            if split is None:
                continue
            outputs, references = predict_split(run, split, others), split["labels"][:]
            if name == "validation":
                threshold = target.fit(outputs, references)
            scores = target.score(outputs, references, labels, threshold)
            result.metrics[name] = {metric: asdict(score) for metric, score in scores.items()}
        return target.bootstrap(outputs, references, labels, self.metric, threshold)


def _described(trial: Trial, run: Run) -> TrialResult:
    stages = run.stages
    cached = [stage.cache for stage in stages if stage.cache]
    images = [stage.images for stage in stages if stage.images]
    once = max((facts["build_seconds"] for facts in images), default=0.0)  # all stages read the same
    blocks = [setting for group, setting in run.plan.combined() if group.role == "block"]
    adapted = any(stage.peft for stage in run.plan.stages)
    return TrialResult(
        trial.method,
        trial.seed,
        trial.size,
        examples=len(run.splits.train),
        seconds=round(sum(stage.seconds for stage in stages), 3),
        step_seconds=round(sum(entry.get("train_runtime", 0.0) for stage in stages for entry in stage.history), 3),
        feature_seconds=round(sum(facts["seconds"] for facts in (*cached, *images)), 3),
        build_seconds=round(sum(facts["build_seconds"] for facts in cached) + once, 3),
        features={facts["split"]: [facts["computed"], facts["examples"]] for facts in cached},
        blocks=len(blocks),
        frozen=None if adapted else sum(setting.frozen for setting in blocks),
        trainable=max(stage.trainable for stage in stages),
        epochs=sum(stage.epochs for stage in stages),
        peak_memory=max(stage.peak_memory for stage in stages),
        uncached=[stage.uncached for stage in stages if stage.uncached],
    )
