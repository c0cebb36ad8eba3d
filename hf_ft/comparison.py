"""Comparison of methods on one model and data set: which is best, by how much, and what it costs. `hf-ft compare`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_ft import __version__, figures
from hf_ft.arms import Arm, Bench, Outcome, alone
from hf_ft.depths import candidates
from hf_ft.grid import DEPTHS, Grid, read_grid
from hf_ft.lookup import UserError, shorten, split_argument
from hf_ft.paired import difference, mean_interval
from hf_ft.report import markdown_table, text_table, title

Record = dict[str, Any]

DEFAULT_METHODS = ("scratch", "head", "last_n", "lora", "lp_ft", "full")
IDENTITY = ("task", "model", "data", "settings", "metric")
"""What has to be equal for arms of an earlier run to count."""


def compare(**settings: Any) -> Record:
    """Train several methods on one model and data set over seeds and sizes; returns what `compare.json` says.

    Takes `methods` (names, or text with commas), `seeds` (how many, or a list), `examples_per_class` (sizes of the
    training set) and every setting of `finetune` but `method`. Arms that an earlier call with the same `output_dir`
    finished are not run again.

    Raises:
        UserError: a mistake in the settings or the data, or an `output_dir` with a comparison of something else.
    """
    return run_comparison(read_grid([("the call of compare()", settings)]))


def run_comparison(grid: Grid) -> Record:
    """Compare what a grid asks for; prints what is done."""
    bench = Bench(grid.layers, grid.folder)
    folder, seeds, notes = grid.folder, grid.seeds, list[str]()
    methods = spelled_out(grid.methods, bench.blocks) or fitting(bench, seeds[0], notes)
    arms = [Arm(method, seed, size) for size in grid.sizes for method in methods for seed in seeds]
    bench.check(arms)
    record: Record = {"hf_ft": __version__, "kind": "comparison", **bench.about, "notes": notes}
    check_same(folder / "compare.json", record, "comparison")
    print("\n".join(introduction(record, arms, bench)), flush=True)
    outcomes = run_arms(bench, arms, lambda found: write(folder, {**record, "runs": [asdict(one) for one in found]}))
    record |= summarised(bench, arms, outcomes)
    write(folder, record)
    publish(record, folder)
    print("\n" + told(record, folder))
    return record


# --- Beginning --------------------------------------------------------------------------------------------------------


def spelled_out(methods: Sequence[str], blocks: int) -> list[str]:
    """Methods with `depths` replaced by those of all depths."""
    lists = (reversed(candidates(None, blocks).values()) if name == DEPTHS else [name] for name in methods)
    return list(dict.fromkeys(method for names in lists for method in names))


def fitting(bench: Bench, seed: int, notes: list[str]) -> list[str]:
    """The default methods that the model can take; `last_n` with a third of its blocks."""
    found = []
    for name in DEFAULT_METHODS:
        method = f"{name}:{max(1, round(bench.blocks / 3))}" if name == "last_n" else name
        try:
            bench.check([Arm(method, seed)])
        except UserError as reason:
            notes.append(f"{method} is left out: {reason}")
        else:
            found.append(method)
    return found


def check_same(path: Path, record: Mapping[str, Any], kind: str) -> None:
    """Refuse to go on with results of other data or settings.

    Raises:
        UserError: says what differs.
    """
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
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
            "another --output_dir, or repeat the earlier settings."
        )


# --- Running ----------------------------------------------------------------------------------------------------------


def introduction(record: Record, arms: Sequence[Arm], bench: Bench) -> list[str]:
    """What is about to be compared."""
    data, model = record["data"], record["model"]
    sizes = ", ".join(f"{size:,} {name}" for name, size in data["sizes"].items())
    done = sum(bench.outcome(arm) is not None for arm in arms)
    methods, seeds = dict.fromkeys(arm.method for arm in arms), dict.fromkeys(str(arm.seed) for arm in arms)
    given = [str(arm.size) for arm in arms if arm.size is not None]
    lines = [
        f"Data     {data['name']}: {sizes}",
        *(f"         {note}" for note in data["notes"]),
        f"Model    {model['name']} ({model['class']}, {model['parameters']:,} parameters, {bench.blocks} blocks)",
        f"Methods  {', '.join(methods)}",
        f"Seeds    {', '.join(seeds)}"
        + (f"; examples of each class: {', '.join(dict.fromkeys(given))}" if given else ""),
        *(f"Note     {note}" for note in record["notes"]),
        f"{len(arms)} trainings" + (f", {done} of them done before" if done else ""),
    ]
    return [*lines, ""]


def run_arms(bench: Bench, arms: Sequence[Arm], keep: Callable[[list[Outcome]], None]) -> list[Outcome]:
    """Run arms one after another with a line for each; `keep` is called after each that was run."""
    outcomes: list[Outcome] = []
    width = max(len(arm.method) for arm in arms)
    keep([])
    with tqdm(total=len(arms), desc="Arms", unit="arm", leave=False, disable=None) as bar:
        for number, arm in enumerate(arms, start=1):
            known = bench.outcome(arm)
            outcome = known or bench.run(arm, others=sum(later.method == arm.method for later in arms[number:]))
            outcomes.append(outcome)
            bar.update()
            if known is None:
                tqdm.write(
                    f"{number:3}/{len(arms)}  {arm.method:{width}}  {_line(arm, outcome, bench.split, bench.metric)}"
                )
                keep(outcomes)
    return outcomes


def _line(arm: Arm, outcome: Outcome, split: str, metric: str) -> str:
    what = f"seed {arm.seed}" + (f", {arm.size} of each class" if arm.size is not None else "")
    if outcome.error:
        return f"{what}  failed: {outcome.error[:200]}"
    return f"{what}  {title(metric)} {outcome.score(split, metric):.4f}  {outcome.seconds:.1f} s"


def write(folder: Path, record: Mapping[str, Any], name: str = "compare.json") -> None:
    """Write `compare.json`, or a file of another name, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / f".{name}.part"
    begun.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    begun.replace(folder / name)


# --- Summary ----------------------------------------------------------------------------------------------------------


def summarised(bench: Bench, arms: Sequence[Arm], outcomes: Sequence[Outcome]) -> Record:
    """Runs, a row for each method and size, the differences to the best of each size, and the advice.

    Raises:
        UserError: all arms failed.
    """
    good = [(arm, outcome) for arm, outcome in zip(arms, outcomes, strict=True) if not outcome.error]
    if not good:
        raise UserError(f"All {len(arms)} trainings failed, the first with: {outcomes[0].error}")
    seconds = alone([outcome for _, outcome in good])
    costs = {arm.name: cost for (arm, _), cost in zip(good, seconds, strict=True)}
    rows = []
    for size in dict.fromkeys(arm.size for arm in arms):
        pairs = [pair for pair in good if pair[0].size == size]
        rows += _ranked(bench, pairs, costs) if pairs else []
    failed = [f"{arm.name}: {outcome.error}" for arm, outcome in zip(arms, outcomes, strict=True) if outcome.error]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "runs": [
            {**asdict(outcome), "alone": costs.get(arm.name)} for arm, outcome in zip(arms, outcomes, strict=True)
        ],
        "rows": rows,
        "failed": failed,
        "advice": [advice([row for row in rows if row["size"] == size]) for size in _sizes({"rows": rows})],
        "seconds": {
            "trained": round(sum(outcome.seconds for _, outcome in good), 3),
            "alone": round(sum(seconds), 3),
            "wall": round(sum(outcome.wall for _, outcome in good), 3),
        },
    }


def _ranked(bench: Bench, pairs: Sequence[tuple[Arm, Outcome]], costs: Mapping[str, float]) -> list[Record]:
    """A row for each method at one size: scores over seeds, and the difference to the best method."""
    sign = 1 if bench.higher_is_better else -1
    methods = list(dict.fromkeys(arm.method for arm, _ in pairs))
    scores = {
        method: {arm.seed: outcome.score(bench.split, bench.metric) for arm, outcome in pairs if arm.method == method}
        for method in methods
    }
    draws = {method: {arm.seed: bench.draws(arm) for arm, _ in pairs if arm.method == method} for method in methods}
    best = max(methods, key=lambda method: sign * float(np.mean(list(scores[method].values()))))
    rows = []
    for method in methods:
        mine = [(arm, outcome) for arm, outcome in pairs if arm.method == method]
        values = list(scores[method].values())
        both = [seed for seed in scores[method] if seed in scores[best]]  # a seed may have failed in one of them
        gap = None
        if method != best and both:
            one, other = (
                ([scores[which][seed] for seed in both], [draws[which][seed] for seed in both])
                for which in (method, best)
            )
            gap = difference(*one, *other)
        first = mine[0][1]
        rows.append(
            {
                "method": method,
                "size": first.size,
                "examples": first.examples,
                "seeds": list(scores[method]),
                "values": values,
                **_named(mean_interval(values, list(draws[method].values())), "mean"),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "seconds": float(np.mean([costs[arm.name] for arm, _ in mine])),
                "seconds_of": [costs[arm.name] for arm, _ in mine],
                "blocks": first.blocks,
                "frozen": first.frozen,
                "trainable": first.trainable,
                "best": method == best,
                "behind": None if gap is None else _named(gap, "value"),
                "noise": method == best or gap is None or gap.noise,
            }
        )
    return rows


def _named(found: Any, value: str) -> dict[str, float]:
    return {value: found.value, "low": found.low, "high": found.high}


def advice(rows: Sequence[Record]) -> str:
    """One plain sentence: the quickest method that cannot be told from the best, and what it saves."""
    best = next(row for row in rows if row["best"])
    among = "" if best["size"] is None else f"With {best['size']} examples of each class, "
    quickest = min((row for row in rows if row["noise"]), key=lambda row: row["seconds"])
    score = f"{best['mean']:.3f}"
    if len(rows) == 1:
        return f"{among}`{best['method']}` is the only one that finished ({score})."
    if quickest is best:
        close = [row["method"] for row in rows if row["noise"] and row is not best]
        told = f"`{best['method']}` is best ({score})"
        if not close:
            return f"{among}{told}, above all others by more than the noise."
        return f"{among}{told}, and quicker than what is within its noise: {', '.join(f'`{name}`' for name in close)}."
    gap = quickest["behind"]
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
        if row["noise"]
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
    return f"1/{times:.0f}" if times >= 1.5 else f"{1 / times:.0%}"


# --- Telling ----------------------------------------------------------------------------------------------------------


def publish(record: Record, folder: Path) -> list[Path]:
    """Write the Markdown table and draw the pictures, from the record alone; returns the pictures."""
    drawn = figures.draw_comparison(record, folder / "figures")
    (folder / "compare.md").write_text(markdown(record, [path for path in drawn if path.suffix == ".png"]), "utf-8")
    return drawn


def redraw(folder: Path) -> list[Path]:
    """Draw the pictures of a finished comparison again from its `compare.json`, byte for byte the same.

    Raises:
        UserError: there is none.
    """
    path = folder / "compare.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "rows" not in record:
        what = "a comparison that has not finished" if record else "no comparison (no compare.json in it)"
        raise UserError(f"{folder} holds {what}. Give the --output_dir of a finished hf-ft compare.")
    return publish(record, folder)


def table(record: Record, size: int | None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one size, the best first."""
    rows = [row for row in record["rows"] if row["size"] == size]
    sign = 1 if record["higher_is_better"] else -1
    header = ["method", "frozen", title(record["metric"]), "seeds from, to", "against the best", "seconds"]
    lines = []
    for row in sorted(rows, key=lambda row: -sign * row["mean"]):
        frozen = "adapters" if row["frozen"] is None else f"{row['frozen']} of {row['blocks']}"
        gap = row["behind"]
        against = "best" if row["best"] else "" if gap is None else f"{gap['low']:+.3f} to {gap['high']:+.3f}"
        lines.append(
            [
                row["method"],
                frozen,
                f"{row['mean']:.4f}",
                f"{min(row['values']):.3f}, {max(row['values']):.3f}",
                against + (" (noise)" if row["noise"] and not row["best"] else ""),
                f"{row['seconds']:.1f}",
            ]
        )
    return header, lines


def _sizes(record: Record) -> list[int | None]:
    return list(dict.fromkeys(row["size"] for row in record["rows"]))


def told(record: Record, folder: Path) -> str:
    """What came out, for the terminal."""
    lines = []
    for size in _sizes(record):
        lines += [heading(record, size), text_table(*table(record, size)), ""]
    lines += [f"FAILED   {failed}" for failed in record["failed"]]
    lines += record["advice"]
    spent = record["seconds"]
    lines.append(
        f"Seconds are those of training a method alone: {spent['alone']:.0f} in all, of which sharing what is frozen "
        f"left {spent['trained']:.0f}."
    )
    lines.append(f"Table, pictures and all runs are in {folder}")
    return "\n".join(lines)


def heading(record: Record, size: int | None) -> str:
    """What a table is about."""
    row = next(row for row in record["rows"] if row["size"] == size)
    what = "All" if size is None else f"{size} of each class:"
    n = record["data"]["sizes"][record["split"]]
    seeds = len(row["seeds"])
    trained = f"{row['examples']:,} training examples, {seeds} seed{'s' * (seeds > 1)}"
    return f"{what} {trained}, {record['split']} n={n:,}"


def markdown(record: Record, pictures: Sequence[Path]) -> str:
    """The page of a comparison."""
    parts = [f"# {split_argument(record['model']['name'])[0]} on {record['data']['name']}: methods compared"]
    parts += [f"- {sentence}" for sentence in record["advice"]]
    for size in _sizes(record):
        parts += [f"## {heading(record, size)}", markdown_table(*table(record, size))]
    parts.append(
        f"{title(record['metric']).capitalize()} on {record['split']}: mean over seeds, then the lowest and highest "
        "seed. Against the best: 95 % interval of the difference, paired over test examples and seeds; `noise` where "
        "it holds zero. Seconds of training as if each method were run alone."
    )
    parts += [f"![{path.stem.replace('_', ' ')}](figures/{path.name})" for path in pictures]
    if record["failed"]:
        parts += ["Failed:", *(f"- {failed}" for failed in record["failed"])]
    machine = record["machine"]
    parts.append(f"{machine['device']}, {machine['cores']} cores; hf_ft {record['hf_ft']}; {record['date']}.")
    return "\n\n".join(parts) + "\n"
