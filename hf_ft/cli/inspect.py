"""Show a model's depth groups, what its head reads, and what a method trains.

Builds the model from its config alone: no weights are loaded, nothing is trained.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, choose

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_ft.settings import Parser

EXAMPLE = "hf-ft inspect google/vit-base-patch16-224 --method last_n:4"
PICTURES = (".png", ".svg")


def add_arguments(parser: Parser) -> None:
    """The model, the method, and the form of the answer."""
    parser.add_argument("model", metavar="MODEL", help="Hub id, folder, builtin or timm:ARCHITECTURE")
    parser.add_argument("--task", help="task (default: the first one that the model supports)")
    parser.add_argument("--method", default="head", help="method to show")
    parser.add_argument("--plan", metavar="FILE.yaml", help="your own stages to show instead")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--picture", metavar="FILE", help="draw the groups to FILE: .png or .svg")
    output.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(options: Namespace) -> None:
    """Check the options, then print and draw the table of depth groups."""
    from hf_ft.environment import builtin_name
    from hf_ft.methods import MethodSpec
    from hf_ft.settings import check_path, read_yaml

    MethodSpec.parse(options.method)
    plan = read_yaml(options.plan, "plan", "`stages:` and a list") if options.plan else None
    if builtin_name(options.model) is None and not options.model.startswith("timm:"):
        check_path(options.model, "model")
    picture = Path(options.picture).expanduser() if options.picture else None
    if picture is not None:
        _check_picture(picture, options.model, options.overwrite)
    found = describe(_load_bare(options.model, options.task), options.method, plan)
    if picture is not None:
        from hf_ft.reports import draw_groups

        last = list(found["groups"][0]["stages"])[-1]
        title = f"{found['class']}, {found['parameters']:,} parameters, {found['method']}: {last}"
        draw_groups(title, found["groups"], last, picture)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        _print_groups(found)


def _check_picture(picture: Path, model: str, overwrite: bool) -> None:
    from hf_ft.settings import check_path, not_made
    from hf_ft.storage import check_new_file

    if picture.suffix not in PICTURES:
        raise UserError(f"--picture {picture} has no known format. Use a file name that ends in .png or .svg.")
    check_path(str(picture.absolute().parent), "folder for the picture")
    if why := "" if picture.is_file() else not_made(picture.absolute()):
        raise UserError(f"--picture {picture} cannot be written: {why}. Choose another file.")
    check_new_file(picture, "--picture", [model], overwrite)


def describe(model: PreTrainedModel, method: str, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """The depth groups of a model with what each stage of a method or a plan does to them, as plain values.

    Raises:
        UserError: a method that the model does not support.
    """
    from hf_ft.methods import MethodSpec, plan_method
    from hf_ft.models import depth_groups
    from hf_ft.settings import read_stages

    groups = depth_groups(model)
    spec = MethodSpec.parse(method) if plan is None else MethodSpec.from_stages(read_stages(plan, "text"))
    stages = plan_method(spec, groups, 1, 1.0).stages
    rows = [
        {
            "name": group.name,
            "role": group.role,
            "parameters": group.size,
            "modules": list(group.modules),
            "stages": {stage.name: stage[group.name].describe(group) for stage in stages},
        }
        for group in groups
    ]
    return {
        "class": type(model).__name__,
        "parameters": sum(group.size for group in groups),
        "head_reads": groups.head_reads,
        "method": str(spec),
        "shared": list(groups.shared),
        "groups": rows,
    }


def _print_groups(found: dict[str, Any]) -> None:
    from hf_ft.environment import print_table
    from hf_ft.reports import text_table

    stages = found["groups"][0]["stages"]
    header = ["depth group", "modules", "parameters", *(f"{found['method']}: {stage}" for stage in stages)]
    rows = [
        [group["name"], _modules(group["modules"]), f"{group['parameters']:,}", *group["stages"].values()]
        for group in found["groups"]
    ]
    shape = " x ".join(str(size) for size in found["head_reads"])
    print(f"{found['class']}: {found['parameters']:,} parameters; the head reads {shape}\n")
    print_table(header, rows, right=(2,), plain=lambda: text_table(header, rows))
    print("\n".join(found["shared"]), end="\n" if found["shared"] else "")


def _load_bare(name: str, task: str | None) -> PreTrainedModel:
    """Build the model from its config alone; weights do not change where its parts are."""
    import torch
    import transformers

    from hf_ft.models import find_config, silent_loading, supports_task
    from hf_ft.settings import split_revisions
    from hf_ft.tasks import get_task, task_names

    if task is not None:
        choose(task, task_names(), "task", option="task")
    named = split_revisions({"model": name})
    config = find_config(named["model"], named.get("model_revision"))
    names = [task] if task else [other for other in task_names() if supports_task(config, get_task(other))]
    if not names or not supports_task(config, get_task(names[0])):
        wanted = task or ", ".join(task_names())
        raise UserError(f"'{name}' is a model of type {config.model_type}, which does not support {wanted}.")
    auto = getattr(transformers, get_task(names[0]).auto_class)
    with silent_loading(), torch.random.fork_rng():
        model: PreTrainedModel = auto.from_config(config)
    return model


def _modules(modules: Sequence[str]) -> str:
    return (modules[0] if modules else "") + (f" +{len(modules) - 1}" if len(modules) > 1 else "")
