"""A ranking as text: the introduction and result on the terminal, and the page `rank.md`."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ft.records import Candidate, Confirmation, RankingRecord
from hf_ft.reports.registry import figure_files, report
from hf_ft.reports.tables import bullets, escaped, markdown_table, text_table, title, wrapped

NAMES = {"logme": "LogME", "knn": "k-NN", "probe": "probe"}
WIDTH = 80
MIN_FOR_TAU = 4
"""Least number of fine-tuned models for a rank correlation."""
CAUTION = (
    "Scores are estimates: the published weighted tau of LogME with accuracy after fine-tuning ranges from 0.50 to "
    "0.79 over eight data sets."
)


def introduction(record: RankingRecord) -> str:
    """Return what is about to be scored."""
    data = record.data
    lines = [f"Task    {record.task}, {data.predicts}", f"Data    {data.name}: {data.examples:,} train"]
    return "\n".join([*lines, *(f"        {note}" for note in data.notes)])


def score_titles(record: RankingRecord) -> dict[str, str]:
    """Return the name of each score with its metric."""
    metric = title(record.metric)
    return {"logme": "LogME", "knn": f"k-NN: {metric}", "probe": f"linear probe: {metric}"}


def ranking_table(record: RankingRecord) -> tuple[list[str], list[list[str]]]:
    """Return header and rows, the candidates in the order of their mean rank."""
    tuned = any(row.confirmed for row in record.scored)
    header = ["model", *NAMES.values(), "rank", "ms", "params", "memory", *(["tuned"] if tuned else [])]
    rows = []
    for row in record.scored:
        scores = [f"{row.scores[name]:.3f}" for name in NAMES]
        cost = [f"{row.ms_per_example:.3g}", f"{row.parameters / 1e6:.1f}M", f"{row.bytes / 1e6:.0f}MB"]
        cells = [row.name, *scores, f"{row.mean_rank:.1f}", *cost]
        value = _confirmation(row)
        rows.append([*cells, *([f"{value.value:.3f}" if value else ""] if tuned else [])])
    return header, rows


def _confirmation(row: Candidate) -> Confirmation | None:
    return row.confirmed if row.confirmed and not row.confirmed.error else None


def summary(record: RankingRecord) -> str:
    """Return the table at 80 columns, the candidates that failed, and what the scores say together."""
    header, rows = ranking_table(record)
    rest = max(map(len, text_table(header[1:], [row[1:] for row in rows]).splitlines()))
    most = WIDTH - rest - 2
    clipped = [[row[0] if len(row[0]) <= most else "…" + row[0][1 - most :], *row[1:]] for row in rows]
    lines = [part for line in sentences(record) for part in wrapped(line)]
    return "\n".join([text_table(header, clipped), "", *lines])


def sentences(record: RankingRecord) -> list[str]:
    """Return how to read the table, the agreement of the scores, and what fine-tuning confirmed."""
    lines = [f"Not scored: {row.name}: {row.error}" for row in record.candidates if row.error]
    lines.append(
        f"k-NN and probe: {title(record.metric)}, cross-validated on train; a constant answer scores "
        f"{record.baseline:.3f}."
    )
    lines.append("ms: one example through the model, in batches of at most 8. rank: the mean rank over the scores.")
    taus = [f"{' and '.join(NAMES[name] for name in pair.scores)} {_tau(pair.tau)}" for pair in record.agreement]
    lines.append(f"Agreement over {len(record.scored)} models (Kendall's tau): {'; '.join(taus)}.")
    lines += [verdict(record.scored, record.confirming > 0), CAUTION, *_confirmed(record)]
    return lines + [
        f"Not fine-tuned: {row.name}: {row.confirmed.error}"
        for row in record.scored
        if row.confirmed and row.confirmed.error
    ]


def _confirmed(record: RankingRecord) -> list[str]:
    """The scores after fine-tuning with their intervals, and which scores predicted their order."""
    tuned = [(row.name, value) for row in record.scored if (value := _confirmation(row))]
    if not tuned:
        return []
    ends = "; ".join(f"{name} {value.low:.3f} to {value.high:.3f}" for name, value in tuned)
    lines = [
        f"tuned: {title(tuned[0][1].metric)} on validation, which also chose the epoch, with one seed. 95 % intervals "
        f"over examples: {ends}."
    ]
    agreement = record.agreement_with_confirmed
    if agreement and len(tuned) >= MIN_FOR_TAU:
        taus = ", ".join(f"{NAMES[name]} {_tau(value)}" for name, value in agreement.items())
        lines.append(f"Kendall's tau with the {len(tuned)} fine-tuned models: {taus}.")
    elif agreement:  # two or three are often in the right order by chance: no number
        right = [NAMES[name] for name, value in agreement.items() if value == 1]
        lines.append(f"Scores that order the {len(tuned)} fine-tuned models correctly: {', '.join(right) or 'none'}.")
    return lines


def _tau(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def verdict(scored: Sequence[Candidate], confirming: bool = False) -> str:
    """Return which candidate each score puts first, and whether the scores agree; the first in the table wins ties.

    `confirming`: fine-tuning is about to start, so that it need not be suggested.
    """
    first: dict[str, list[str]] = {}
    constant = []
    for name, shown in NAMES.items():
        values = [row.scores[name] for row in scored]
        if len(set(values)) == 1:
            constant.append(shown)
        else:
            first.setdefault(scored[values.index(max(values))].name, []).append(shown)
    listed = "; ".join(f"{' and '.join(names)}: {model}" for model, names in first.items())
    same = f" The same for all: {' and '.join(constant)}." if constant else ""
    if len(first) < 2:
        agreed = f"All scores rank {next(iter(first))} first." if not constant else f"First: {listed}." if first else ""
        return (agreed + same).strip()
    confirmed = [row for row in scored if _confirmation(row)]
    depth = max(place for place, row in enumerate(scored, start=1) if row.name in first)
    advice = "" if len(confirmed) > 1 or confirming else f" Decide by fine-tuning: --confirm {depth}."
    return f"The scores disagree on the first ({listed}).{same}{advice}"


@report(RankingRecord, "rank.md", applies=lambda record: bool(record.scored))
def page(record: RankingRecord) -> str:
    """Return the page of a ranking."""
    data, machine = record.data, record.machine
    parts = [
        f"# Source models for {escaped(data.name)}",
        f"Task {record.task}, {data.predicts}, scored on {data.examples:,} training examples. Time on "
        f"{machine.device} ({machine.cores} cores).",
        markdown_table(*ranking_table(record)),
        bullets(sentences(record)),
        *(f"![score and time]({name})" for name in figure_files(record)),
    ]
    return "\n\n".join(parts) + "\n"
