"""A comparison as text: the introduction and result on the terminal, and the page `compare.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_ft.errors import split_argument
from hf_ft.records import ComparisonRecord
from hf_ft.reports.registry import figure_files, report
from hf_ft.reports.tables import (
    LOWER_IS_BETTER,
    bullets,
    counted,
    escaped,
    markdown_table,
    text_table,
    title,
    wrapped,
)

ENOUGH_SEEDS = 5
"""Seeds that are suggested where methods are indistinguishable: with three, Student's t makes intervals wide."""


def introduction(
    record: ComparisonRecord, blocks: int, methods: Sequence[str], seeds: Sequence[int], sizes: Sequence[int]
) -> str:
    """Return what is about to be compared."""
    data, model = record.data, record.model
    splits = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
    per_class = f"; examples per class: {', '.join(map(str, sizes))}" if sizes else ""
    lines = [
        f"Data     {data.name}: {splits}",
        *(f"         {note}" for note in data.notes),
        f"Model    {model.name} ({model.class_name}, {model.parameters:,} parameters, {blocks} blocks)",
        f"Methods  {', '.join(methods)}",
        f"Seeds    {', '.join(map(str, seeds))}{per_class}",
        *(f"Note     {note}" for note in record.notes),
    ]
    return "\n".join(lines)


def comparison_table(record: ComparisonRecord, size: int | None) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one training set size, the best first."""
    rows = [row for row in record.rows if row.size == size]
    sign = 1 if record.higher_is_better else -1
    metric = title(record.metric).removesuffix(LOWER_IS_BETTER)
    header = ["method", "frozen", metric, "seed range", "difference to best", "seconds"]
    most = max(len(row.seeds) for row in rows)
    lines = []
    for row in sorted(rows, key=lambda row: -sign * row.mean):
        if row.best:
            difference = "best"
        elif row.inconclusive:
            difference = "inconclusive (2 seeds)"
        elif row.difference is None:
            difference = "no common seed"
        else:
            difference = f"{row.difference.low:+.3f} to {row.difference.high:+.3f}"
            difference += " (indist.)" if row.indistinguishable else ""
        lines.append(
            [
                row.method + (f" ({len(row.seeds)} of {most} seeds)" if len(row.seeds) < most else ""),
                "adapters" if row.frozen is None else f"{row.frozen} of {row.blocks}",
                f"{row.mean:.4f}",
                f"{min(row.values):.3f}, {max(row.values):.3f}",
                difference,
                f"{row.seconds:.1f}",
            ]
        )
    return header, lines


def heading(record: ComparisonRecord, size: int | None) -> str:
    """Return what a table shows: the size of the training set, seeds, and the split of the scores."""
    row = max((row for row in record.rows if row.size == size), key=lambda row: len(row.seeds))
    part = "All" if size is None else f"{size} per class:"
    n = record.data.sizes[record.split]
    trained = f"{row.examples:,} training examples, {counted(len(row.seeds), 'seed')}"
    return f"{part} {trained}, {record.split} n={n:,}{'' if record.higher_is_better else LOWER_IS_BETTER}"


def summary(record: ComparisonRecord, folder: Path) -> str:
    """Return the result for the terminal."""
    assert record.seconds is not None
    lines = []
    for size in record.sizes:
        lines += [heading(record, size), text_table(*comparison_table(record, size)), ""]
    if any(row.indistinguishable and not row.best for row in record.rows):
        lines += wrapped("(indist.): indistinguishable from the best, the 95 % interval includes zero.")
    sentences = [f"FAILED   {failed}" for failed in record.failed]
    sentences += [f"Note     {note}" for note in record.uncached]
    most = max((row.seeds for row in record.rows), key=len)
    numbered = most == list(range(len(most)))  # else `--seeds 5` would mean other seeds
    if numbered and len(most) < ENOUGH_SEEDS and any(row.indistinguishable and not row.best for row in record.rows):
        sentences.append(
            f"Note     More seeds separate more methods: --seeds {ENOUGH_SEEDS} runs only those that are missing."
        )
    lines += [part for sentence in sentences for part in wrapped(sentence, " " * 9)]
    last = (
        f"Seconds are those of training a method alone: {record.seconds.standalone:.0f} in all; with shared frozen "
        f"layers the trials took {record.seconds.training:.0f}."
    )
    lines += [part for sentence in (*record.advice, last) for part in wrapped(sentence)]
    return "\n".join([*lines, f"Tables, figures and all trials are in {folder}"])


@report(ComparisonRecord, "compare.md", applies=lambda record: record.finished)
def page(record: ComparisonRecord) -> str:
    """Return the page of a comparison."""
    about = f"{split_argument(record.model.name)[0]} on {record.data.name}: methods compared"
    parts = [f"# {escaped(about)}", *(bullets([sentence]) for sentence in record.advice)]
    for size in record.sizes:
        parts += [f"## {escaped(heading(record, size))}", markdown_table(*comparison_table(record, size))]
    parts.append(_how_to_read(record))
    parts += [bullets([note]) for note in (*record.notes, *record.uncached)]
    parts += [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in figure_files(record)]
    if record.failed:
        parts += ["Failed:", *(bullets([failed]) for failed in record.failed)]
    machine = record.machine
    parts.append(f"{machine.device}, {machine.cores} cores; hf_ft {record.hf_ft}; {record.date}.")
    return "\n\n".join(parts) + "\n"


def _how_to_read(record: ComparisonRecord) -> str:
    several = max(len(row.seeds) for row in record.rows) > 1
    over = "test examples and seeds" if several else "test examples; one seed does not show how much seeds vary"
    inconclusive = any(row.inconclusive for row in record.rows)
    return (
        f"{title(record.metric).capitalize()} on {record.split}: mean over seeds, then the lowest and highest seed. "
        f"Difference to best: 95 % interval, paired over {over}; `indist.` (indistinguishable) where it includes zero. "
        + ("Two seeds that disagree are inconclusive, and their interval is not shown. " if inconclusive else "")
        + "Not corrected for choosing the best of several methods by these scores. Seconds of training, as if each "
        "method had been trained alone."
    )
