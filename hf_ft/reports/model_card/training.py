"""How the model was made: what trained and what was frozen, the settings, the command, and what it cost."""

from __future__ import annotations

from hf_ft.environment import Energy
from hf_ft.records import RunRecord
from hf_ft.reports.by_class import classes_lines
from hf_ft.reports.model_card.figures import other_pictures
from hf_ft.reports.model_card.numbers import figure
from hf_ft.reports.tables import bullets, code, escaped, markdown_table, wrapped_command
from hf_ft.reports.training_summary import (
    averaging_lines,
    cache_lines,
    depth_group_table,
    extension_lines,
    precision_phrase,
    regularisation,
    run_soup_lines,
)

SHOWN = (
    "num_train_epochs",
    "gradient_accumulation_steps",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing_factor",
    "max_length",
    "image_size",
    "seed",
)
"""Settings on the card, where they are set to something; `run.json` has all."""
LONG = 60
"""Seconds from which a duration is given in minutes too."""


def training(record: RunRecord, figures: bool = True) -> str:
    """Return the section on training, with or without its figures."""
    parts = [
        "What trained and what was frozen, from the input to the head. Numbers are learning rates.",
        markdown_table(*depth_group_table(record, [bool(stage.solver) for stage in record.stages])),
        bullets(_notes(record)),
        other_pictures(record, "confusion_matrix", "reliability", "calibration") if figures else "",
        f"### Settings\n\n{_settings(record)}",
        _command(record),
        f"### Cost\n\n{_cost(record)}",
    ]
    return "\n\n".join(part for part in parts if part)


def _notes(record: RunRecord) -> list[str]:
    """What became of the stages, and what was done about unequal classes."""
    return [
        *run_soup_lines(record),
        *(line for stage in record.stages for line in averaging_lines(stage)),
        *cache_lines(record),
        *extension_lines(record),
        *(f"Classes: {line}." for line in classes_lines(record.classes)),
        *(f"Stage {stage.name}: {note}." for stage in record.stages for note in stage.notes),
    ]


def _settings(record: RunRecord) -> str:
    settings = record.settings
    by_tokens = settings.get("tokens_per_batch") is not None
    names = ("tokens_per_batch" if by_tokens else "per_device_train_batch_size", *SHOWN)
    plain = {"gradient_accumulation_steps": 1}
    used = [
        f"{name} {settings[name]}"
        for name in names
        if name == "seed" or settings.get(name) not in (None, 0, plain.get(name))
    ]
    more = [one for one in (regularisation(settings), precision_phrase(record)) if one]
    return escaped(", ".join([*used, *more]) + ".")


def _command(record: RunRecord) -> str:
    if not record.command:
        return ""
    said = "The command line, with the names of local data and models in place of their paths:"
    if record.extensions:
        said = "Code of the user took part as well, so this command line alone does not repeat the run:"
    return f"{said}\n\n```bash\n{wrapped_command(record.command)}\n```"


def _cost(record: RunRecord) -> str:
    machine = record.machine
    seconds = sum(stage.seconds for stage in record.stages)
    memory = max(stage.peak_memory for stage in record.stages)
    several = f", {machine.processes} processes" if machine.processes > 1 else ""
    lines = [
        f"Training: {_duration(seconds)} on {machine.device} ({machine.cores} cores{several})",
        f"Peak memory: {memory / 2**30:.1f} GiB",
    ]
    if record.phases:
        whole = sum(record.phases.values())
        parts = ", ".join(f"{name} {spent:.0f} s" for name, spent in record.phases.items() if spent >= 1)
        lines.insert(1, f"The whole run: {_duration(whole)}{f' ({parts})' if parts else ''}")
    if record.energy:
        lines += _energy(record.energy)
    return bullets(lines)


def _energy(found: Energy) -> list[str]:
    """What codecarbon reported, and how it came to that."""
    parts = ", ".join(f"{name} {figure(kwh * 1000)}" for name, kwh in found.parts.items())
    how = f"; power of the processor by {found.processor_by}" if found.processor_by else ""
    lines = [f"Energy of training: {figure(found.kwh * 1000)} Wh ({parts}), by codecarbon {found.codecarbon}{how}"]
    if found.grams is not None:
        lines.append(f"CO2 equivalents: {figure(found.grams)} g (electricity of {found.country})")
    return lines


def _duration(seconds: float) -> str:
    if seconds < LONG:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def versions(record: RunRecord) -> str:
    """Return the versions of all that computed the result."""
    listed = {"hf_ft": record.hf_ft, "Python": record.machine.python, **record.versions}
    return ", ".join(f"{name} {code(version)}" for name, version in listed.items())
