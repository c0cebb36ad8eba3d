"""Comparison of methods on one model and data set: which is best, by how much, and at what cost. `hf-ft compare`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_ft.environment import progress, silence_libraries
from hf_ft.errors import UserError
from hf_ft.experiments.comparison_rows import advice, rows_of
from hf_ft.experiments.comparison_settings import DEPTHS, ComparisonSettings, read_comparison_settings
from hf_ft.experiments.depth_settings import freeze_depths
from hf_ft.experiments.experiment_engine import redraw
from hf_ft.experiments.training_experiment import TrainingExperiment, uncached_methods
from hf_ft.experiments.trials import Trial
from hf_ft.records import ComparisonRecord, ComparisonSeconds, TrialResult
from hf_ft.reports import comparison_summary as report
from hf_ft.reports import title
from hf_ft.storage import output_folder

DEFAULT_METHODS = ("scratch", "head", "last_n", "lora", "lp_ft", "full")

Comparison = TrainingExperiment[ComparisonRecord]


def compare(**settings: Any) -> ComparisonRecord:
    """Train several methods on one model and data set, over seeds and training set sizes.

    Takes `methods` (names, or text with commas), `seeds` (how many, or a list), `examples_per_class` (sizes of the
    training set) and every setting of `finetune` but `method`. Trials that an earlier call with the same `output_dir`
    finished are not run again and stay in the comparison; `overwrite_output_dir` starts anew.

    Returns:
        The content of `compare.json`: a row for each method and size, the results of all trials, and the advice.

    Raises:
        UserError: Wrong settings or data, or an `output_dir` with another comparison.

    Example:
        >>> record = compare(task="text_classification", model="builtin", dataset="reviews.csv", output_dir="compared")
        >>> print(record.advice[0])
    """
    return run_comparison(read_comparison_settings([("the call of compare()", settings)]))


@silence_libraries()
def run_comparison(settings: ComparisonSettings) -> ComparisonRecord:
    """Run a comparison, printing its progress and result.

    Raises:
        UserError: As `compare`, or another process uses the output folder.
    """
    with output_folder.locked(settings.folder, ComparisonRecord.KIND):
        return _compare(settings)


def _compare(settings: ComparisonSettings) -> ComparisonRecord:
    named = [name for name in settings.methods if name != DEPTHS]
    experiment = TrainingExperiment(settings.layers, settings.folder, ComparisonRecord, methods=named)
    notes: list[str] = []
    methods = expand_depths(settings.methods, experiment.blocks)
    methods = methods or supported_methods(experiment, settings.seeds[0], notes)
    asked = [Trial(method, seed, size) for size in settings.sizes for method in methods for seed in settings.seeds]
    experiment.check(asked)
    if experiment.split == "validation":
        notes.append("There is no test split: scores are on validation, which also chose the epoch of each training.")
    record = ComparisonRecord(**experiment.common, notes=notes)
    earlier = experiment.begin(record, settings.overwrite)
    trials = joined(asked, earlier, settings.folder)
    print(_introduction(record, trials, experiment), flush=True)

    def save(results: Sequence[TrialResult]) -> None:
        record.runs = list(results)
        experiment.save(record)

    results = run_trials(experiment, trials, save)
    summarise(experiment, trials, results, record)
    experiment.finish(record)
    print("\n" + report.summary(record, settings.folder))
    return record


# --- Before trials run ------------------------------------------------------------------------------------------------


def expand_depths(methods: Sequence[str], blocks: int) -> list[str]:
    """Return the methods, with `depths` replaced by one method for each freeze depth."""
    lists = (reversed(freeze_depths(None, blocks).values()) if name == DEPTHS else [name] for name in methods)
    return list(dict.fromkeys(method for names in lists for method in names))


def supported_methods(experiment: Comparison, seed: int, notes: list[str]) -> list[str]:
    """Return the default methods that the model supports, `last_n` with a third of its blocks; adds to `notes`."""
    found = []
    for name in DEFAULT_METHODS:
        method = f"{name}:{max(1, round(experiment.blocks / 3))}" if name == "last_n" else name
        try:
            experiment.check([Trial(method, seed)])
        except UserError as reason:
            notes.append(f"{method} is skipped: {reason}")
        else:
            found.append(method)
    return found


def joined(trials: Sequence[Trial], earlier: ComparisonRecord | None, folder: Path) -> list[Trial]:
    """Return the trials of earlier calls, failed ones too, and those that are asked for; the smallest size first.

    Raises:
        UserError: Together they are a single method at one size.
    """
    before = (Trial(run.method, run.seed, run.size) for run in (earlier.runs if earlier else ()))
    every = list(dict.fromkeys([*before, *trials]))
    if len({(trial.method, trial.size) for trial in every}) < 2:
        raise UserError(
            f"One method ({every[0].method}) at one size is nothing to compare, and {folder} holds no other.",
            option="methods",
            hint="Pass at least two: --methods head,full.",
        )
    return sorted(every, key=lambda trial: float("inf") if trial.size is None else trial.size)


def _introduction(record: ComparisonRecord, trials: Sequence[Trial], experiment: Comparison) -> str:
    finished = sum(experiment.result_of(trial) is not None for trial in trials)
    text = report.introduction(
        record,
        experiment.blocks,
        list(dict.fromkeys(trial.method for trial in trials)),
        list(dict.fromkeys(trial.seed for trial in trials)),
        list(dict.fromkeys(trial.size for trial in trials if trial.size is not None)),
    )
    return f"{text}\n{len(trials)} trials{f', {finished} of them finished before' if finished else ''}\n"


# --- Running ----------------------------------------------------------------------------------------------------------


def run_trials(
    experiment: Comparison, trials: Sequence[Trial], save: Callable[[Sequence[TrialResult]], None]
) -> list[TrialResult]:
    """Run the trials that are missing, with a line for each; `save` is called before each with the results so far."""
    found = {trial: known for trial in trials if (known := experiment.result_of(trial))}
    width = max(len(trial.method) for trial in trials)
    with progress("Trials", len(trials), "trials") as advance:
        for number, trial in enumerate(trials, start=1):
            if trial not in found:
                save([found[one] for one in trials if one in found])
                others = sum(later.method == trial.method for later in trials[number:])
                found[trial] = experiment.run(trial, others=others)
                line = _line(trial, found[trial], experiment.split, experiment.metric)
                print(f"{number:3}/{len(trials)}  {trial.method:{width}}  {line}", flush=True)
            advance(1)
    return [found[trial] for trial in trials]


def _line(trial: Trial, result: TrialResult, split: str, metric: str) -> str:
    name = f"seed {trial.seed}" + (f", {trial.size} per class" if trial.size is not None else "")
    if result.error:
        return f"{name}  failed: {result.error[:200]}"
    return f"{name}  {title(metric)} {result.score(split, metric):.4f}  {result.seconds:.1f} s"


def summarise(
    experiment: Comparison, trials: Sequence[Trial], results: Sequence[TrialResult], record: ComparisonRecord
) -> None:
    """Fill in the record: runs, a row for each method and size, and the advice.

    Raises:
        UserError: All trials failed.
    """
    pairs = list(zip(trials, results, strict=True))
    good = [(trial, result) for trial, result in pairs if not result.error]
    if not good:
        raise UserError(f"All {len(trials)} trials failed, the first with: {results[0].error}")
    record.runs, record.rows = list(results), []
    for size in dict.fromkeys(trial.size for trial, _ in good):
        incomplete = {trial.method for trial, result in pairs if result.error and trial.size == size}
        record.rows += rows_of(experiment, [pair for pair in good if pair[0].size == size], incomplete)
    record.failed = [f"{trial.id}: {result.error}" for trial, result in pairs if result.error]
    record.uncached = uncached_methods([result for _, result in good])
    record.advice = [advice([row for row in record.rows if row.size == size]) for size in record.sizes]
    record.date = time.strftime("%Y-%m-%d")
    record.seconds = ComparisonSeconds(
        training=round(sum(result.seconds for _, result in good), 3),
        standalone=round(sum(result.standalone_seconds for _, result in good), 3),
        wall=round(sum(result.wall_seconds for _, result in good), 3),
    )


def redraw_comparison(folder: Path) -> list[Path]:
    """Write the reports of a finished comparison again from its `compare.json`, byte for byte the same.

    Raises:
        UserError: There is no finished comparison.
    """
    return redraw(folder, ComparisonRecord)
