"""The start of a run: from scratch, or from where an earlier process stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hf_ft.environment import print_on_main
from hf_ft.errors import UserError
from hf_ft.feature_cache import identities_of, precision_of
from hf_ft.settings import resume_check
from hf_ft.storage import output_folder
from hf_ft.tasks import get_task
from hf_ft.training import checkpoints
from hf_ft.training.run import Run, StageResult


def begin(run: Run) -> None:
    """Resume the run in the output folder if `--resume` is set and there is one, else record the start of a new one.

    Raises:
        UserError: it began with other data or another model, or a result stands there that is not to be replaced.
    """
    out, args, facts = run.output_dir, run.args, {"data": run.splits.fingerprint, "processes": run.args.world_size}
    facts |= {"model": run.loaded.commit or run.loaded.digest, "extensions": _identities(run)}
    facts |= {"precision": precision_of(run.args)}  # another machine may have another default
    run.resumed = bool(args.resume_from_checkpoint) and resume_check.read_start(out) is not None
    if run.resumed:
        resume_check.check_settings(out, run.config)
        resume_check.check_content(out, facts)
    elif args.resume_from_checkpoint:
        print_on_main(f"resume   there is no run in {out} to resume: a new one starts", args)
    if args.world_size > 1:
        torch.distributed.barrier()  # the others must have looked before the first process writes
    if args.should_save and not run.resumed:
        _check_free(run)
        clear(out)
        with checkpoints.writing(out, "The run"):
            resume_check.write_start(out, run.config, facts)


def _identities(run: Run) -> dict[str, str]:
    """The names and digests of the caller's own task and extensions."""
    own = run.task is not get_task(run.config.task)
    task = identities_of({"task": [run.task.encode, run.task.collator]}) if own else {}
    return task | run.extensions.identities()


def _check_free(run: Run) -> None:
    """Refuse to clear an unchecked folder: environment variables may look like those of a launcher without being so.

    Raises:
        UserError: it holds something, and is neither held by this process nor to be replaced.
    """
    out, checked = run.output_dir, run.config.overwrite_output_dir or output_folder.is_held(run.output_dir)
    if run.args.world_size == 1 and not checked and output_folder.state_of(out) != "nothing":
        raise UserError(
            f"The output folder {out} already holds something, and variables of the environment (such as RANK and "
            "WORLD_SIZE) say that this is not the first process of the run. Unset them, or choose another folder."
        )


def stage_folder(run: Run, number: int) -> Path:
    """The folder with the checkpoints of a stage, counted from 1."""
    return run.output_dir / checkpoints.FOLDER / f"{number}-{run.plan.stages[number - 1].name}"


def of_main(run: Run, find: Callable[[list[str]], Any]) -> Any:
    """What the main process finds on disk, for all processes: it also removes damaged files and prints notes."""
    notes: list[str] = []
    found = [find(notes) if run.args.should_save else None]
    for note in notes:
        print_on_main(f"resume   {note}", run.args)
    return broadcast_object_list(found)[0]


def ended_before(run: Run, folder: Path) -> bool:
    """Whether an earlier process has ended a stage; if so, its result and weights are restored."""
    names = {one.name for one in fields(StageResult)}
    found = None
    if run.resumed:
        found = of_main(run, lambda notes: checkpoints.result_of(folder, run.output_dir, names, notes))
    if found is not None:
        run.stages.append(StageResult(**found))
        restore(run.model, run.output_dir / str(run.stages[-1].checkpoint))
    return found is not None


def restore(model: PreTrainedModel, checkpoint: Path) -> None:
    """Load the weights of a checkpoint folder into a model."""
    weights: dict[str, torch.Tensor] = {}
    for part in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(part)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise RuntimeError(f"{checkpoint} does not fit the model: {[*missing, *unexpected][:3]}")


def clear(out: Path) -> None:
    """Remove the files of a run from its output folder, and nothing else."""
    checkpoints.remove(out)
    output_folder.remove(out)


def discard_model(out: Path) -> None:
    """Remove a run with its folder, but nothing else in it."""
    if output_folder.kind_of(out) == "run":
        clear(out)
        output_folder.discard(out)
