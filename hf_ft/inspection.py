"""What a model consists of and what a method would do to it, without training: `hf-ft inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from hf_ft.errors import UserError, choose
from hf_ft.methods import plan_method, plan_stages
from hf_ft.models import depth_groups, find_config, silent_loading, supports_task
from hf_ft.reports import draw_groups, text_table
from hf_ft.settings import read_stages
from hf_ft.tasks import get_task, task_names


def inspect_model(
    name: str,
    task: str | None,
    method: str,
    as_json: bool,
    plan: dict[str, Any] | None = None,
    picture: Path | None = None,
) -> str:
    """The table of depth groups of a model with the settings of a method or a plan, as text or JSON.

    With `picture` it is also drawn there (PNG or SVG), as the last stage leaves it.

    Raises:
        UserError: no such model, or a method that it cannot take.
    """
    found = _describe(_load_bare(name, task), method, plan)
    stages = list(found["groups"][0]["stages"])
    if picture is not None:
        title = f"{found['class']}, {found['parameters']:,} parameters, {found['method']}: {stages[-1]}"
        draw_groups(title, found["groups"], stages[-1], picture)
    if as_json:
        return json.dumps(found, indent=1)
    header = ["depth group", "modules", "parameters", *(f"{found['method']}: {stage}" for stage in stages)]
    table = [
        [group["name"], _modules(group["modules"]), f"{group['parameters']:,}", *group["stages"].values()]
        for group in found["groups"]
    ]
    shape = " x ".join(str(size) for size in found["head_reads"])
    lines = [f"{found['class']}: {found['parameters']:,} parameters; the head reads {shape}", ""]
    return "\n".join([*lines, text_table(header, table), *found["shared"]])


def _describe(model: PreTrainedModel, method: str, plan: dict[str, Any] | None) -> dict[str, Any]:
    """What `inspect` says, as plain values."""
    groups = depth_groups(model)
    if plan is None:
        stages = plan_method(method, groups, 1, 1.0).stages
    else:
        method, stages = "plan", plan_stages("plan", read_stages(plan, "text"), groups, 1, 1.0).stages
    rows = [
        {
            "name": group.name,
            "role": group.role,
            "parameters": group.size,
            "modules": list(group.modules),
            "stages": {stage.name: stage.settings[i].describe(group) for stage in stages},
        }
        for i, group in enumerate(groups)
    ]
    return {
        "class": type(model).__name__,
        "parameters": sum(group.size for group in groups),
        "head_reads": groups.head_reads,
        "method": method,
        "shared": list(groups.shared),
        "groups": rows,
    }


def _load_bare(name: str, task: str | None) -> PreTrainedModel:
    """Build the model from its configuration alone; weights do not change where its parts are."""
    if task is not None:
        choose(task, task_names(), "task", option="task")
    settings = find_config(name)
    names = [task] if task else [other for other in task_names() if supports_task(settings, get_task(other))]
    if not names or not supports_task(settings, get_task(names[0])):
        wanted = task or ", ".join(task_names())
        raise UserError(f"'{name}' is a model of type {settings.model_type}, which does not do {wanted}.")
    auto = getattr(transformers, get_task(names[0]).auto_class)
    with silent_loading(), torch.random.fork_rng():
        model: PreTrainedModel = auto.from_config(settings)
    return model


def _modules(modules: Sequence[str]) -> str:
    return (modules[0] if modules else "") + (f" +{len(modules) - 1}" if len(modules) > 1 else "")
