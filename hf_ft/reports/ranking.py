"""What people look at after a ranking: the table, what the scores say together, and the picture, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.reports.figures import draw_ranking
from hf_ft.reports.run_report import TITLES, bullets, escaped, markdown_table, text_table, wrapped

Record = Mapping[str, Any]

NAMES = {"logme": "LogME", "knn": "k-NN", "probe": "probe"}
WIDTH = 80
FEW = 4
"""Fine-tuned models from which on a rank correlation says something."""
CAUTION = (
    "No score is the truth: the published weighted tau of LogME with accuracy after fine-tuning runs from 0.50 to 0.79 "
    "over eight data sets."
)


def before(record: Record) -> str:
    """What is about to be scored."""
    data = record["data"]
    lines = [f"Task    {record['task']}, {data['predicts']}", f"Data    {data['name']}: {data['examples']:,} train"]
    return "\n".join([*lines, *(f"        {note}" for note in data["notes"])])


def rows_of(record: Record) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, the candidates in the order of their mean place."""
    scored = _scored(record)
    tuned = any("confirmed" in row for row in scored)
    header = ["model", *NAMES.values(), "place", "ms", "params", "memory", *(["tuned"] if tuned else [])]
    rows = []
    for row in scored:
        scores = [f"{row['scores'][name]:.3f}" for name in NAMES]
        cost = [f"{row['ms_per_example']:.3g}", f"{row['parameters'] / 1e6:.1f}M", _megabytes(row["bytes"])]
        value = row.get("confirmed", {}).get("value")
        rows.append([row["name"], *scores, f"{row['mean_rank']:.1f}", *cost])
        rows[-1] += ["" if value is None else f"{value:.3f}"] if tuned else []
    return header, rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}MB"


def _scored(record: Record) -> list[Any]:
    return [row for row in record["candidates"] if "scores" in row]


def after(record: Record) -> str:
    """The table at 80 columns, who could not be scored and why, and what the scores say together."""
    header, rows = rows_of(record)
    rest = max(map(len, text_table(header[1:], [row[1:] for row in rows]).splitlines()))
    most = WIDTH - rest - 2
    clipped = [[row[0] if len(row[0]) <= most else "…" + row[0][1 - most :], *row[1:]] for row in rows]
    told = [part for line in _sentences(record) for part in wrapped(line)]
    return "\n".join([text_table(header, clipped), "", *told])


def _sentences(record: Record) -> list[str]:
    metric = TITLES.get(record["metric"], record["metric"])
    lines = [f"Not scored: {row['name']}: {row['reason']}" for row in record["candidates"] if "reason" in row]
    lines.append(
        f"k-NN and probe: {metric}, cross-validated on train; always the same answer would have "
        f"{record['baseline']:.3f}."
    )
    lines.append("ms: one example through the model, in batches of at most 8. place: the mean place over the scores.")
    agreement = f"Agreement over {len(_scored(record))} models (Kendall's tau): {'; '.join(_taus(record))}."
    lines += [agreement, verdict(record), CAUTION]
    lines += _of_confirmed(record)
    for row in _scored(record):
        if "reason" in row.get("confirmed", {}):
            lines.append(f"Not fine-tuned: {row['name']}: {row['confirmed']['reason']}")
    return lines


def _of_confirmed(record: Record) -> list[str]:
    """What fine-tuning gave, how sure that is, and which scores had it so."""
    tuned = [row for row in _scored(record) if "value" in row.get("confirmed", {})]
    if not tuned:
        return []
    metric = TITLES.get(tuned[0]["confirmed"]["metric"], tuned[0]["confirmed"]["metric"])
    ends = "; ".join(f"{row['name']} {row['confirmed']['low']:.3f} to {row['confirmed']['high']:.3f}" for row in tuned)
    lines = [
        f"tuned: {metric} on validation, by which the epoch was chosen too, of one seed. 95 % intervals over examples: "
        f"{ends}."
    ]
    found = record.get("agreement_with_confirmed")
    if found and len(tuned) >= FEW:
        told = ", ".join(f"{NAMES[name]} {_tau(value)}" for name, value in found.items())
        lines.append(f"Kendall's tau with the {len(tuned)} fine-tuned: {told}.")
    elif found:  # so few are in the right order by chance too often for a figure
        right = [NAMES[name] for name, value in found.items() if value == 1]
        lines.append(f"The {len(tuned)} fine-tuned stand in the order of {' and '.join(right) or 'no score'}.")
    return lines


def _taus(record: Record) -> list[str]:
    pairs = [(" and ".join(NAMES[name] for name in pair["scores"]), pair["tau"]) for pair in record["agreement"]]
    return [f"{names} {_tau(value)}" for names, value in pairs]


def _tau(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def verdict(record: Record) -> str:
    """Which candidate each score puts first, and whether they agree; of equal ones the first in the table."""
    scored = _scored(record)
    first: dict[str, list[str]] = {}
    mute = []
    for name, title in NAMES.items():
        values = [row["scores"][name] for row in scored]
        if len(set(values)) == 1:
            mute.append(title)
        else:
            first.setdefault(scored[values.index(max(values))]["name"], []).append(title)
    told = "; ".join(f"{' and '.join(titles)}: {name}" for name, titles in first.items())
    same = f" The same for all: {' and '.join(mute)}." if mute else ""
    if len(first) < 2:
        agreed = f"All scores put {next(iter(first))} first." if not mute else f"First: {told}." if first else ""
        return (agreed + same).strip()
    confirmed = [row for row in scored if "value" in row.get("confirmed", {})]
    down_to = max(place for place, row in enumerate(scored, start=1) if row["name"] in first)
    advice = "" if len(confirmed) > 1 or "confirming" in record else f" Let fine-tuning decide: --confirm {down_to}."
    return f"The scores disagree on the first ({told}).{same}{advice}"


def write(record: Record, out: Path) -> None:
    """Write `rank.md` and the picture `figures/rank.png` and `.svg` into the folder of a ranking."""
    points = {row["name"]: (row["ms_per_example"], row["scores"]) for row in _scored(record)}
    draw_ranking(points, _titles(record), [out / "figures" / f"rank.{kind}" for kind in ("png", "svg")])
    notes = bullets(_sentences(record))
    text = f"{_heading(record)}\n\n{markdown_table(*rows_of(record))}\n\n{notes}\n\n![Ranking](figures/rank.png)\n"
    (out / "rank.md").write_text(text, encoding="utf-8")


def _heading(record: Record) -> str:
    data, machine = record["data"], record["machine"]
    return (
        f"# Source models for {escaped(data['name'])}\n\nTask {record['task']}, {data['predicts']}, scored on "
        f"{data['examples']:,} examples of train. Time on {machine['device']} ({machine['cores']} cores)."
    )


def _titles(record: Record) -> dict[str, str]:
    metric = TITLES.get(record["metric"], record["metric"])
    return {"logme": "LogME", "knn": f"k-NN: {metric}", "probe": f"linear probe: {metric}"}
