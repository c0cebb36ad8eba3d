"""Comparison of methods on one model and data set: which is best, by how much, and what it costs. `hf-ft compare`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_ft import __version__
from hf_ft.environment import silence_libraries
from hf_ft.errors import UserError, shorten, split_argument
from hf_ft.experiments.comparison_settings import DEPTHS, ComparisonSettings, read_comparison_settings
from hf_ft.experiments.depth_settings import freeze_depths
from hf_ft.experiments.trials import Experiment, Trial, TrialResult
from hf_ft.metrics import SeedScores, difference, mean_interval
from hf_ft.reports import bullets, escaped, figures, markdown_table, text_table, title, wrapped
from hf_ft.storage import COMPARISON, drawing, output_folder, read_record

Record = dict[str, Any]

DEFAULT_METHODS = ("scratch", "head", "last_n", "lora", "lp_ft", "full")
LOWER = " (lower is better)"
ENOUGH = 5
"""Seeds to which a comparison that leaves much in the noise is advised; with three, t makes its intervals wide."""
IDENTITY = ("task", "model", "data", "settings", "metric")
"""What has to be equal for trials of an earlier run to count."""


def compare(**settings: Any) -> Record:
    """Train several methods on one model and data set over seeds and sizes; returns what `compare.json` says.

    Takes `methods` (names, or text with commas), `seeds` (how many, or a list), `examples_per_class` (sizes of the
    training set) and every setting of `finetune` but `method`. Trials that an earlier call with the same `output_dir`
    finished are not run again, and stay in the comparison; `overwrite_output_dir` begins anew.

    Raises:
        UserError: a mistake in the settings or the data, or an `output_dir` with a comparison of something else.
    """
    return run_comparison(read_comparison_settings([("the call of compare()", settings)]))


@silence_libraries()
def run_comparison(grid: ComparisonSettings) -> Record:
    """Compare what a grid asks for; prints what is done.

    Raises:
        UserError: what is asked for does not go, or another process writes into the output folder.
    """
    with output_folder.locked(grid.folder, "comparison"):
        return _compare(grid)


def _compare(grid: ComparisonSettings) -> Record:
    experiment = Experiment(grid.layers, grid.folder, methods=grid.methods)
    folder, seeds, notes = grid.folder, grid.seeds, list[str]()
    methods = spelled_out(grid.methods, experiment.blocks) or fitting(experiment, seeds[0], notes)
    trials = [Trial(method, seed, size) for size in grid.sizes for method in methods for seed in seeds]
    experiment.check(trials)
    if experiment.split == "validation":
        notes.append(
            "There is no test split. Scores are those of validation, by which each training chose its best epoch, too."
        )
    record: Record = {"hf_ft": __version__, "kind": "comparison", **experiment.about, "notes": notes}
    if grid.anew:
        output_folder.remove(folder)
    before = check_same(folder / "compare.json", record, "comparison")
    trials = joined(trials, before, folder)
    print("\n".join(introduction(record, trials, experiment)), flush=True)
    results = run_trials(
        experiment, trials, lambda found: write(folder, {**record, "runs": [asdict(one) for one in found]})
    )
    record |= summarised(experiment, trials, results)
    write(folder, record)
    publish(record, folder)
    print("\n" + told(record, folder))
    return record


# --- Beginning --------------------------------------------------------------------------------------------------------


def spelled_out(methods: Sequence[str], blocks: int) -> list[str]:
    """Methods with `depths` replaced by those of all depths."""
    lists = (reversed(freeze_depths(None, blocks).values()) if name == DEPTHS else [name] for name in methods)
    return list(dict.fromkeys(method for names in lists for method in names))


def fitting(experiment: Experiment, seed: int, notes: list[str]) -> list[str]:
    """The default methods that the model can take; `last_n` with a third of its blocks."""
    found = []
    for name in DEFAULT_METHODS:
        method = f"{name}:{max(1, round(experiment.blocks / 3))}" if name == "last_n" else name
        try:
            experiment.check([Trial(method, seed)])
        except UserError as reason:
            notes.append(f"{method} is left out: {reason}")
        else:
            found.append(method)
    return found


def joined(trials: Sequence[Trial], before: Record, folder: Path) -> list[Trial]:
    """The trials that are asked for and those of earlier calls, what failed in them too, the smallest size first.

    Raises:
        UserError: a single method at one size, and nothing to compare it with.
    """
    earlier = (Trial(run["method"], run["seed"], run["size"]) for run in before.get("runs", ()))
    every = list(dict.fromkeys([*earlier, *trials]))
    if len({(trial.method, trial.size) for trial in every}) < 2:
        raise UserError(
            f"One method ({every[0].method}) at one size is nothing to compare, and {folder} holds no other. Give at "
            "least two: --methods head,full."
        )
    return sorted(every, key=lambda trial: float("inf") if trial.size is None else trial.size)


def check_same(path: Path, record: Mapping[str, Any], kind: str) -> Record:
    """Refuse to go on with results of other data or settings; returns what an earlier call wrote, if any did.

    Raises:
        UserError: says what differs.
    """
    if not path.exists():
        return {}
    try:
        there: Record = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(
            f"{path} cannot be read, so what is in its folder is not known. Choose another folder."
        ) from None
    differing = []
    for part in IDENTITY:
        mine, other = json.loads(json.dumps(record[part], default=str)), there.get(part)
        if part == "settings":
            names = sorted({*mine, *(other or {})})
            differing += [
                f"{name} was {(other or {}).get(name, 'not given')} and is {mine.get(name, 'not given')}"
                for name in names
                if (other or {}).get(name) != mine.get(name)
            ]
        elif part in ("model", "data"):
            digest = {"model": "digest", "data": "fingerprint"}[part]
            if (other or {}).get(digest) != mine[digest]:
                differing.append(f"the {part} was {(other or {}).get('name')} and is {mine['name']} (other content)")
        elif other != mine:
            differing.append(f"the {part} was {other} and is {mine}")
    if differing:
        raise UserError(
            f"{path.parent} holds a {kind} of something else: {shorten(differing, 6)}. Nothing was started. Choose "
            "another --output_dir, repeat the earlier settings, or replace it with --overwrite_output_dir."
        )
    return there


# --- Running ----------------------------------------------------------------------------------------------------------


def introduction(record: Record, trials: Sequence[Trial], experiment: Experiment) -> list[str]:
    """What is about to be compared."""
    data, model = record["data"], record["model"]
    sizes = ", ".join(f"{size:,} {name}" for name, size in data["sizes"].items())
    done = sum(experiment.result(trial) is not None for trial in trials)
    methods, seeds = dict.fromkeys(trial.method for trial in trials), dict.fromkeys(str(trial.seed) for trial in trials)
    given = [str(trial.size) for trial in trials if trial.size is not None]
    lines = [
        f"Data     {data['name']}: {sizes}",
        *(f"         {note}" for note in data["notes"]),
        f"Model    {model['name']} ({model['class']}, {model['parameters']:,} parameters, {experiment.blocks} blocks)",
        f"Methods  {', '.join(methods)}",
        f"Seeds    {', '.join(seeds)}"
        + (f"; examples of each class: {', '.join(dict.fromkeys(given))}" if given else ""),
        *(f"Note     {note}" for note in record["notes"]),
        f"{len(trials)} trainings" + (f", {done} of them done before" if done else ""),
    ]
    return [*lines, ""]


def run_trials(
    experiment: Experiment, trials: Sequence[Trial], keep: Callable[[list[TrialResult]], None]
) -> list[TrialResult]:
    """Run the trials that are missing, with a line for each; `keep` is called at first, and after each that was run."""
    found = {trial: known for trial in trials if (known := experiment.result(trial))}
    width = max(len(trial.method) for trial in trials)
    with tqdm(total=len(trials), desc="Trials", unit="trial", leave=False, disable=None) as bar:
        for number, trial in enumerate(trials, start=1):
            if trial not in found:
                keep([found[one] for one in trials if one in found])
                found[trial] = experiment.run(
                    trial, others=sum(later.method == trial.method for later in trials[number:])
                )
                line = _line(trial, found[trial], experiment.split, experiment.metric)
                tqdm.write(f"{number:3}/{len(trials)}  {trial.method:{width}}  {line}")
            bar.update()
    return [found[trial] for trial in trials]


def _line(trial: Trial, result: TrialResult, split: str, metric: str) -> str:
    what = f"seed {trial.seed}" + (f", {trial.size} of each class" if trial.size is not None else "")
    if result.error:
        return f"{what}  failed: {result.error[:200]}"
    return f"{what}  {title(metric)} {result.score(split, metric):.4f}  {result.seconds:.1f} s"


def write(folder: Path, record: Mapping[str, Any], name: str = "compare.json") -> None:
    """Write `compare.json`, or a file of another name, whole or not at all."""
    output_folder.write(folder, name, json.dumps(record, indent=1) + "\n")


# --- Summary ----------------------------------------------------------------------------------------------------------


def summarised(experiment: Experiment, trials: Sequence[Trial], results: Sequence[TrialResult]) -> Record:
    """Runs, a row for each method and size, the differences to the best of each size, and the advice.

    Raises:
        UserError: all trials failed.
    """
    pairs = list(zip(trials, results, strict=True))
    good = [(trial, result) for trial, result in pairs if not result.error]
    if not good:
        raise UserError(f"All {len(trials)} trainings failed, the first with: {results[0].error}")
    rows = []
    for size in dict.fromkeys(trial.size for trial, _ in good):
        broken = {trial.method for trial, result in pairs if result.error and trial.size == size}
        rows += _ranked(experiment, [pair for pair in good if pair[0].size == size], broken)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "runs": [{**asdict(result), "standalone_seconds": result.standalone_seconds} for result in results],
        "rows": rows,
        "failed": [f"{trial.name}: {result.error}" for trial, result in pairs if result.error],
        "uncached": uncached_methods([result for _, result in good]),
        "advice": [advice([row for row in rows if row["size"] == size]) for size in _sizes({"rows": rows})],
        "seconds": {
            "training": round(sum(result.seconds for _, result in good), 3),
            "standalone": round(sum(result.standalone_seconds for _, result in good), 3),
            "wall": round(sum(result.wall_seconds for _, result in good), 3),
        },
    }


def uncached_methods(results: Sequence[TrialResult]) -> list[str]:
    """Which methods ran what they freeze in every epoch, and why; adapters leave no frozen part to keep."""
    found: dict[str, list[str]] = {}
    for result in results:
        for reason in result.uncached if result.frozen is not None else ():
            found.setdefault(reason, []).append(result.method)
    return [
        f"{', '.join(dict.fromkeys(names))} ran frozen layers in every epoch: {why}" for why, names in found.items()
    ]


def _ranked(experiment: Experiment, pairs: Sequence[tuple[Trial, TrialResult]], broken: set[str]) -> list[Record]:
    """A row for each method at one size: scores over seeds, and the difference to the best method.

    Methods of which a training failed (`broken`) are not called the best: the seeds that are left may be lucky ones.
    """
    methods = list(dict.fromkeys(trial.method for trial, _ in pairs))
    scores = {
        method: {
            trial.seed: result.score(experiment.split, experiment.metric)
            for trial, result in pairs
            if trial.method == method
        }
        for method in methods
    }

    def of_seeds(method: str, seeds: Iterable[int]) -> SeedScores:
        mine = {trial.seed: (trial, result) for trial, result in pairs if trial.method == method}
        return seed_scores(experiment, [mine[seed] for seed in seeds])

    best = best_of(
        {name: of for name, of in scores.items() if name not in broken} or scores, experiment.higher_is_better
    )
    rows = []
    for method in methods:
        mine = [result for trial, result in pairs if trial.method == method]
        both = [seed for seed in scores[method] if seed in scores[best]]
        gap = difference(of_seeds(method, both), of_seeds(best, both)) if method != best and both else None
        values = list(scores[method].values())
        rows.append(
            {
                "method": method,
                "size": mine[0].size,
                "examples": mine[0].examples,
                "seeds": list(scores[method]),
                "values": values,
                **_named(mean_interval(of_seeds(method, scores[method])), "mean"),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "seconds": float(np.mean([result.standalone_seconds for result in mine])),
                "seconds_per_trial": [result.standalone_seconds for result in mine],
                "blocks": mine[0].blocks,
                "frozen": mine[0].frozen,
                "trainable": mine[0].trainable,
                "incomplete": method in broken,
                "best": method == best,
                "difference": None if gap is None else _named(gap, "value"),
                "indistinguishable": method == best or (gap is not None and gap.noise),
                "inconclusive": gap is not None and gap.undecided,
            }
        )
    return rows


def seed_scores(experiment: Experiment, pairs: Sequence[tuple[Trial, TrialResult]]) -> SeedScores:
    """Scores of the trials of one method, one for each seed."""
    found = [result.metrics[experiment.split][experiment.metric] for _, result in pairs]
    ends = [(score["low"], score["high"]) for score in found]
    return SeedScores([score["value"] for score in found], [experiment.draws(trial) for trial, _ in pairs], ends)


def best_of(scores: Mapping[str, Mapping[int, float]], higher_is_better: bool) -> str:
    """The method that is level with or ahead of most others, each pair by the seeds that both have; then the best mean.

    `scores` are by method and seed. Two without a seed in common are compared by what they have.
    """
    sign = 1 if higher_is_better else -1

    def mean(method: str, other: str) -> float:
        both = scores[method].keys() & scores[other].keys() or scores[method].keys()
        return sign * float(np.mean([scores[method][seed] for seed in both]))

    wins = {one: sum(mean(one, other) >= mean(other, one) for other in scores) for one in scores}
    return max(scores, key=lambda method: (wins[method], mean(method, method)))


def _named(found: Any, value: str) -> dict[str, float]:
    return {value: found.value, "low": found.low, "high": found.high}


def advice(rows: Sequence[Record]) -> str:
    """One plain sentence: the quickest method that cannot be told from the best, and what it saves."""
    whole = [row for row in rows if not row["incomplete"]] or list(rows)
    known = [row for row in whole if row["best"] or row["difference"]]
    told = _advised(known)
    for rest, why in (
        ([row for row in rows if row not in whole], "a training failed"),
        (
            [row for row in whole if row not in known],
            f"no seed is shared with {_listed([row for row in known if row['best']])}",
        ),
    ):
        told += f" Left out, since {why}: {_listed(rest)}." if rest else ""
    return told


def _listed(rows: Sequence[Record]) -> str:
    return ", ".join(f"`{row['method']}`" for row in rows)


def _advised(rows: Sequence[Record]) -> str:
    best = next(row for row in rows if row["best"])
    among = "" if best["size"] is None else f"With {best['size']} examples of each class, "
    undecided = [row for row in rows if row.get("inconclusive")]
    if undecided:
        rest = [row for row in rows if row not in undecided]
        told = _advised(rest) if len(rest) > 1 else f"{among}`{best['method']}` has the best mean ({best['mean']:.3f})."
        return f"{told} Two seeds cannot tell whether it is better than {_listed(undecided)}: give more --seeds."
    quickest = min((row for row in rows if row["indistinguishable"]), key=lambda row: row["seconds"])
    score = f"{best['mean']:.3f}"
    if len(rows) == 1:
        return f"{among}{'there' if among else 'There'} is only `{best['method']}` ({score})."
    if quickest is best:
        close = [row for row in rows if row["indistinguishable"] and row is not best]
        told = f"`{best['method']}` is best ({score})"
        if not close:
            return f"{among}{told}, above all others by more than the noise."
        return f"{among}{told}, and quicker than what is within its noise: {_listed(close)}."
    gap = quickest["difference"]
    return (
        f"{among}`{quickest['method']}` is within the noise of `{best['method']}` ({quickest['mean']:.3f} against "
        f"{score}; difference {gap['low']:+.3f} to {gap['high']:+.3f}) at {_share(quickest, best)} of its time"
        f"{_nearer(rows, quickest, best)}."
    )


def _nearer(rows: Sequence[Record], quickest: Record, best: Record) -> str:
    """What lies between the two in time and nearer to the best in score: a few seeds hide much in their noise."""
    between = [
        row
        for row in rows
        if row["indistinguishable"]
        and quickest["seconds"] < row["seconds"] < best["seconds"]
        and abs(row["mean"] - best["mean"]) < abs(quickest["mean"] - best["mean"])
    ]
    if not between:
        return ""
    found = min(between, key=lambda row: abs(row["mean"] - best["mean"]))
    return f"; `{found['method']}` comes nearer ({found['mean']:.3f}) at {_share(found, best)}"


def _share(row: Record, best: Record) -> str:
    return _part(best["seconds"] / max(row["seconds"], 1e-9))


def _part(times: float) -> str:
    return f"1/{times:.0f}" if times >= 2.5 else f"{1 / times:.0%}"


# --- Telling ----------------------------------------------------------------------------------------------------------


def publish(record: Record, folder: Path) -> list[Path]:
    """Write the Markdown table and draw the pictures, from the record alone; returns the pictures."""
    with output_folder.staging(folder) as new:
        drawn = figures.draw_comparison(record, new / "figures")
        (new / "compare.md").write_text(markdown(record, [path for path in drawn if path.suffix == ".png"]), "utf-8")
    return [folder / path.relative_to(new) for path in drawn]


def redraw_comparison(folder: Path) -> list[Path]:
    """Draw the pictures of a finished comparison again from its `compare.json`, byte for byte the same.

    Raises:
        UserError: there is none.
    """
    record = read_record(folder / "compare.json", COMPARISON, "finished comparison")
    with output_folder.locked_if_ours(folder, "comparison"), drawing(folder / "compare.json"):
        return publish(record, folder)


def table(record: Record, size: int | None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one size, the best first."""
    rows = [row for row in record["rows"] if row["size"] == size]
    sign = 1 if record["higher_is_better"] else -1
    metric = title(record["metric"]).removesuffix(LOWER)
    header = ["method", "frozen", metric, "seeds from, to", "against the best", "seconds"]
    most = max(len(row["seeds"]) for row in rows)
    lines = []
    for row in sorted(rows, key=lambda row: -sign * row["mean"]):
        frozen = "adapters" if row["frozen"] is None else f"{row['frozen']} of {row['blocks']}"
        gap = row["difference"]
        against = "best" if row["best"] else "no seed shared" if gap is None else _ends(gap)
        noise = " (noise)" if row["indistinguishable"] and not row["best"] else ""
        if row.get("inconclusive"):
            against, noise = "2 seeds cannot tell", ""
        missing = f" ({len(row['seeds'])} of {most} seeds)" if len(row["seeds"]) < most else ""
        lines.append(
            [
                row["method"] + missing,
                frozen,
                f"{row['mean']:.4f}",
                f"{min(row['values']):.3f}, {max(row['values']):.3f}",
                against + noise,
                f"{row['seconds']:.1f}",
            ]
        )
    return header, lines


def _ends(gap: Record) -> str:
    return f"{gap['low']:+.3f} to {gap['high']:+.3f}"


def _sizes(record: Record) -> list[int | None]:
    return list(dict.fromkeys(row["size"] for row in record["rows"]))


def told(record: Record, folder: Path) -> str:
    """What came out, for the terminal."""
    lines = []
    for size in _sizes(record):
        lines += [heading(record, size), text_table(*table(record, size)), ""]
    sentences = [f"FAILED   {failed}" for failed in record["failed"]]
    sentences += [f"Note     {note}" for note in record["uncached"]]
    most = max((row["seeds"] for row in record["rows"]), key=len)
    counted = most == list(range(len(most)))  # else a number would mean other seeds
    if counted and len(most) < ENOUGH and any(row["indistinguishable"] and not row["best"] for row in record["rows"]):
        sentences.append(f"Note     More seeds tell more apart: --seeds {ENOUGH} runs only those that are missing.")
    lines += [part for sentence in sentences for part in wrapped(sentence, " " * 9)]
    spent = record["seconds"]
    last = (
        f"Seconds are those of training a method alone: {spent['standalone']:.0f} in all, of which sharing frozen "
        f"layers left {spent['training']:.0f}."
    )
    lines += [part for sentence in (*record["advice"], last) for part in wrapped(sentence)]
    return "\n".join([*lines, f"Table, pictures and all runs are in {folder}"])


def heading(record: Record, size: int | None) -> str:
    """What a table is about."""
    row = max((row for row in record["rows"] if row["size"] == size), key=lambda row: len(row["seeds"]))
    what = "All" if size is None else f"{size} of each class:"
    n = record["data"]["sizes"][record["split"]]
    seeds = len(row["seeds"])
    trained = f"{row['examples']:,} training examples, {seeds} seed{'s' * (seeds > 1)}"
    return f"{what} {trained}, {record['split']} n={n:,}{'' if record['higher_is_better'] else LOWER}"


def markdown(record: Record, pictures: Sequence[Path]) -> str:
    """The page of a comparison."""
    about = f"{split_argument(record['model']['name'])[0]} on {record['data']['name']}: methods compared"
    parts = [f"# {escaped(about)}", *(bullets([sentence]) for sentence in record["advice"])]
    for size in _sizes(record):
        parts += [f"## {escaped(heading(record, size))}", markdown_table(*table(record, size))]
    parts.append(_reading(record))
    parts += [bullets([note]) for note in (*record["notes"], *record["uncached"])]
    parts += [f"![{path.stem.replace('_', ' ')}](figures/{path.name})" for path in pictures]
    if record["failed"]:
        parts += ["Failed:", *(bullets([failed]) for failed in record["failed"])]
    machine = record["machine"]
    parts.append(f"{machine['device']}, {machine['cores']} cores; hf_ft {record['hf_ft']}; {record['date']}.")
    return "\n\n".join(parts) + "\n"


def _reading(record: Record) -> str:
    """How the table of a comparison is to be read."""
    several = max(len(row["seeds"]) for row in record["rows"]) > 1
    undecided = any(row.get("inconclusive") for row in record["rows"])
    over = "test examples and seeds" if several else "test examples; one seed says nothing of how far seeds differ"
    return (
        f"{title(record['metric']).capitalize()} on {record['split']}: mean over seeds, then the lowest and highest "
        f"seed. Against the best: 95 % interval of the difference, paired over {over}; `noise` where it holds zero. "
        + ("Of two seeds that do not agree it says nothing, and is not shown. " if undecided else "")
        + "That the best is chosen among several by these scores is not corrected for. Seconds of training as if each "
        "method were run alone."
    )
