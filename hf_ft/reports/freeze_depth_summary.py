"""A freeze depth search as text: the introduction and result on the terminal, and the page `depth.md`."""

from __future__ import annotations

from pathlib import Path

from hf_ft.errors import split_argument
from hf_ft.records import FreezeDepthRecord, RungRow
from hf_ft.reports.registry import figure_files, report
from hf_ft.reports.tables import bullets, counted, escaped, markdown_table, short_score, text_table, wrapped


def introduction(record: FreezeDepthRecord) -> str:
    """Return what is about to be searched, and the layer probes."""
    data, model, probes = record.data, record.model, record.layer_probes
    sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
    depths = ", ".join(str(one.frozen) for one in record.candidates)
    lines = [
        f"Data     {data.name}: {sizes}",
        *(f"         {note}" for note in data.notes),
        f"Model    {model.name} ({model.class_name}, {model.parameters:,} parameters)",
        f"Depths   {depths} of {record.blocks} blocks frozen",
        f"Seeds    {', '.join(map(str, record.seeds))}",
    ]
    if probes.missing:
        lines.append(f"Probes   none: {probes.missing}")
    else:
        scores = " ".join(map(short_score, probes.scores))
        lines.append(
            f"Probes   layer probes from the first boundary to the last, {probes.examples:,} examples, "
            f"{probes.seconds:.0f} s: {scores}. A linearly separable layer is not always the best to train from."
        )
    return "\n".join(part for line in lines for part in wrapped(line, " " * 9)) + "\n"


def depth_table(record: FreezeDepthRecord) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: a row for each freeze depth, a column for each rung."""
    assert record.choice is not None
    lengths = {rung.share: rung.length for rung in record.rungs if rung.rows}
    cells = {(rung.share, row.frozen): row for rung in record.rungs for row in rung.rows}
    header = ["frozen", "method", "probe", *(lengths[share] for share in sorted(lengths)), "seconds"]
    rows, probes = [], record.layer_probes.scores
    for one in record.candidates:
        mine = [cells.get((share, one.frozen)) for share in sorted(lengths)]
        rows.append(
            [
                f"{one.frozen}{' *' if one.frozen == record.choice.frozen else ''}",
                one.method,
                short_score(probes[one.frozen]) if probes else "",
                *(_with_spread(row) if row else "" for row in mine),
                f"{sum(row.seconds for row in mine if row):.1f}",
            ]
        )
    return header, rows


def _with_spread(row: RungRow) -> str:
    """The mean with half of its interval; of two seeds, whose interval is too wide to be useful, with both scores."""
    if len(row.values) == 2:
        return f"{short_score(row.mean)} ({' '.join(short_score(value) for value in sorted(row.values))})"
    return f"{short_score(row.mean)} ±{short_score((row.high - row.low) / 2)}"


def sentences(record: FreezeDepthRecord) -> list[str]:
    """Return the choice, what is indistinguishable from it, what contradicts it, and its cost."""
    choice, cost, blocks = record.choice, record.cost, record.blocks
    assert choice is not None
    assert cost is not None
    mean, low, high = (short_score(value) for value in (choice.mean, choice.low, choice.high))
    score = f"{record.metric_title} on validation {mean} [{low}, {high}]"
    if len(choice.values) == 2:
        score = f"{record.metric_title} on validation {_with_spread(choice)}"
    lines = [f"Chosen: freeze {choice.frozen} of {blocks} blocks (`{choice.method}`), {score}."]
    if other := choice.alternative:
        how = f"is indistinguishable from it (difference {other.low:+.3f} to {other.high:+.3f})"
        if other.inconclusive:
            how = "may be as good: two seeds that disagree are inconclusive. Add --seeds"
        lines.append(f"`{other.method}` freezes more blocks and {how}.")
    if probe := choice.contradicting_probe:
        lines.append(
            f"The layer probes contradict this: the probe on the mean over positions after {probe.frozen} of {blocks} "
            f"blocks scores {short_score(probe.score)}, beyond the interval of the chosen depth. A head on frozen "
            "layers may read another state than that mean, and the other depths may have trained too briefly: "
            "search again with more --num_train_epochs."
        )
    lines.append(
        f"Cost: {cost.training:.0f} s of training and {cost.layer_probes:.0f} s for the layer probes "
        f"({cost.wall:.0f} s with loading and scoring). Training every depth in full without cached features would "
        f"take about {cost.full_sweep:.0f} s (estimated)."
    )
    return lines


def summary(record: FreezeDepthRecord, folder: Path) -> str:
    """Return the result for the terminal."""
    assert record.choice is not None
    spread = "both seeds" if len(record.choice.values) == 2 else "half of the 95 % interval"
    note = f"* chosen; scores on validation with {spread}; seconds of training"
    notes = [line for why in record.uncached for line in wrapped(f"Note     {why}", " " * 9)]
    lines = [text_table(*depth_table(record)), *wrapped(note), ""]
    lines += [*(f"FAILED   {failed}" for failed in record.failed), *notes]
    for sentence in sentences(record):
        lines += wrapped(sentence)
    return "\n".join([*lines, f"Table, figure and all trials are in {folder}"])


@report(FreezeDepthRecord, "depth.md", applies=lambda record: record.finished)
def page(record: FreezeDepthRecord) -> str:
    """Return the page of a search."""
    assert record.choice is not None
    spread = "the scores of both" if len(record.choice.values) == 2 else "half of the 95 % interval"
    machine = record.machine
    about = f"{split_argument(record.model.name)[0]} on {record.data.name}"
    parts = [
        f"# {escaped(about)}: how many blocks to freeze",
        bullets(sentences(record)),
        markdown_table(*depth_table(record)),
        f"{record.metric_title.capitalize()} on validation (n = {record.data.sizes['validation']:,}): mean over "
        f"{counted(len(record.seeds), 'seed')}, with {spread}. `*` is chosen. Probe: a linear probe on the mean state "
        "at that boundary, shown as evidence; it does not decide. Seconds of training.",
        *(f"![score and freeze depth]({name})" for name in figure_files(record)),
        *(bullets([note]) for note in (*record.notes, *record.uncached)),
        *(bullets([f"failed: {failed}"]) for failed in record.failed),
        f"{machine.device}, {machine.cores} cores; hf_ft {record.hf_ft}; {record.date}.",
    ]
    return "\n\n".join(parts) + "\n"
