"""Search for the freeze depth: depths race over short trainings, the best go on to longer ones. `hf-ft depth`.

Successive halving (Jamieson and Talwalkar 2016, http://proceedings.mlr.press/v51/jamieson16.html) over full, last_n and
head. All depths train for a sixth of their length, the best third of them for half of it, and the best mean of
validation scores is chosen. The linear probe is cheap, so it is trained fully up front and kept out of the rungs. Only
where it is ahead of the winner of the rungs is that one trained fully too, so that the two are compared fairly. Frozen
layers run once for all rungs and seeds where their features can be cached. The test split is not read.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_ft.environment import silence_libraries
from hf_ft.errors import UserError
from hf_ft.experiments.boundary_probes import score_boundary_probes
from hf_ft.experiments.comparison_settings import Layer
from hf_ft.experiments.depth_settings import (
    MIN_STEPS,
    DepthSettings,
    best_depths,
    freeze_depths,
    halving_schedule,
    read_depth_settings,
)
from hf_ft.experiments.experiment_engine import redraw
from hf_ft.experiments.training_experiment import TrainingExperiment, blocks_of, uncached_methods
from hf_ft.experiments.trials import Trial
from hf_ft.metrics import difference, mean_interval
from hf_ft.records import (
    ContradictingProbe,
    DepthAlternative,
    DepthCandidate,
    DepthChoice,
    DepthCost,
    FreezeDepthRecord,
    LayerProbes,
    Rung,
    RungRow,
    TrialResult,
)
from hf_ft.reports import counted, wrapped
from hf_ft.reports import freeze_depth_summary as report
from hf_ft.settings import normalise
from hf_ft.storage import output_folder

DepthSearch = TrainingExperiment[FreezeDepthRecord]


def depth(**settings: Any) -> FreezeDepthRecord:
    """Find how many blocks of a model to freeze on a data set.

    Takes `depths` (numbers of frozen blocks, 0 is `full`), `seeds` (how many, or a list; one by default) and every
    setting of `finetune` but `method`. Trials that an earlier call with the same `output_dir` finished are not run
    again.

    Returns:
        The content of `depth.json`; `choice` is the depth with its scores.

    Raises:
        UserError: Wrong settings or data, or a model without blocks.
    """
    return search(read_depth_settings([("the call of depth()", settings)]))


@silence_libraries()
def search(settings: DepthSettings) -> FreezeDepthRecord:
    """Run a search, printing its progress and result.

    Raises:
        UserError: As `depth`, or another process uses the output folder.
    """
    with output_folder.locked(settings.folder, FreezeDepthRecord.KIND):
        return _search(settings)


def _search(settings: DepthSettings) -> FreezeDepthRecord:
    experiment = TrainingExperiment(
        settings.layers,
        settings.folder,
        FreezeDepthRecord,
        test=False,
        check=lambda groups: freeze_depths(settings.depths, blocks_of(groups)),  # before the data are read
    )
    methods = freeze_depths(settings.depths, experiment.blocks)
    experiment.check([Trial(method, settings.seeds[0]) for method in methods.values()])
    record = FreezeDepthRecord(
        **experiment.common,
        blocks=experiment.blocks,
        seeds=settings.seeds,
        candidates=[DepthCandidate(frozen, method) for frozen, method in methods.items()],
        layer_probes=LayerProbes(),
    )
    earlier = experiment.begin(record, settings.overwrite)
    record.layer_probes = earlier.layer_probes if earlier else score_boundary_probes(experiment, settings.seeds[0])
    experiment.save(record)
    print(report.introduction(record), flush=True)
    race = Race(experiment, methods, settings.seeds, record)
    record.choice = race.run()
    results = [one.result for one in race.trained.values()]
    record.uncached, record.runs, record.cost = uncached_methods(results), results, race.cost()
    record.date = time.strftime("%Y-%m-%d")
    experiment.finish(record)
    print(f"\n{report.summary(record, settings.folder)}\n\nContinue with:\n{command(settings.layers, record)}")
    return record


# --- The race ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedDepth:
    """One training of the race: the blocks that it froze, its share of the method's own length, and its result."""

    trial: Trial
    frozen: int
    share: float
    result: TrialResult


@dataclass
class Race:
    """A search while it runs: methods by freeze depth, and the results so far, in `record` and on disk."""

    experiment: DepthSearch
    methods: dict[int, str]
    seeds: list[int]
    record: FreezeDepthRecord
    trained: dict[str, TrainedDepth] = field(default_factory=dict)

    def run(self) -> DepthChoice:
        """Run the rungs; returns the row of the depth that is chosen.

        Raises:
            UserError: All trials failed.
        """
        head = [frozen for frozen in self.methods if frozen == self.experiment.blocks]
        alive = [frozen for frozen in self.methods if frozen not in head]
        full_length = self.rung("Linear probe, trained fully", head, 1.0) if head else []
        last: list[RungRow] = []
        schedule = self.schedule(alive)
        for number, (share, count) in enumerate(schedule, start=1):
            goes_on = "goes on" if count == 1 else "go on"
            heading = f"Rung {number} of {len(schedule)}: the best {count} {goes_on}"
            last = self.rung(heading, alive, share, len(schedule) - number)
            alive = best_depths({row.frozen: self.sign * row.mean for row in last}, count)
        best = self.best([*full_length, *(row for row in last if row.frozen in alive)])
        if alive and (best is None or best in full_length) and schedule[-1:] != [(1.0, 1)]:
            heading = "The linear probe is ahead: the best of the others trains fully too"
            full_length = [*full_length, *self.rung(heading, alive, 1.0)]
            best = self.best(full_length)
        if best is None:
            raise UserError(f"All {len(self.trained)} trials failed, the first with: {self.record.failed[0]}")
        return DepthChoice(
            **vars(best),
            alternative=self.alternative(best, [*full_length, *last]),
            contradicting_probe=self.contradicting_probe(best),
        )

    def schedule(self, depths: Sequence[int]) -> list[tuple[float, int]]:
        """Return the rungs for these depths; adds a note where even the full length is too short to separate them."""
        steps = min((self.full_length(frozen)[1] for frozen in depths), default=math.inf)
        if steps < MIN_STEPS and len(depths) > 1:
            note = (
                f"Depths train for {steps:.0f} steps in full, so all of them do. Fewer than about {MIN_STEPS} steps "
                "hardly separate depths: set more --num_train_epochs or --max_steps, or leave them out."
            )
            self.record.notes = [note]
            print("\n".join(wrapped(f"Note     {note}", " " * 9)), flush=True)
        return halving_schedule(len(depths), steps)

    def contradicting_probe(self, best: RungRow) -> ContradictingProbe | None:
        """Return the best layer probe where it scores beyond the interval of the chosen depth."""
        probes = self.record.layer_probes.scores
        if not probes:
            return None
        frozen = max(range(len(probes)), key=lambda i: self.sign * probes[i])
        beyond = probes[frozen] > best.high if self.sign > 0 else probes[frozen] < best.low
        return ContradictingProbe(frozen, probes[frozen]) if beyond else None

    @property
    def sign(self) -> int:
        """1 where a higher score is better, else -1."""
        return 1 if self.experiment.higher_is_better else -1

    def best(self, rows: Sequence[RungRow]) -> RungRow | None:
        """Return the row with the best mean; among equal ones the one that freezes more."""
        return max(rows, key=lambda row: (self.sign * row.mean, row.frozen), default=None)

    def rung(self, heading: str, depths: Sequence[int], share: float, later: int = 0) -> list[RungRow]:
        """Train depths for a share of their length with every seed; returns a row for each that did not fail.

        `later` is how many rungs are still to come, whose trials may read the same features.
        """
        lengths = {frozen: self.length(frozen, share) for frozen in depths}
        shown = "full length" if share == 1 else "; ".join(dict.fromkeys(_spoken(one) for one in lengths.values()))
        print(f"{heading} ({shown})", flush=True)
        rows = []
        for frozen, length in lengths.items():
            trained = []
            for number, seed in enumerate(self.seeds, start=1):
                trial = Trial(self.methods[frozen], seed, settings=length if share < 1 else {})
                trained.append(self.train(trial, frozen, share, len(self.seeds) * (1 + later) - number))
            good = [one for one in trained if not one.result.error]
            rows += [self.row(frozen, good)] if good else []
        self.record.rungs.append(Rung(share, shown, rows))
        self.experiment.save(self.record)
        return rows

    def length(self, frozen: int, share: float) -> dict[str, float]:
        """Return the setting that trains a depth for a share of its own length; whole epochs where there are any."""
        stages = self.experiment.plan(Trial(self.methods[frozen], self.seeds[0])).stages
        steps, epochs = sum(stage.max_steps for stage in stages), share * sum(stage.epochs for stage in stages)
        if steps > 0:
            return {"max_steps": math.ceil(steps * share)}
        return {"num_train_epochs": round(epochs) if epochs >= 1 else round(epochs, 2)}

    def train(self, trial: Trial, frozen: int, share: float, others: int) -> TrainedDepth:
        """Run one trial, unless it has finished before, and print a line for it."""
        known = self.experiment.result_of(trial)
        result = known or self.experiment.run(trial, others)
        result.share = share
        if result.error:
            line = f"failed: {result.error[:200]}"
            self.record.failed.append(f"{trial.id}: {result.error}")
        else:
            score = result.score(self.experiment.split, self.experiment.metric)
            line = f"{self.experiment.metric} {score:.4f}  {result.seconds:.1f} s" + ("  (before)" if known else "")
        print(f"  {frozen:2} frozen  {trial.method:9}  seed {trial.seed}  {line}", flush=True)
        self.trained[trial.id] = TrainedDepth(trial, frozen, share, result)
        return self.trained[trial.id]

    def row(self, frozen: int, trained: Sequence[TrainedDepth]) -> RungRow:
        """Return the scores of one depth over its seeds, with the 95 % interval over examples and seeds."""
        mean = mean_interval(self.experiment.seed_scores([(one.trial, one.result) for one in trained]))
        return RungRow(
            frozen=frozen,
            method=self.methods[frozen],
            trials=[one.trial.id for one in trained],
            values=[one.result.score(self.experiment.split, self.experiment.metric) for one in trained],
            mean=mean.value,
            low=mean.low,
            high=mean.high,
            seconds=round(sum(one.result.seconds for one in trained), 3),
        )

    def alternative(self, best: RungRow, rows: Sequence[RungRow]) -> DepthAlternative | None:
        """Return the row that freezes most of those indistinguishable from the best, if it freezes more than that."""
        for row in sorted(rows, key=lambda row: -row.frozen):
            one, other = self.by_seed(row), self.by_seed(best)
            common = [seed for seed in one if seed in other]
            if row.frozen > best.frozen and common:
                scores = [self.experiment.seed_scores([which[seed] for seed in common]) for which in (one, other)]
                gap = difference(*scores)
                if gap.noise:
                    return DepthAlternative(row.frozen, row.method, gap.value, gap.low, gap.high, gap.undecided)
        return None

    def by_seed(self, row: RungRow) -> dict[int, tuple[Trial, TrialResult]]:
        """Return the trial and result of each seed of a row."""
        trained = [self.trained[name] for name in row.trials]
        return {one.trial.seed: (one.trial, one.result) for one in trained}

    # Costs.

    def cost(self) -> DepthCost:
        """Return the seconds of the search, and an estimate for training all depths in full without a cache."""
        results = [one.result for one in self.trained.values()]
        probes = self.record.layer_probes.seconds
        return DepthCost(
            training=round(sum(result.seconds for result in results), 3),
            layer_probes=probes,
            wall=round(sum(result.wall_seconds for result in results) + probes, 3),
            full_sweep=round(len(self.seeds) * sum(self.uncached_seconds(frozen) for frozen in self.methods), 1),
        )

    def uncached_seconds(self, frozen: int) -> float:
        """Estimate the seconds of a depth in full without a cache, from its longest trial.

        Where cached features replaced the frozen layers, their forward passes are added to the seconds of its steps.
        """
        done = [one for one in self.trained.values() if one.frozen == frozen and not one.result.error]
        if not done:
            return 0.0
        longest = max(done, key=lambda one: one.share)
        passes, _ = self.full_length(frozen)
        examples = len(self.experiment.splits.train) + len(self.experiment.splits.validation)
        each = self.record.layer_probes.seconds_per_example * frozen / self.experiment.blocks
        frozen_part = each * passes * examples if longest.result.features else 0.0
        return longest.result.step_seconds / self.trained_share(longest) + frozen_part

    def trained_share(self, one: TrainedDepth) -> float:
        """Return the share of its full length that a trial really had: epochs and steps are whole numbers."""
        epochs, steps = self.full_length(one.frozen)
        own = one.trial.settings
        share: float = own["max_steps"] / steps if "max_steps" in own else own.get("num_train_epochs", epochs) / epochs
        return share

    def full_length(self, frozen: int) -> tuple[float, float]:
        """Return the epochs and steps that a depth trains for in full."""
        trial = Trial(self.methods[frozen], self.seeds[0])
        args, (stage,) = self.experiment.settings(trial).arguments(), self.experiment.plan(trial).stages
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        steps = math.ceil(len(self.experiment.splits.train) / batch)
        if stage.max_steps < 0:
            return stage.epochs, stage.epochs * steps
        return stage.max_steps / steps, stage.max_steps


def _spoken(length: dict[str, float]) -> str:
    ((name, value),) = length.items()
    unit = "step" if name == "max_steps" else "epoch"
    return counted(value, unit) if isinstance(value, int) else f"{value:g} {unit}s"


# --- Afterwards -------------------------------------------------------------------------------------------------------


def command(layers: Sequence[Layer], record: FreezeDepthRecord) -> str:
    """Return the command that trains with the chosen depth and the settings of the search."""
    assert record.choice is not None
    explicit: dict[str, Any] = {}
    for source, layer in layers:
        explicit |= {name: value for name, value in normalise(layer, source).items() if value is not None}
    explicit |= {"method": record.choice.method, "output_dir": "OUT"}
    first = [name for name in ("task", "model", "dataset", "method") if name in explicit]
    words = ["hf-ft train"]
    for name in [*first, *sorted(set(explicit) - {*first, "output_dir"}), "output_dir"]:
        value = explicit[name]
        text = json.dumps(value) if isinstance(value, dict | list | bool) else str(value)  # as an option is written
        words.append(f"--{name} {shlex.quote(text)}")
    return " \\\n    ".join(words)


def redraw_depth(folder: Path) -> list[Path]:
    """Write the reports of a finished search again from its `depth.json`, byte for byte the same.

    Raises:
        UserError: There is no finished search.
    """
    return redraw(folder, FreezeDepthRecord)
