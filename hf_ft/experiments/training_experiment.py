"""Trainings on one model and one data set: what trials share, and how one runs.

All trials share validation and test; trials with the same size and seed share their training examples. Frozen layers
run once for all of them through the feature cache: in training, and here for validation and test as well.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_ft import __version__
from hf_ft.data import Splits, load_splits, sample_strata, with_truncation
from hf_ft.environment import machine, versions
from hf_ft.errors import UserError, shorten
from hf_ft.evaluation import predict_split
from hf_ft.experiments.comparison_settings import SECTIONS_OF_TRIALS, Layer, applicable_layers
from hf_ft.experiments.experiment_engine import Experiment, one_line
from hf_ft.experiments.trials import Trial, trial_result
from hf_ft.methods import MethodSpec, Plan
from hf_ft.metrics import Floats, SeedScores
from hf_ft.models import DepthGroups, adapters, check_model, load_model
from hf_ft.records import ExperimentRecord, Machine, ScoreRecord, TrialResult
from hf_ft.reports import title
from hf_ft.settings import OF_ADAPTERS, OF_AVERAGES, Settings, build, normalise
from hf_ft.storage import as_json, output_folder
from hf_ft.tasks import get_task
from hf_ft.training import Run, describe, discard_model, make_plan, train

NOT_COMPARED = {
    *("method", "model", "dataset", "output_dir", "cache_dir", "cache_max_gb"),
    *("report_to", "run_name", "logging_steps", "disable_tqdm", "save_total_limit", "dataloader_num_workers"),
}
"""Settings of places and logging, which do not change a result; model and data are compared by content."""

R = TypeVar("R", bound=ExperimentRecord)


def blocks_of(groups: DepthGroups) -> int:
    """Return the number of blocks of a model."""
    return len(groups.of_role("block"))


class TrainingExperiment(Experiment[R]):
    """An experiment whose trials train one model on one data set.

    Args:
        layers: Layers of settings, as `hf_ft.settings.build` takes them, without a method.
        folder: The output folder.
        kind: Class of the record.
        test: Score on the test split. Without it the split is dropped and trials are scored on validation: whoever
            chooses by the scores must not have seen it.
        methods: Methods to check before the data are read.
        check: Called with the depth groups before the data are read.

    Raises:
        UserError: Wrong settings or data, or several processes.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        folder: Path,
        kind: type[R],
        test: bool = True,
        methods: Sequence[str] = (),
        check: Callable[[DepthGroups], object] | None = None,
    ) -> None:
        super().__init__(folder, kind)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("Experiments run in one process.", hint="Start the command without accelerate launch.")
        self.layers = [(source, normalise(layer, source)) for source, layer in layers]
        layers_of_head = applicable_layers(self.layers, "head")
        settings = build(*layers_of_head, ("the experiment", {"method": "head"}), sections=SECTIONS_OF_TRIALS)
        config, args = settings.config, settings.arguments()
        self.task = get_task(config.task)
        check_model(config, args, [MethodSpec.parse(name) for name in methods], check)
        splits = load_splits(config, args.seed)
        self.splits = splits if test else dataclasses.replace(splits, test=None)
        self.metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
        if self.metric == "loss":
            self.metric = self.splits.target.default_metric_of(self.splits.train, self.splits.labels)
        self.higher_is_better = self.splits.target.higher_is_better(self.metric)
        self.split = "validation" if self.splits.test is None else "test"
        self.model, self.processor, self.loaded = load_model(
            config, self.splits.labels, self.splits.problem_type, args.seed
        )
        self.splits = with_truncation(self.splits, self.task, self.processor, config)
        self.common = self._common(settings)

    @property
    def groups(self) -> DepthGroups:
        """The depth groups of the model."""
        return self.loaded.groups

    @property
    def blocks(self) -> int:
        """The number of blocks of the model."""
        return blocks_of(self.groups)

    def _common(self, settings: Settings) -> dict[str, Any]:
        """The fields of `ExperimentRecord`."""
        config, args = settings.config, settings.arguments()
        plan = make_plan(config, args, self.groups, len(self.splits.train))
        known = describe(config, self.splits, self.model, self.loaded, plan, self.task)
        explicit = {name: value for _, layer in self.layers for name, value in layer.items() if value is not None}
        some = {name: explicit[name] for name in (OF_ADAPTERS | OF_AVERAGES) & {*explicit}}  # of some trials only
        values = {**vars(config), **settings.training, **some}
        named = sorted(name for name in {*explicit} - NOT_COMPARED if not name.startswith("hub_"))
        return {
            "schema_version": self.kind.SCHEMA,
            "hf_ft": __version__,
            "date": time.strftime("%Y-%m-%d"),
            "task": known.task,
            "model": known.model,
            "data": known.data,
            "settings": as_json({name: values[name] for name in named}),
            "metric": self.metric,
            "metric_title": title(self.metric),
            "higher_is_better": self.higher_is_better,
            "split": self.split,
            "machine": Machine(**machine()),
            "versions": versions(),
        }

    # Before trials run.

    def settings(self, trial: Trial) -> Settings:
        """Return all settings of a trial. Its folder may be left over from a killed process."""
        out = {"output_dir": str(self.folder / trial.id), "overwrite_output_dir": True}
        own = {"method": trial.method, "seed": trial.seed, **out, **trial.settings}
        return build(*applicable_layers(self.layers, trial.method), ("the experiment", own))

    def plan(self, trial: Trial) -> Plan:
        """Return the plan of a trial on the whole training split.

        Raises:
            UserError: A method that the model does not support.
        """
        settings = self.settings(trial)
        return make_plan(settings.config, settings.arguments(), self.groups, len(self.splits.train))

    def check(self, trials: Sequence[Trial]) -> None:
        """Raise for trials that cannot run, before any of them starts.

        Raises:
            UserError: A method that the model does not support, or more examples per class than the data have.
        """
        self._check_sizes({trial.size for trial in trials if trial.size is not None})
        for trial in {trial.method: trial for trial in trials}.values():
            for stage in self.plan(trial).stages:
                if stage.peft:
                    adapters.find_targets(self.model, stage, stage.peft, stage.peft_options)

    def _check_sizes(self, sizes: set[int]) -> None:
        if not sizes:
            return
        counts = self.splits.target.counts(self.splits.train, self.splits.labels)
        if counts is None or self.splits.target.refused.get("examples_per_class"):
            raise UserError(
                "--examples_per_class needs data with one class per example.",
                option="examples_per_class",
                hint="Leave it out.",
            )
        few = {name: count for name, count in zip(self.splits.labels, counts, strict=True) if count < max(sizes)}
        if few:
            listed = shorten((f"{name} has {count:,}" for name, count in few.items()), 10)
            raise UserError(
                f"--examples_per_class {max(sizes):,} is more than the training split has: {listed}.",
                option="examples_per_class",
                value=max(sizes),
                hint=f"Set at most {min(few.values())}, or add examples of these classes.",
            )

    # Trials.

    def result_of(self, trial: Trial) -> TrialResult | None:
        """Return the result of a trial that has finished in this run or an earlier one, else None."""
        return self.result(trial.id, TrialResult, array=True)

    def draws(self, trial: Trial) -> Floats:
        """Return the metric on resamples of the scored split `(resamples,)`, the same resamples for all trials."""
        return self.array(trial.id)

    def run(self, trial: Trial, others: int = 0) -> TrialResult:
        """Train and score a trial, unless it has finished before. Its output goes into a log beside its result.

        Args:
            trial: The trial.
            others: How many later trials freeze the same layers, and so read the features that this one computes.
        """
        return self.result_of(trial) or self.run_trial(
            trial.id, lambda: self._in_scratch(trial, others), lambda error: trial.failed(one_line(error))
        )

    def _in_scratch(self, trial: Trial, others: int) -> tuple[TrialResult, Floats]:
        """Train a trial in a folder of its own, a run like any other, which is removed afterwards."""
        scratch = self.folder / trial.id
        try:
            with output_folder.locked(scratch, "run"):
                return self._train(trial, others)
        finally:
            discard_model(scratch)

    def _train(self, trial: Trial, others: int) -> tuple[TrialResult, Floats]:
        started = time.perf_counter()
        settings = self.settings(trial)
        config, args = settings.config, settings.arguments()
        args.metric_for_best_model = args.metric_for_best_model or self.metric  # even if a sample has equal classes
        args.disable_tqdm = True  # the experiment has a progress bar of its own
        splits = self._splits_of(trial)
        model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
        plan = make_plan(config, args, loaded.groups, len(splits.train))
        run = train(model, processor, splits, plan, config, args, loaded, others=others)
        result = trial_result(trial, run)
        draws = self._score(run, result, others)
        result.wall_seconds = round(time.perf_counter() - started, 3)
        return result, draws

    def _splits_of(self, trial: Trial) -> Splits:
        """The splits of a trial: the whole training split, or a sample of each class by its seed."""
        if trial.size is None:
            return self.splits
        labels = np.asarray(self.splits.train["labels"][:])
        sizes = np.full(len(self.splits.labels), trial.size, dtype=np.int64)
        rows = self.splits.train.select(sample_strata(labels, sizes, trial.seed))
        return dataclasses.replace(self.splits, train=rows)

    def _score(self, run: Run, result: TrialResult, others: int) -> Floats:
        """Add the scores on validation and test to a result; returns the metric on resamples of the last of them."""
        target, labels, threshold = self.splits.target, self.splits.labels, None
        for name, split in (("validation", self.splits.validation), ("test", self.splits.test)):
            if split is None:
                continue
            outputs, references = predict_split(run, split, others), split["labels"][:]
            if name == "validation":
                threshold = target.fit(outputs, references, run.config.threshold)
            scores = target.score(outputs, references, labels, threshold)
            result.metrics[name] = {metric: ScoreRecord(**asdict(score)) for metric, score in scores.items()}
        return target.bootstrap(outputs, references, labels, self.metric, threshold)

    def seed_scores(self, pairs: Sequence[tuple[Trial, TrialResult]]) -> SeedScores:
        """Return the scores of the trials of one method, one for each seed."""
        found = [result.metrics[self.split][self.metric] for _, result in pairs]
        ends = [(score.low, score.high) for score in found]
        return SeedScores([score.value for score in found], [self.draws(trial) for trial, _ in pairs], ends)


def uncached_methods(results: Sequence[TrialResult]) -> list[str]:
    """Return which methods ran their frozen layers in every epoch, and why; methods with adapters freeze nothing."""
    found: dict[str, list[str]] = {}
    for result in results:
        for reason in result.uncached if result.frozen is not None else ():
            found.setdefault(reason, []).append(result.method)
    return [
        f"{', '.join(dict.fromkeys(names))} ran frozen layers in every epoch: {why}" for why, names in found.items()
    ]
