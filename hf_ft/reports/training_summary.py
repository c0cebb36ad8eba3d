"""A training run as text: what is about to train, and the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.errors import shorten
from hf_ft.records import (
    Machine,
    PlannedStageRecord,
    RunDescription,
    RunRecord,
    ScoreRecord,
    Scores,
    StageRecord,
    StoppedEarly,
)
from hf_ft.reports.by_class import class_table, classes_lines, threshold_lines, undefined_note
from hf_ft.reports.calibration import calibration_lines, calibration_table
from hf_ft.reports.tables import LOWER_IS_BETTER, counted, text_table, title, wrapped

Table = tuple[list[str], list[list[str]]]


def before_training(record: RunDescription, machine: Machine, note: str = "") -> str:
    """Return what is about to happen: data, model, device, and the depth groups with their settings.

    `note` is a remark on the number of processes.
    """
    data, model = record.data, record.model
    sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
    kind = "" if data.problem_type in record.task else f", {data.problem_type.replace('_', ' ')}"
    lines = [
        f"Task    {record.task}, {data.predicts}{kind}",
        f"Data    {data.name}: {sizes}",
        *(f"        {one}" for one in data.notes),
        *(f"Classes {one}" for one in classes_lines(record.classes)),
        f"Model   {model.name} ({model.class_name}, {model.parameters:,} parameters)",
        *(f"        {model.origin}, licence {model.licence}" for _ in [model.origin] if model.origin),
        *(f"        {one}" for one in model.notes),
        f"Method  {record.method}",
        f"Device  {machine.device}, {machine.processes} process{'es' * (machine.processes > 1)}",
        *(f"        {one}" for one in precision_lines(record)),
        *(f"        {one}" for one in [note] if one),
        *(f"Code    {line}" for line in extension_lines(record)),
        "",
        text_table(*depth_group_table(record, [stage.solved for stage in record.plan.stages])),
    ]
    return "\n".join(lines)


def precision_lines(record: RunDescription) -> list[str]:
    """Return the precision of training and how to change it, where it is a choice; a line for a note on it."""
    found = record.precision
    if found is None:
        return []
    line = precision_phrase(record)
    if found.compute == "bfloat16" and not found.explicit:
        line += "; --bf16 false for float32"
    return [line, *([found.note] if found.note else [])]


def precision_phrase(record: RunDescription) -> str:
    """Return the precision of training in a few words; empty where the record does not say it."""
    found = record.precision
    if found is None:
        return ""
    if found.compute == "float32":
        return "float32 with TF32 matrix products" if found.tf32 else "float32"
    return f"{found.compute} autocast, weights in float32{' (with TF32)' * found.tf32}"


def after_training(record: RunRecord, folder: Path) -> str:
    """Return the results: scores, proofs and cost."""
    seconds = sum(stage.seconds for stage in record.stages)
    trained = " then ".join(f"{stage.trainable:,}" for stage in record.stages)
    split = list(record.metrics)[-1]
    by_class = record.by_class.get(split)
    sentences = [
        *duplicates_lines(record),
        *undefined_lines(record),
        *threshold_lines(record),
        *calibration_lines(record),
        "",
        "Verified:",
        *(f"  {line}" for line in proof_lines(record)),
        f"Training took {seconds:.0f} s; {trained} of {record.model.parameters:,} parameters trained.",
        *(line for stage in record.stages for line in averaging_lines(stage)),
        *run_soup_lines(record),
        *cache_lines(record),
        *head_input_lines(record),
        *extension_lines(record),
        *(f"Note: {note}." for stage in record.stages for note in stage.notes),
    ]
    lines = [part for line in sentences for part in ([line] if line.startswith("  ") else wrapped(line) or [""])]
    tables = [text_table(*_narrow(record)), *(["", class_table(by_class, split), ""] if by_class else [])]
    tables += ["", text_table(*calibration_table(record.calibration)), ""] if record.calibration else []
    return "\n".join([*tables, *lines, *phase_lines(record), f"The model is in {folder}"])


def phase_lines(record: RunRecord) -> list[str]:
    """Return one line with the seconds of the run by phase, without those below a second; none if it was not timed."""
    if not record.phases:
        return []
    listed = ", ".join(f"{name} {seconds:.0f}" for name, seconds in record.phases.items() if seconds >= 1)
    line = f"Seconds: {sum(record.phases.values()):.0f}{f' ({listed})' if listed else ''}"
    return wrapped(line, " " * len("Seconds: "))


DETAILS = ("cohen_kappa", "average_precision")
"""Metrics that the terminal leaves to `run.json` and the card, unless one of them selects the best epoch."""


def _narrow(record: RunRecord) -> Table:
    """The table of results with one row per split and metric, so that it fits 80 columns."""
    rows = [
        [
            f"{split} {title(name).removesuffix(LOWER_IS_BETTER)}",
            f"{score.value:.4f}",
            f"{score.low:.4f} to {score.high:.4f}",
            "" if name not in record.baseline[split] else f"{record.baseline[split][name]:.4f}",
            f"{score.n:,}",
        ]
        for split, scores in record.metrics.items()
        for name, score in scores.items()
        if name not in DETAILS or name == record.metric
    ]
    return ["", "value", "95 % interval", record.baseline_description.name, "n"], rows


def result_table(record: RunRecord) -> Table:
    """Return header and rows of the results: value, 95 % interval and baseline for each split."""
    splits = list(record.metrics)
    header = ["metric"]
    for split in splits:
        header += [f"{split} (n={record.data.sizes[split]:,})", "95 % interval", record.baseline_description.name]
    rows = []
    for name in dict.fromkeys(name for split in reversed(splits) for name in record.metrics[split]):
        row = [title(name)]
        for split in splits:
            score, baseline = record.metrics[split].get(name), record.baseline[split].get(name)
            row += [f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"] if score else ["", ""]
            row += ["" if baseline is None else f"{baseline:.4f}"]
        rows.append(row)
    return header, rows


def depth_group_table(record: RunDescription, solved: Sequence[bool]) -> Table:
    """Return header and rows of the depth groups; neighbouring blocks with equal settings share a row.

    `solved` says of each stage whether its head is fitted in closed form: planned, or as it went.
    """
    stages = record.plan.stages
    lengths = ["closed form" if one else _length(stage) for one, stage in zip(solved, stages, strict=True)]
    header = ["depth group", "parameters"]
    header += [f"{stage.name}, {length}" for stage, length in zip(stages, lengths, strict=True)]
    rows: list[list[Any]] = []
    for i, group in enumerate(record.plan.groups):
        settings = [stage.settings[i] for stage in stages]
        cells = [
            one.mode if exact or one.mode == "frozen" else f"{one.mode} at {one.rate:.2g}"
            for exact, one in zip(solved, settings, strict=True)
        ]
        if rows and group.role == "block" and rows[-1][0].startswith("block") and rows[-1][2:] == cells:
            first = rows[-1][0].split()[1].split("-")[0]
            rows[-1][:2] = [f"blocks {first}-{group.name.split()[1]}", rows[-1][1] + group.parameters]
        else:
            rows.append([group.name, group.parameters, *cells])
    return header, [[row[0], f"{row[1]:,}", *row[2:]] for row in rows]


def _length(stage: PlannedStageRecord) -> str:
    if stage.max_steps > 0:
        return counted(stage.max_steps, "step")
    return "1 epoch" if stage.epochs == 1 else f"{stage.epochs:g} epochs"


def regularisation(settings: Mapping[str, Any]) -> str:
    """Return the settings that make training images random or skip layers; empty if there are none."""
    names = ("augment", "augment_views", "random_erasing", "mixup", "cutmix", "drop_path")
    used = {name: settings.get(name) for name in names}
    return ", ".join(f"{name} {value}" for name, value in used.items() if value not in (None, "none", 0))


def averaging_lines(stage: StageRecord) -> list[str]:
    """Return one sentence for each of early stopping, average and soup that made the result of a stage."""
    lines = [f"{stopped_early_line(stage.name, stage.stopped)}."] if stage.stopped else []
    if stage.ema is not None:
        lines.append(f"Stage {stage.name}: its weights are an exponential moving average, decay {stage.ema:.4g}.")
    if soup := stage.soup:
        gain = f"scored {soup.score:.4f} on validation, the best alone {soup.best_single:.4f}"
        kept = f"the average of {len(soup.used)} of the {len(soup.candidates)} best checkpoints, which {gain}"
        alone = f"no average of its {len(soup.candidates)} best checkpoints was better than the best of them"
        lines.append(f"Stage {stage.name}: {kept if len(soup.used) > 1 else alone}.")
    return lines


def run_soup_lines(record: RunRecord) -> list[str]:
    """Return of which runs the weights are the average, and what the record has of the best of them alone."""
    if (soup := record.soup) is None:
        return []
    best, of = soup.members[0].name, len(soup.members)
    joined = [f"{member.name} ({member.alone:.4f})" for member in soup.members if member.joined]
    left = [f"{member.name} ({member.alone:.4f})" for member in soup.members if not member.joined]
    others = f"; {', '.join(left)} did not join" if left else ""
    where, score, single = f"{title(soup.metric)} on validation", f"{soup.score:.4f}", f"{soup.best_single:.4f}"
    if len(joined) > 1:
        lines = [
            f"The weights are the average of {len(joined)} of {of} runs (greedy soup), {', '.join(joined)}{others}: "
            f"{where} {score}, {single} of the best run alone."
        ]
    else:
        lines = [
            f"The weights are those of {best}, the best of {of} runs ({where} {single}): no average with another run "
            f"was as good{others}."
        ]
    if soup.recomputed:
        lines.append(
            f"The running statistics of {soup.recomputed} BatchNorm layers were computed anew for the average."
        )
    seconds = sum(member.seconds for member in soup.members)
    return [*lines, f"Settings, stages and learning curves are those of {best}; all runs trained for {seconds:.0f} s."]


def stopped_early_line(name: str, stopped: StoppedEarly) -> str:
    """Return how early stopping ended a stage, as a sentence without its full stop."""
    return (
        f"Stage {name} stopped early, after epoch {stopped.epoch:g} of {stopped.planned_epochs:g}: {stopped.reason}; "
        f"its best epoch is {stopped.best_epoch:g}"
    )


def extension_lines(record: RunDescription) -> list[str]:
    """Return the caller's own code that takes part, and the metrics that it reported."""
    named = [f"{name} {one if isinstance(one, str) else ', '.join(one)}" for name, one in record.extensions.items()]
    lines = [f"Code from outside hf_ft took part: {'; '.join(named)}."] if named else []
    for split, values in record.custom_metrics.items() if isinstance(record, RunRecord) else ():
        lines.append(f"Reported on {split}: {', '.join(f'{name} {value:.4f}' for name, value in values.items())}.")
    return lines


def head_input_lines(record: RunRecord) -> list[str]:
    """Return one sentence where the head reads less than the layers offer: the scores, and the method that helps."""
    found = record.head_input
    if not found or not found.reads_less:
        return []
    where = f"after block {found.best_boundary - 1}" if found.best_boundary else "before the first block"
    best, (low, high) = found.boundary_scores[found.boundaries.index(found.best_boundary)], found.difference
    return [
        f"The head reads less than the frozen layers offer: {title(found.metric)} of a linear probe is "
        f"{found.head_score:.3f} on what the head reads and {best:.3f} on the mean of all "
        f"positions {where} ({found.examples[1]:,} validation examples; difference {low:.3f} to {high:.3f}). "
        f"`--method {found.suggested_method}` trains the layers in between."
    ]


def undefined_lines(record: RunRecord) -> list[str]:
    """Return one sentence for each split whose labels do not define some metrics."""
    found = (undefined_note(split, reasons) for split, reasons in record.undefined_metrics.items())
    return [note for note in found if note is not None]


def duplicates_lines(record: RunRecord) -> list[str]:
    """Return one sentence for each split that shares examples with the training split: the score without them."""
    lines = []
    for found in record.data.duplicates:
        split = found.split
        if found.of == "train" and split != "train":
            scores, size = record.metrics_without_duplicates.get(split), record.data.sizes[split]
            lines.append(duplicates_note(split, found.examples, size, record.metric, scores))
    return lines


def duplicates_note(split: str, examples: int, size: int, metric: str, scores: Scores | None) -> str:
    """Return the score of a split without its examples that are in the training split too.

    `scores` is None where all of them are.
    """
    if scores is None:
        return f"All {size:,} examples of {split} are in the training split too: its scores do not measure new data."
    score: ScoreRecord = scores[metric]
    return (
        f"Without the {examples:,} of {size:,} {split} examples that are in the training split too: {title(metric)} "
        f"{score.value:.4f} ({score.low:.4f} to {score.high:.4f})."
    )


def proof_lines(record: RunRecord) -> list[str]:
    """Return one sentence for each thing that was verified."""
    proofs, lines = record.proofs, []
    if proofs.only_head_new:
        fresh = ", ".join(proofs.only_head_new.new[:4])
        lines.append(f"only the head was new: {proofs.only_head_new.loaded} tensors loaded; newly initialised: {fresh}")
    if sized := proofs.image_size:
        changed = f"only {shorten(sized.resampled, 3)} {'was' if len(sized.resampled) == 1 else 'were'} resampled"
        lines.append(
            f"images of {sized.size} pixels in place of {sized.checkpoint}: "
            f"{changed if sized.resampled else 'no tensor depends on the size'}; {sized.unchanged:,} tensors were "
            "bit-identical to the checkpoint before training"
        )
    if any(proofs.frozen.tensors):
        counts = " and ".join(str(count) for count in proofs.frozen.tensors)
        lines.append(f"frozen layers did not change: {counts} parameters and buffers bit-identical after training")
    if proofs.load_back:
        lines.append(
            "loads without hf_ft: in a fresh process the plain `pipeline` gives the same labels, and scores that "
            f"differ by at most {proofs.load_back['largest_difference']:.1g}"
        )
    return lines


def cache_lines(record: RunRecord) -> list[str]:
    """Return one sentence for each stage that trained from cached features, or might have."""
    lines = []
    for stage in record.stages:
        if cache := stage.cache:
            computed = f"{cache['computed']:,} of {cache['examples']:,} examples" if cache["computed"] else "no example"
            lines.append(
                f"Stage {stage.name}: trained from cached features, split {cache['split']}; the frozen layers ran "
                f"once for {computed}."
            )
        elif stage.uncached:
            lines.append(f"Stage {stage.name}: the frozen layers ran in every epoch, since {stage.uncached}.")
            if stage.evaluated:
                lines[-1] += " Evaluations read their outputs from the cache."
    return lines
