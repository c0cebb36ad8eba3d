"""A greedy soup of several finished runs, saved as a result like that of one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_ft.environment import silence_libraries, stoppable
from hf_ft.errors import UserError
from hf_ft.records import Origin, read_origin
from hf_ft.results.finetune_result import FinetuneResult
from hf_ft.results.soup_members import Member, read_members, selection
from hf_ft.settings import IN_MEMORY, SECTIONS, ModelSettings, Settings, build, check_output_dir, resume_check
from hf_ft.storage import LOCAL, check_apart, locked

MACHINE = {
    "fp16",
    "bf16",
    "fp16_full_eval",
    "bf16_full_eval",
    "tf32",
    "torch_compile",
    "fsdp",
    "fsdp_config",
    "deepspeed",
}
"""Settings of a run that ask for its machine: its soup is computed in float32, perhaps on another."""
KEPT = ("dataset_revision", "trust_remote_code", "per_device_eval_batch_size")
"""Settings that a run's own record of its start leaves out, since they may change when it is resumed."""


@silence_libraries()
def soup(
    runs: Sequence[str | Path | FinetuneResult],
    *,
    output_dir: str | Path,
    dataset: Any = None,
    overwrite_output_dir: bool = False,
) -> FinetuneResult:
    """Average finished runs of one model on the same data into one plain model: a greedy soup.

    From the best run to the worst on validation, a run joins the average unless the metric falls, so the result is at
    least as good there as the best run (https://arxiv.org/abs/2203.05482). The metric is that by which the first run
    selected its checkpoint. Running statistics of BatchNorm layers that trained are computed anew from the training
    split. The result is scored on validation and test, proved to load back and saved like a run.

    Args:
        runs: Their output folders, or what `finetune` returned; at least two. They share the base model, task, labels,
            data and architecture, and differ in seed or settings.
        output_dir: The folder of the result.
        dataset: Where the data are now, if they have moved; or the data, if they were in memory.
        overwrite_output_dir: Replace a run that is in the output folder.

    Raises:
        UserError: Runs that cannot be averaged, data that are not there any more, or an output folder that is taken.

    Example:
        >>> hf_ft.soup(["seed-0", "seed-1", "seed-2"], output_dir="soup")  # doctest: +SKIP
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("A soup is made in one process.", hint="Start it without accelerate launch or torchrun.")
    if isinstance(runs, str | Path):
        raise UserError("runs= takes a list of folders.", option="runs", value=str(runs), hint="Write [one, other].")
    members = read_members([run.output_dir if isinstance(run, FinetuneResult) else run for run in runs])
    metric, higher = selection(members[0])
    members.sort(key=lambda member: -member.score(metric) if higher else member.score(metric))  # stable
    out = Path(output_dir).expanduser()
    for member in members:
        check_apart(out, member.folder, "run")
    data = None if dataset is None or isinstance(dataset, str | Path) else dataset
    settings = _settings(members[0], out, dataset, overwrite_output_dir)
    with stoppable() as stop, locked(out, "run"):
        check_output_dir(str(out), "", "", overwrite_output_dir, None)  # another process may have ended there since
        from hf_ft.results.greedy_average import average_runs

        return average_runs(members, metric, settings, data, stop)


def _settings(best: Member, out: Path, dataset: Any, overwrite: bool) -> Settings:
    """The settings of a run for its soup, from what it recorded when it started.

    Raises:
        UserError: The record is not there, or the data are not, or the output folder is taken.
    """
    origin = read_origin(best.folder)
    try:
        start = resume_check.read_start(best.folder)
    except UserError:  # it speaks of --resume
        start = None
    if start is None or origin is None:
        raise UserError(
            f"{best.folder} has lost its folder {LOCAL}, which says with which data and settings the run was made.",
            option="OUT",
            value=str(best.folder),
            hint="Pass the folder that the run was written to, not a copy of what was published.",
        )
    record = best.record
    then = start["settings"]
    layer = {name: then[name] for name in start["explicit"] if name in then and name not in MACHINE}
    layer |= {name: record.settings[name] for name in KEPT if name in record.settings}
    if layer.get("method") == "auto":
        layer["method"] = record.method
    model = origin.located(origin.model)
    layer |= {"model": model if Path(model).exists() else record.settings["model"]}
    layer |= {"dataset": _dataset(best, origin, dataset), "output_dir": str(out), "overwrite_output_dir": overwrite}
    sections = [section for section in SECTIONS if section is not ModelSettings]  # the base model may be gone
    return build((f"the run {best.folder}", layer), sections=sections)


def _dataset(best: Member, origin: Origin, dataset: Any) -> str:
    """The setting `dataset`: as the user says, else where the run found it.

    Raises:
        UserError: The data are not there any more, or were in memory.
    """
    if dataset is not None:
        return str(dataset) if isinstance(dataset, str | Path) else IN_MEMORY
    if origin.dataset == IN_MEMORY:
        raise UserError(
            f"The data of the run {best.folder} were in memory.",
            option="dataset",
            hint="Pass them again: hf_ft.soup(..., dataset=...).",
        )
    if best.record.data.hub_id is not None:
        return origin.dataset
    place = origin.located(origin.dataset)
    if not os.path.exists(place):
        raise UserError(
            f"The data of the run {best.folder} are not in {place} any more.",
            option="dataset",
            value=place,
            hint="Say where they are now with --dataset.",
        )
    return place
