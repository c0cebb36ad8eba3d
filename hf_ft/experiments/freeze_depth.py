"""How many blocks to freeze: depths race over short trainings, the best go on to longer ones. `hf-ft depth`.

Successive halving (Jamieson and Talwalkar 2016, http://proceedings.mlr.press/v51/jamieson16.html) over full, last_n and
head. All depths train for a sixth of their length, the best third of them for half of it, and the best mean of
validation scores is chosen. A head alone is cheap: it is trained at its own length at once and stands by. Only where it
is ahead of the winner of the rungs is that one trained at its own length, too, so that the two are compared fairly.
What is frozen runs once for all rungs and seeds where it can be kept. The test split is not looked at.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_ft import __version__
from hf_ft.environment import silence_libraries
from hf_ft.errors import UserError, split_argument
from hf_ft.experiments.boundary_probes import score_boundary_probes
from hf_ft.experiments.comparison import Record, check_same, seed_scores, uncached_methods, write
from hf_ft.experiments.comparison_settings import SECTIONS_OF_TRIALS, Layer
from hf_ft.experiments.depth_settings import (
    MIN_STEPS,
    DepthSettings,
    best_depths,
    freeze_depths,
    halving_schedule,
    read_depth_settings,
)
from hf_ft.experiments.trials import Experiment, Trial, TrialResult, blocks_of
from hf_ft.metrics import difference, mean_interval
from hf_ft.reports import bullets, draw_depths, escaped, markdown_table, text_table, wrapped
from hf_ft.settings import Settings, build, normalise
from hf_ft.storage import SEARCH, drawing, output_folder, read_record

FILE = "depth.json"


def depth(**settings: Any) -> Record:
    """Find how many blocks of a model to freeze on a data set; returns what `depth.json` says.

    Takes `depths` (numbers of frozen blocks, 0 is `full`), `seeds` (how many, or a list; one by default) and every
    setting of `finetune` but `method`. Trainings that an earlier call with the same `output_dir` finished are not run
    again.

    Raises:
        UserError: a mistake in the settings or the data, or a model without blocks.
    """
    return search(read_depth_settings([("the call of depth()", settings)]))


@silence_libraries()
def search(asked: DepthSettings) -> Record:
    """Race the depths that a search asks for; prints what is done.

    Raises:
        UserError: what is asked for does not go, or another process writes into the output folder.
    """
    with output_folder.locked(asked.folder, "search"):
        return _search(asked)


def _search(asked: DepthSettings) -> Record:
    # Depths that the model has not are told before its data are read.
    experiment = Experiment(
        asked.layers, asked.folder, False, check=lambda groups: freeze_depths(asked.depths, blocks_of(groups))
    )
    methods = freeze_depths(asked.depths, experiment.blocks)
    experiment.check([Trial(method, asked.seeds[0]) for method in methods.values()])
    record: Record = {
        "hf_ft": __version__,
        "kind": "depth",
        **experiment.about,
        "blocks": experiment.blocks,
        "seeds": asked.seeds,
    }
    record["candidates"] = [{"frozen": frozen, "method": method} for frozen, method in methods.items()]
    if asked.anew:
        output_folder.remove(asked.folder)
    check_same(asked.folder / FILE, record, "search")
    record["layer_probes"] = _evidence(experiment, asked)
    write(asked.folder, record, FILE)  # by which the folder is known, should this be stopped
    print("\n".join(introduction(record)), flush=True)
    race = Race(experiment, methods, asked.seeds, record, asked.folder)
    record["choice"] = race.run()
    record["uncached"] = uncached_methods([one.result for one in race.trained.values()])
    record |= {"runs": race.runs(), "cost": race.cost(), "date": time.strftime("%Y-%m-%d")}
    write(asked.folder, record, FILE)
    publish(record, asked.folder)
    print("\n" + told(record, asked.folder) + "\n\nGo on with:\n" + command(asked.layers, record))
    return record


def _evidence(experiment: Experiment, asked: DepthSettings) -> Record:
    """What an earlier run of the same search has found, or found now."""
    path = asked.folder / FILE
    there: Record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return there.get("layer_probes") or score_boundary_probes(experiment, asked.seeds[0])


# --- The race ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """One training of the race: how many blocks it froze, which share of its length it had, and what it gave."""

    trial: Trial
    frozen: int
    share: float
    result: TrialResult


@dataclass
class Race:
    """A search while it runs: the depths by frozen blocks, and what has been found, in `record` and on disk."""

    experiment: Experiment
    methods: dict[int, str]
    seeds: list[int]
    record: Record
    folder: Path
    trained: dict[str, Trained] = field(default_factory=dict)

    def run(self) -> Record:
        """Run the rungs; returns the row of the depth that is chosen.

        Raises:
            UserError: all trainings failed.
        """
        self.record |= {"rungs": [], "failed": []}
        solved = [frozen for frozen in self.methods if frozen == self.experiment.blocks]
        alive = [frozen for frozen in self.methods if frozen not in solved]
        own = self.rung("Head, which stands by", solved, 1.0) if solved else []
        last: list[Record] = []
        plan = self.plan(alive)
        for number, (share, count) in enumerate(plan, start=1):
            going = "goes on" if count == 1 else "go on"
            last = self.rung(
                f"Rung {number} of {len(plan)}: the best {count} {going}", alive, share, len(plan) - number
            )
            alive = best_depths({row["frozen"]: self.sign * row["mean"] for row in last}, count)
        best = self.best([*own, *(row for row in last if row["frozen"] in alive)])
        if alive and (best is None or best in own) and plan[-1:] != [(1.0, 1)]:
            own = [*own, *self.rung("Head is ahead: the best of the others too", alive, 1.0)]
            best = self.best(own)
        if best is None:
            raise UserError(f"All {len(self.trained)} trainings failed, the first with: {self.record['failed'][0]}")
        return {**best, "alternative": self.close(best, [*own, *last]), "contradicting_probe": self.contradicted(best)}

    def plan(self, depths: Sequence[int]) -> list[tuple[float, int]]:
        """The rungs for these depths; notes it where even their own length is too short to tell them apart."""
        steps = min((self.full_length(frozen)[1] for frozen in depths), default=math.inf)
        if steps < MIN_STEPS and len(depths) > 1:
            note = (
                f"Depths have {steps:.0f} steps at their own length, which all of them train for. Fewer than about "
                f"{MIN_STEPS} hardly tell depths apart: set more --num_train_epochs or --max_steps, or leave them out."
            )
            self.record["notes"] = [note]
            print("\n".join(wrapped(f"Note     {note}", " " * 9)), flush=True)
        return halving_schedule(len(depths), steps)

    def contradicted(self, best: Record) -> Record | None:
        """The best layer probe, where it scores beyond the interval of what is chosen; None where it does not."""
        probes = self.record["layer_probes"]["scores"]
        if not probes:
            return None
        frozen = max(range(len(probes)), key=lambda i: self.sign * probes[i])
        beyond = probes[frozen] > best["high"] if self.sign > 0 else probes[frozen] < best["low"]
        return {"frozen": frozen, "score": probes[frozen]} if beyond else None

    @property
    def sign(self) -> int:
        """1 where a higher score is better, else -1."""
        return 1 if self.experiment.higher_is_better else -1

    def best(self, rows: Sequence[Record]) -> Record | None:
        """The row of the best mean; of equal ones the one that freezes more."""
        return max(rows, key=lambda row: (self.sign * row["mean"], row["frozen"]), default=None)

    def rung(self, heading: str, depths: Sequence[int], share: float, later: int = 0) -> list[Record]:
        """Train depths for a share of their length with every seed; a row for each that did not fail.

        `later` is how many rungs are still to come, whose trainings may read the same features.
        """
        lengths = {frozen: self.length(frozen, share) for frozen in depths}
        told = "own length" if share == 1 else "; ".join(dict.fromkeys(_spoken(length) for length in lengths.values()))
        print(f"{heading} ({told})", flush=True)
        rows = []
        for frozen, length in lengths.items():
            found = []
            for number, seed in enumerate(self.seeds, start=1):
                trial = Trial(self.methods[frozen], seed, settings=length if share < 1 else {})
                found.append(self.train(trial, frozen, share, len(self.seeds) * (1 + later) - number))
            good = [one for one in found if not one.result.error]
            rows += [self.row(frozen, good)] if good else []
        self.record["rungs"].append({"share": share, "length": told, "rows": rows})
        write(self.folder, self.record, FILE)
        return rows

    def length(self, frozen: int, share: float) -> dict[str, float]:
        """The setting that lets a depth train for a share of its own length; whole epochs where there are any."""
        stages = self.experiment.plan(Trial(self.methods[frozen], self.seeds[0])).stages
        steps, epochs = sum(stage.max_steps for stage in stages), share * sum(stage.epochs for stage in stages)
        if steps > 0:
            return {"max_steps": math.ceil(steps * share)}
        return {"num_train_epochs": round(epochs) if epochs >= 1 else round(epochs, 2)}

    def train(self, trial: Trial, frozen: int, share: float, others: int) -> Trained:
        """Train one trial, unless that has been done, and print a line for it."""
        known = self.experiment.result(trial)
        result = known or self.experiment.run(trial, others)
        if result.error:
            told = f"failed: {result.error[:200]}"
            self.record["failed"].append(f"{trial.name}: {result.error}")
        else:
            score = result.score(self.experiment.split, self.experiment.metric)
            told = f"{self.experiment.metric} {score:.4f}  {result.seconds:.1f} s" + ("  (before)" if known else "")
        print(f"  {frozen:2} frozen  {trial.method:9}  seed {trial.seed}  {told}", flush=True)
        self.trained[trial.name] = Trained(trial, frozen, share, result)
        return self.trained[trial.name]

    def row(self, frozen: int, found: Sequence[Trained]) -> Record:
        """Scores of one depth over its seeds, with the 95 % interval over examples and seeds."""
        values = [one.result.score(self.experiment.split, self.experiment.metric) for one in found]
        about = mean_interval(seed_scores(self.experiment, [(one.trial, one.result) for one in found]))
        return {
            "frozen": frozen,
            "method": self.methods[frozen],
            "trials": [one.trial.name for one in found],
            "values": values,
            "mean": about.value,
            "low": about.low,
            "high": about.high,
            "seconds": round(sum(one.result.seconds for one in found), 3),
        }

    def close(self, best: Record, rows: Sequence[Record]) -> Record | None:
        """The row that freezes most of those within the noise of the best one; None where none freezes more than it."""
        for row in sorted(rows, key=lambda row: -row["frozen"]):
            one, other = self.by_seed(row), self.by_seed(best)
            both = [seed for seed in one if seed in other]
            if row["frozen"] > best["frozen"] and both:
                gap = difference(
                    *(seed_scores(self.experiment, [which[seed] for seed in both]) for which in (one, other))
                )
                if gap.noise:
                    found = {"value": gap.value, "low": gap.low, "high": gap.high, "inconclusive": gap.undecided}
                    return {"frozen": row["frozen"], "method": row["method"], **found}
        return None

    def by_seed(self, row: Record) -> dict[int, tuple[Trial, TrialResult]]:
        """The training of each seed of a row, and its result."""
        found = [self.trained[name] for name in row["trials"]]
        return {one.trial.seed: (one.trial, one.result) for one in found}

    # What it cost.

    def runs(self) -> list[Record]:
        """All trainings, as they were kept."""
        return [
            {"trial": name, "frozen": one.frozen, "share": one.share, **asdict(one.result)}
            for name, one in self.trained.items()
        ]

    def cost(self) -> Record:
        """Seconds: of training with features, of the evidence, of everything with loading and scoring; and of a sweep.

        `sweep` is an estimate: every depth with every seed at its own length, with frozen layers running every time.
        """
        results = [one.result for one in self.trained.values()]
        evidence = self.record["layer_probes"]["seconds"]
        return {
            "training": round(sum(result.seconds for result in results), 3),
            "layer_probes": evidence,
            "wall": round(sum(result.wall_seconds for result in results) + evidence, 3),
            "full_sweep": round(len(self.seeds) * sum(self.uncached(frozen) for frozen in self.methods), 1),
        }

    def uncached(self, frozen: int) -> float:
        """The estimated seconds of a depth at its own length without a cache, from the longest it was trained.

        To the seconds of its steps come forward passes of what is frozen, where features stood for it.
        """
        done = [one for one in self.trained.values() if one.frozen == frozen and not one.result.error]
        if not done:
            return 0.0
        longest = max(done, key=lambda one: one.share)
        passes, _ = self.full_length(frozen)
        examples = len(self.experiment.splits.train) + len(self.experiment.splits.validation)
        each = self.record["layer_probes"]["seconds_per_example"] * frozen / self.experiment.blocks
        frozen_part = each * passes * examples if longest.result.features else 0.0
        return longest.result.step_seconds / self.part(longest) + frozen_part

    def part(self, one: Trained) -> float:
        """The share of its own length that a training really had, in whole epochs or steps."""
        epochs, steps = self.full_length(one.frozen)
        had = one.trial.settings
        return had["max_steps"] / steps if "max_steps" in had else had.get("num_train_epochs", epochs) / epochs

    def full_length(self, frozen: int) -> tuple[float, float]:
        """How many epochs and how many steps a depth trains for at its own length."""
        trial = Trial(self.methods[frozen], self.seeds[0])
        args, (stage,) = self.experiment.settings(trial).arguments(), self.experiment.plan(trial).stages
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        steps = math.ceil(len(self.experiment.splits.train) / batch)
        return (
            (stage.epochs, stage.epochs * steps) if stage.max_steps < 0 else (stage.max_steps / steps, stage.max_steps)
        )


def _spoken(length: Record) -> str:
    """A length in words."""
    ((name, value),) = length.items()
    unit = "step" if name == "max_steps" else "epoch"
    return f"{value:g} {unit}" + ("" if value == 1 else "s")


# --- Telling ----------------------------------------------------------------------------------------------------------


def introduction(record: Record) -> list[str]:
    """What is about to be searched."""
    data, model, evidence = record["data"], record["model"], record["layer_probes"]
    sizes = ", ".join(f"{size:,} {name}" for name, size in data["sizes"].items())
    depths = ", ".join(str(one["frozen"]) for one in record["candidates"])
    lines = [
        f"Data     {data['name']}: {sizes}",
        *(f"         {note}" for note in data["notes"]),
        f"Model    {model['name']} ({model['class']}, {model['parameters']:,} parameters)",
        f"Depths   {depths} of {record['blocks']} blocks frozen",
        f"Seeds    {', '.join(map(str, record['seeds']))}",
    ]
    if evidence["missing"]:
        lines.append(f"Evidence none: {evidence['missing']}")
    else:
        probes = " ".join(map(_figure, evidence["scores"]))
        lines.append(
            f"Evidence linear probes at the boundaries from below, one pass over {evidence['examples']:,} examples, "
            f"{evidence['seconds']:.0f} s: {probes}. What is separable there is not what is best to train from."
        )
    return [part for line in lines for part in wrapped(line, " " * 9)] + [""]


def _figure(value: float) -> str:
    """A score in few characters: errors may be in any unit."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def table(record: Record) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each depth, a column for each rung."""
    lengths = {rung["share"]: rung["length"] for rung in record["rungs"] if rung["rows"]}
    cells = {(rung["share"], row["frozen"]): row for rung in record["rungs"] for row in rung["rows"]}
    header = ["frozen", "method", "probe"]
    header += [*(lengths[share] for share in sorted(lengths)), "seconds"]
    rows = []
    for one in record["candidates"]:
        frozen, probe = one["frozen"], record["layer_probes"]["scores"]
        mine = [cells.get((share, frozen)) for share in sorted(lengths)]
        spent = sum(row["seconds"] for row in mine if row)
        chosen = " *" if frozen == record["choice"]["frozen"] else ""
        rows.append(
            [
                f"{frozen}{chosen}",
                one["method"],
                _figure(probe[frozen]) if probe else "",
                *(_with_spread(row) if row else "" for row in mine),
                f"{spent:.1f}",
            ]
        )
    return header, rows


def _with_spread(row: Record) -> str:
    """The mean of a row with half of its interval; of two seeds, whose interval says nothing, with both scores."""
    if len(row["values"]) == 2:
        return f"{_figure(row['mean'])} ({' '.join(_figure(value) for value in sorted(row['values']))})"
    return f"{_figure(row['mean'])} ±{_figure((row['high'] - row['low']) / 2)}"


def sentences(record: Record) -> list[str]:
    """The choice, what is as good for less, and what it cost."""
    choice, cost, blocks = record["choice"], record["cost"], record["blocks"]
    mean, low, high = (_figure(choice[name]) for name in ("mean", "low", "high"))
    score = f"{record['metric_title']} on validation {mean} [{low}, {high}]"
    if len(choice["values"]) == 2:
        score = f"{record['metric_title']} on validation {_with_spread(choice)}"
    told = [f"Chosen: freeze {choice['frozen']} of {blocks} blocks (`{choice['method']}`), {score}."]
    if close := choice["alternative"]:
        how = f"is within its noise (difference {close['low']:+.3f} to {close['high']:+.3f})"
        if close.get("inconclusive"):
            how = "may be as good: two seeds cannot tell. Give more --seeds"
        told.append(f"`{close['method']}` freezes more and {how}.")
    if found := choice.get("contradicting_probe"):
        told.append(
            f"The layer probes contradict this: one on the mean over positions after {found['frozen']} of {blocks} "
            f"blocks scores {_figure(found['score'])}, beyond the interval of what is chosen. A head on frozen layers "
            "may read another state than that mean, and the other depths may have had too few steps to learn it: "
            "search again with more --num_train_epochs."
        )
    told.append(
        f"It cost {cost['training']:.0f} s of training and {cost['layer_probes']:.0f} s for the probes "
        f"({cost['wall']:.0f} s with loading and scoring). Every depth at its own length, with frozen layers running "
        f"in each epoch, would take about {cost['full_sweep']:.0f} s (estimated)."
    )
    return told


def told(record: Record, folder: Path) -> str:
    """What came out, for the terminal."""
    spread = "both seeds" if len(record["choice"]["values"]) == 2 else "half of their 95 % interval"
    note = f"* chosen; scores on validation with {spread}; seconds of training"
    failed = [f"FAILED   {failed}" for failed in record["failed"]]
    live = [line for why in record["uncached"] for line in wrapped(f"Note     {why}", " " * 9)]
    lines = [text_table(*table(record)), *wrapped(note), "", *failed, *live]
    for sentence in sentences(record):
        lines += wrapped(sentence)
    return "\n".join([*lines, f"Table, picture and all runs are in {folder}"])


def command(layers: Sequence[Layer], record: Record) -> str:
    """The command that trains what was chosen, with the settings of the search."""
    given: dict[str, Any] = {}
    for source, layer in layers:
        given |= {name: value for name, value in normalise(layer, source).items() if value is not None}
    given |= {"method": record["choice"]["method"], "output_dir": "OUT"}
    first = [name for name in ("task", "model", "dataset", "method") if name in given]
    words = ["hf-ft train"]
    for name in [*first, *sorted(set(given) - {*first, "output_dir"}), "output_dir"]:
        value = given[name]
        text = json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
        words.append(f"--{name} {shlex.quote(text)}")
    return " \\\n    ".join(words)


def publish(record: Record, folder: Path) -> list[Path]:
    """Write the page and draw the picture, from the record alone; returns the picture's files."""
    with output_folder.staging(folder) as new:
        drawn = draw_depths(record, new / "figures")
        (new / "depth.md").write_text(page(record, drawn), encoding="utf-8")
    return [folder / path.relative_to(new) for path in drawn]


def page(record: Record, drawn: Sequence[Path]) -> str:
    """The page of a search, which shows those of the pictures that are PNG."""
    spread = "the scores of both" if len(record["choice"]["values"]) == 2 else "half of its 95 % interval"
    machine = record["machine"]
    about = f"{split_argument(record['model']['name'])[0]} on {record['data']['name']}"
    parts = [
        f"# {escaped(about)}: how many blocks to freeze",
        bullets(sentences(record)),
        markdown_table(*table(record)),
        f"{record['metric_title'].capitalize()} on validation (n = {record['data']['sizes']['validation']:,}): mean "
        f"over {_counted(len(record['seeds']), 'seed')}, with {spread}. `*` is chosen. "
        "Probe: a linear probe on what stands at that boundary, which is evidence and no answer. Seconds of training.",
        *(f"![how many blocks to freeze](figures/{path.name})" for path in drawn if path.suffix == ".png"),
        *(bullets([note]) for note in (*record.get("notes", ()), *record["uncached"])),
        *(bullets([f"failed: {failed}"]) for failed in record["failed"]),
        f"{machine['device']}, {machine['cores']} cores; hf_ft {record['hf_ft']}; {record['date']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def redraw_depth(folder: Path) -> list[Path]:
    """Write the page and draw the picture of a finished search again, byte for byte the same.

    Raises:
        UserError: there is none.
    """
    record = read_record(folder / FILE, SEARCH, "finished search")
    with output_folder.locked_if_ours(folder, "search"), drawing(folder / FILE):
        return publish(record, folder)


# --- Method `auto` ----------------------------------------------------------------------------------------------------

NOT_SEARCHED = {"method", "output_dir", "overwrite_output_dir", "resume_from_checkpoint"}
"""Settings of a run that its search has not, or has another value for."""


def resolve(settings: Settings) -> tuple[Settings, Record]:
    """Search the freeze depth for a run with method `auto`, with its seed; returns settings and how they were found.

    The search stays in the folder `depth` of the result, where a resumed run finds it.
    """
    out = Path(settings.training["output_dir"]).expanduser()
    values = {**vars(settings.config), **settings.training}
    given = {name: values[name] for name in settings.config.explicit - NOT_SEARCHED}
    folder = out / "depth"
    anew = settings.config.overwrite_output_dir and not settings.training.get("resume_from_checkpoint")
    layer = {**given, "output_dir": str(folder), "overwrite_output_dir": anew, "seeds": [values["seed"]]}
    record = search(read_depth_settings([("the settings of method auto", layer)]))
    chosen = record["choice"]
    how = {name: chosen[name] for name in ("frozen", "mean", "low", "high", "alternative")}
    found = build(("the run", {**given, "method": chosen["method"]}), sections=SECTIONS_OF_TRIALS)
    kept = {name: settings.training[name] for name in NOT_SEARCHED if name in settings.training}
    own = settings.config  # a resumed run compares what the user asked for, not what was chosen
    config = replace(
        found.config,
        explicit=found.config.explicit | (own.explicit & NOT_SEARCHED),
        overwrite_output_dir=own.overwrite_output_dir,
        must_match=own.must_match,
    )
    return Settings(config, found.training | kept), {
        "by": "hf-ft depth",
        "blocks": record["blocks"],
        **how,
        "cost": record["cost"],
    }
