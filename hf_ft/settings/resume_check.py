"""`--resume`: the settings, data and model that a run was started with, which must be the same when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, shorten
from hf_ft.storage import Damaged, opened, output_folder, sealed

if TYPE_CHECKING:
    from hf_ft.settings.schema import Config

START = ".local/start.json"
"""In the output folder; written before anything is trained."""

ELSEWHERE = frozenset(
    {
        *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "do_train", "do_eval", "do_predict"),
        *("model", "model_revision", "trust_remote_code", "allow_pickle", "dataset", "dataset_revision"),
        *("cache_dir", "cache_max_gb", "load_back_proof", "card_examples", "energy"),
        *("save_total_limit", "save_on_each_node"),
        *("report_to", "run_name", "project", "disable_tqdm", "log_level", "log_level_replica", "log_on_each_node"),
        *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "skip_memory_metrics", "ddp_timeout"),
        *("logging_dir", "logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
        *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("dataloader_persistent_workers", "dataloader_multiprocessing_context", "include_num_input_tokens_seen"),
        *("push_to_hub", "hub_model_id", "hub_token", "hub_strategy", "hub_private_repo", "hub_always_push"),
        *("per_device_eval_batch_size", "eval_accumulation_steps", "torch_empty_cache_steps"),  # memory may run out
        *("hub_revision", "local_rank", "restore_callback_states_from_checkpoint", "use_cache"),
    }
)
"""Settings that do not change the result, or are paths: model and data are compared by their content instead."""

REMEDY = "choose another --output_dir, or start over with --overwrite_output_dir"


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same when a run is resumed, as JSON reads them back."""
    return dict(
        json.loads(
            json.dumps({name: settings[name] for name in sorted(settings) if name not in ELSEWHERE}, default=str)
        )
    )


def check_settings(out: Path, config: Config) -> None:
    """Check that a resumed run has the settings it was started with; passes where none was started.

    Raises:
        UserError: A setting differs, with both values; or the folder has checkpoints without a record of them.
    """
    start = read_start(out)
    if start is None:
        return
    before, now = start["settings"], config.must_match
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    said = [
        name for name in names if name in config.explicit or name in start["explicit"]
    ]  # the others follow from these
    if names:
        listed = shorten((f"{name} was {_spoken(before, name)}, now {_spoken(now, name)}" for name in said or names), 8)
        raise UserError(
            f"--resume: the run in {out} was started with other settings: {listed}.",
            option=(said or names)[0],
            hint=f"Use the same settings, {REMEDY}.",
        )


def check_content(out: Path, facts: Mapping[str, Any]) -> None:
    """Check that a resumed run has the data, model, number of processes and precision it was started with.

    Raises:
        UserError: One of them differs.
    """
    start = read_start(out) or {}
    _check_extensions(out, start.get("extensions") or {}, facts.get("extensions") or {})
    named = {"data": "data", "model": "weights of the model", "processes": "number of processes"}
    for name, what in {**named, "precision": "precision"}.items():
        then, now = start.get(name), facts.get(name)
        if then != now:
            shown = [str(value)[:16] for value in (then, now)]
            raise UserError(
                f"--resume: the run in {out} was started with other {what}: {shown[0]} then, {shown[1]} now. Use the "
                f"same, {REMEDY}."
                if name != "processes"
                else f"--resume: the {what} of the run in {out} was {then}, now {now}. Start as many, {REMEDY}."
            )


def _check_extensions(out: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Check that a resumed run has the same callbacks, loss, collator, transform, metric and task of the caller."""
    names = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    if names:
        listed = shorten(f"{name} was {then.get(name, 'not set')}, now {now.get(name, 'not set')}" for name in names)
        raise UserError(
            f"--resume: the run in {out} was started with other code: {listed}. Pass the same, {REMEDY}.",
            option=names[0],
        )


def read_start(out: Path) -> dict[str, Any] | None:
    """What a run was started with; None where none was started.

    Raises:
        UserError: The record of it is missing or damaged.
    """
    try:
        return opened((out / START).read_bytes(), START)
    except FileNotFoundError:
        if not _stages(out):
            return None
        what = "is missing"
    except (OSError, Damaged):
        what = "is damaged"
    raise UserError(
        f"--resume: {out / START} {what}, so the run cannot be identified.",
        option="resume_from_checkpoint",
        hint=f"To continue, {REMEDY}.",
    )


def write_start(out: Path, config: Config, facts: Mapping[str, Any]) -> None:
    """Record what a run is started with, atomically."""
    about = {"settings": config.must_match, "explicit": sorted(config.explicit - ELSEWHERE), **facts}
    output_folder.write(out, START, sealed(about).decode())


def finished(out: Path) -> bool:
    """Whether a folder holds a run that has nothing left to do."""
    return (out / "run.json").is_file() and not _stages(out)


def _stages(out: Path) -> bool:
    """Whether there are folders of stages; a user's own folder `checkpoints` has none."""
    return any((out / "checkpoints").glob("[0-9]*-*"))


def _spoken(settings: Mapping[str, Any], name: str) -> str:
    return f"'{settings[name]}'" if name in settings and settings[name] is not None else "not set"
