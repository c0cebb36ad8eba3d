"""The rows of a comparison and the advice that follows from them: scores over seeds, differences, costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hf_ft.experiments.training_experiment import TrainingExperiment
from hf_ft.experiments.trials import Trial
from hf_ft.metrics import SeedScores, difference, mean_interval
from hf_ft.records import ComparisonRecord, ComparisonRow, Interval, TrialResult


def rows_of(
    experiment: TrainingExperiment[ComparisonRecord], pairs: Sequence[tuple[Trial, TrialResult]], incomplete: set[str]
) -> list[ComparisonRow]:
    """Return a row for each method at one size: scores over seeds, and the difference to the best method.

    A method of which a trial failed (`incomplete`) is not called the best: the seeds that are left may be lucky ones.
    """
    methods = list(dict.fromkeys(trial.method for trial, _ in pairs))
    scores: dict[str, dict[int, float]] = {method: {} for method in methods}
    for trial, result in pairs:
        scores[trial.method][trial.seed] = result.score(experiment.split, experiment.metric)

    def of_seeds(method: str, seeds: Iterable[int]) -> SeedScores:
        own = {trial.seed: (trial, result) for trial, result in pairs if trial.method == method}
        return experiment.seed_scores([own[seed] for seed in seeds])

    complete = {method: found for method, found in scores.items() if method not in incomplete}
    best = best_of(complete or scores, experiment.higher_is_better)
    rows = []
    for method in methods:
        results = [result for trial, result in pairs if trial.method == method]
        common = [seed for seed in scores[method] if seed in scores[best]]
        gap = difference(of_seeds(method, common), of_seeds(best, common)) if method != best and common else None
        mean = mean_interval(of_seeds(method, scores[method]))
        values = list(scores[method].values())
        rows.append(
            ComparisonRow(
                method=method,
                size=results[0].size,
                examples=results[0].examples,
                seeds=list(scores[method]),
                values=values,
                mean=mean.value,
                low=mean.low,
                high=mean.high,
                std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                seconds=float(np.mean([result.standalone_seconds for result in results])),
                seconds_per_trial=[result.standalone_seconds for result in results],
                blocks=results[0].blocks,
                frozen=results[0].frozen,
                trainable=results[0].trainable,
                incomplete=method in incomplete,
                best=method == best,
                difference=None if gap is None else Interval(gap.value, gap.low, gap.high),
                indistinguishable=method == best or (gap is not None and gap.noise),
                inconclusive=gap is not None and gap.undecided,
            )
        )
    return rows


def best_of(scores: Mapping[str, Mapping[int, float]], higher_is_better: bool) -> str:
    """Return the method that is level with or ahead of most others, then the one with the best mean.

    `scores` are by method and seed. A pair is compared by the seeds that both have; without a common seed, by all.
    """
    sign = 1 if higher_is_better else -1

    def mean(method: str, other: str) -> float:
        common = scores[method].keys() & scores[other].keys() or scores[method].keys()
        return sign * float(np.mean([scores[method][seed] for seed in common]))

    wins = {one: sum(mean(one, other) >= mean(other, one) for other in scores) for one in scores}
    return max(scores, key=lambda method: (wins[method], mean(method, method)))


# --- Advice -----------------------------------------------------------------------------------------------------------


def advice(rows: Sequence[ComparisonRow]) -> str:
    """Return one plain sentence: the fastest method that is indistinguishable from the best, and what it saves."""
    whole = [row for row in rows if not row.incomplete] or list(rows)
    known = [row for row in whole if row.best or row.difference]
    text = _advice(known)
    for rest, why in (
        ([row for row in rows if row not in whole], "a trial failed"),
        (
            [row for row in whole if row not in known],
            f"they share no seed with {_listed([row for row in known if row.best])}",
        ),
    ):
        text += f" Not considered, since {why}: {_listed(rest)}." if rest else ""
    return text


def _listed(rows: Sequence[ComparisonRow]) -> str:
    return ", ".join(f"`{row.method}`" for row in rows)


def _advice(rows: Sequence[ComparisonRow]) -> str:
    best = next(row for row in rows if row.best)
    among = "" if best.size is None else f"With {best.size} examples per class, "
    open_rows = [row for row in rows if row.inconclusive]
    if open_rows:
        rest = [row for row in rows if row not in open_rows]
        text = _advice(rest) if len(rest) > 1 else f"{among}`{best.method}` has the best mean ({best.mean:.3f})."
        return f"{text} Two seeds are inconclusive about {_listed(open_rows)}: add --seeds."
    fastest = min((row for row in rows if row.indistinguishable), key=lambda row: row.seconds)
    score = f"{best.mean:.3f}"
    if len(rows) == 1:
        return f"{among}{'only' if among else 'Only'} `{best.method}` was compared ({score})."
    if fastest is best:
        close = [row for row in rows if row.indistinguishable and row is not best]
        if not close:
            return f"{among}`{best.method}` is best ({score}): better than every other method beyond noise."
        faster = f"and faster than those indistinguishable from it: {_listed(close)}"
        return f"{among}`{best.method}` is best ({score}), {faster}."
    gap = fastest.difference
    assert gap is not None
    return (
        f"{among}`{fastest.method}` is indistinguishable from `{best.method}` ({fastest.mean:.3f} against {score}; "
        f"difference {gap.low:+.3f} to {gap.high:+.3f}) at {_share(fastest, best)} of its time"
        f"{_closer(rows, fastest, best)}."
    )


def _closer(rows: Sequence[ComparisonRow], fastest: ComparisonRow, best: ComparisonRow) -> str:
    """What lies between the two in time and closer to the best in score: with few seeds, noise hides much."""
    between = [
        row
        for row in rows
        if row.indistinguishable
        and fastest.seconds < row.seconds < best.seconds
        and abs(row.mean - best.mean) < abs(fastest.mean - best.mean)
    ]
    if not between:
        return ""
    found = min(between, key=lambda row: abs(row.mean - best.mean))
    return f"; `{found.method}` comes closer ({found.mean:.3f}) at {_share(found, best)}"


def _share(row: ComparisonRow, best: ComparisonRow) -> str:
    times = best.seconds / max(row.seconds, 1e-9)
    return f"1/{times:.0f}" if times >= 2.5 else f"{1 / times:.0%}"
