"""The runs of a soup, read back and checked to be averages of one thing; without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError, shorten
from hf_ft.records import RunRecord, read_record
from hf_ft.settings import check_path
from hf_ft.storage import read_json
from hf_ft.tasks import get_task

UNIMPORTANT = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}
"""Entries of `config.json` that may differ between runs whose weights are averaged."""
LOSSES = ("log_loss", "mse")
"""What stands for the loss among the metrics of a finished run, which does not score its loss of training."""
ENCODING = ("max_length", "long_text")
"""Settings of how inputs are read, by which weights of one config may still be those of different functions."""


@dataclass(frozen=True)
class Member:
    """A finished run that may join a soup.

    Args:
        name: The name of the folder, with that of the folder around it where others are called alike.
        shapes: Name -> shape of the tensors in its files of weights.
        model_config: The content of its `config.json`.
    """

    folder: Path
    name: str
    record: RunRecord
    shapes: dict[str, tuple[int, ...]]
    model_config: dict[str, Any]

    def score(self, metric: str) -> float:
        """Return the score on validation."""
        return self.record.metrics["validation"][metric].value

    @property
    def seconds(self) -> float:
        """How long it trained."""
        return sum(stage.seconds for stage in self.record.stages)

    @property
    def frozen(self) -> list[list[bool]]:
        """For each stage, which depth groups were frozen."""
        return [[setting.mode == "frozen" for setting in stage.settings] for stage in self.record.plan.stages]


def read_members(folders: Sequence[str | Path]) -> list[Member]:
    """Read finished runs, and check that an average of their weights can mean something.

    Raises:
        UserError: Fewer than two, one twice, a folder that is no finished run or has no whole model, or runs that
            differ in what a soup must share.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    if len(paths) < 2:
        raise UserError(
            f"A soup averages at least two runs, and {len(paths) or 'none'} {'is' if paths else 'are'} named.",
            option="OUT",
            hint="Pass the --output_dir of several runs that differ in their seed or settings.",
        )
    for number, path in enumerate(paths):
        check_path(str(path.absolute()), "result folder")
        if path.resolve() in (other.resolve() for other in paths[:number]):
            raise UserError(f"The run {path} is named twice.", option="OUT", value=str(path), hint="Name it once.")
    members = [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    for member in members[1:]:
        _check_alike(members[0], member)
    return members


def selection(first: Member) -> tuple[str, bool]:
    """Return the metric that a soup is selected by, and whether a higher value is better.

    It is that by which the run selected its checkpoint; for the loss of training, the loss among the metrics if the
    task has one there, else the metric that reports show.

    Raises:
        UserError: The metric was the caller's own.
    """
    record = first.record
    target = get_task(record.task).target(record.data.problem_type)
    known, metric = record.metrics["validation"], record.selection_metric
    if metric == "loss":
        metric = next((name for name in LOSSES if name in known and name in target.metrics), record.metric)
    if metric not in target.metrics or metric not in known:
        raise UserError(
            f"The run {first.folder} selected its checkpoint by '{record.selection_metric}', a metric of its caller.",
            option="metric_for_best_model",
            value=record.selection_metric,
            hint="Name another run first: the first decides the metric.",
        )
    return metric, target.metrics[metric]


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names that tell folders apart."""
    whole = [path.resolve() for path in paths]
    for length in (1, 2):
        names = ["/".join(path.parts[-length:]) for path in whole]
        if len({*names}) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(whole, start=1)]


def _read(folder: Path, name: str) -> Member:
    if (folder / "adapter_config.json").is_file() and not (folder / RunRecord.FILE).is_file():
        raise _no_model(folder, "is an adapter of PEFT")
    record = read_record(folder, RunRecord)
    if record.soup is not None:
        raise UserError(
            f"{folder} is a soup itself, whose members would not count alike.",
            option="OUT",
            value=str(folder),
            hint="Name the runs that it was made of: they stand in its run.json.",
        )
    if record.proofs.only_head_new is None:
        raise UserError(
            f"The run {folder} started from random weights, and weights of such runs do not average.",
            option="OUT",
            value=str(folder),
            hint="Average runs of one pretrained model.",
        )
    if "task" in record.extensions:
        raise UserError(
            f"The run {folder} had a task of its caller's, so that its inputs cannot be read again as it did.",
            option="OUT",
            value=str(folder),
            hint="Leave it out.",
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        has_adapter = (folder / "adapter").is_dir()
        raise _no_model(folder, "has an adapter alone" if has_adapter else "has lost its model.safetensors")
    try:
        shapes = {key: shape for file in files for key, shape in _shapes(file).items()}
        return Member(folder, name, record, shapes, read_json(folder / "config.json"))
    except Exception as error:  # safetensors has an error of its own for damaged files
        raise _no_model(folder, f"cannot be read ({str(error).rstrip('.')})") from error


def _no_model(folder: Path, why: str) -> UserError:
    problem = f"{folder} {why}: a soup averages whole models."
    return UserError(problem, option="OUT", value=str(folder), hint="Pass the --output_dir of finished runs.")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file, from its header."""
    from safetensors import safe_open

    with safe_open(file, "np") as found:
        return {name: tuple(found.get_slice(name).get_shape()) for name in found.keys()}  # noqa: SIM118


def _check_alike(first: Member, other: Member) -> None:
    """Check that two runs share what a soup needs.

    Raises:
        UserError: They do not; says in what they differ.
    """
    shared: list[tuple[str, Callable[[Member], Any], Callable[[Member], str]]] = [
        ("task", lambda one: one.record.task, lambda one: one.record.task),
        ("base model", _base, _base_name),
        ("labels", _labels, lambda one: f"{one.record.data.problem_type} of {shorten(one.record.data.labels)}"),
        ("architecture", _architecture, lambda one: one.record.model.class_name),
        ("data", lambda one: one.record.data.fingerprint, _data_name),
        *((name, _setting(name), _shown(name)) for name in ENCODING),
    ]
    for what, value, shown in shared:
        if value(first) == value(other):
            continue
        detail = f"{shown(first)}, and {shown(other)}"
        hint = "Leave one of them out."
        if what == "architecture":
            detail = _difference(first, other)
        elif what == "data":
            hint = _hint_of_data(first, other) or hint
        raise UserError(
            f"The runs {first.name} and {other.name} cannot be averaged, since they differ in their {what}: {detail}.",
            option=what,
            value=str(other.folder),
            hint=hint,
        )


def _base(member: Member) -> Any:
    return member.record.model.commit, member.record.model.digest


def _base_name(member: Member) -> str:
    model = member.record.model
    return f"{model.name} ({(model.commit or model.digest or 'unknown')[:12]})"


def _labels(member: Member) -> Any:
    return member.record.data.labels, member.record.data.problem_type


def _data_name(member: Member) -> str:
    return f"{member.record.data.name} ({member.record.data.fingerprint[:12]})"


def _hint_of_data(first: Member, other: Member) -> str:
    """What helps where the seed decided which examples are held out or sampled."""
    seeds = first.record.settings["seed"] != other.record.settings["seed"]
    if not seeds or first.record.data.sizes != other.record.data.sizes:
        return ""
    return (
        "The --seed decides which examples are held out or sampled: give the data a validation split, or vary "
        "--data_seed and keep --seed."
    )


def _setting(name: str) -> Callable[[Member], Any]:
    return lambda member: member.record.settings.get(name)


def _shown(name: str) -> Callable[[Member], str]:
    return lambda member: str(member.record.settings.get(name, "not set"))


def _architecture(member: Member) -> Any:
    config = {name: value for name, value in member.model_config.items() if name not in UNIMPORTANT}
    return member.record.model.class_name, config, member.shapes


def _difference(first: Member, other: Member) -> str:
    """The first thing in which two architectures differ."""
    (_, one, shapes), (_, another, others) = _architecture(first), _architecture(other)
    if names := [name for name in sorted({*one, *another}) if one.get(name) != another.get(name)]:
        return f"{names[0]} is {one.get(names[0])}, and {another.get(names[0])}"
    if names := [name for name in sorted({*shapes, *others}) if shapes.get(name) != others.get(name)]:
        return f"{names[0]} has the shape {shapes.get(names[0])}, and {others.get(names[0])}"
    return f"{first.record.model.class_name}, and {other.record.model.class_name}"
