"""The config of a model by name: a Hub id, a folder, `builtin` or `timm:ARCHITECTURE`; and what it says of labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig

from hf_ft.environment import BUILTIN, PACKAGED, builtin_name, hub_error, pinned_revision
from hf_ft.errors import UserError, choose, first_line, shorten, split_argument
from hf_ft.modalities import timm_image_settings
from hf_ft.models.packaged_models import packaged_folder
from hf_ft.tasks import Task, get_task, task_names


def resolve_model(model: str) -> str:
    """The folder or Hub id that a model name stands for.

    `builtin` and `builtin:NAME` are folders of hf_ft, or made from an installed package of PyPI.

    Raises:
        UserError: no built-in model of that name, or its package is missing or damaged.
    """
    name = builtin_name(model)
    if name is None:
        return str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else model
    return str(packaged_folder(model, PACKAGED[name]) if name in PACKAGED else BUILTIN / name)


def find_config(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The config of a model by Hub id, folder, `builtin` or `timm:ARCHITECTURE`.

    One from the Hub has the commit that the revision is now as `_commit_hash`.

    Raises:
        UserError: no such model or revision, no access to it, or no connection.
    """
    kind, architecture = split_argument(name)
    if kind == "timm" and architecture:
        return _timm_config(architecture)
    folder = resolve_model(name)
    path = Path(folder)
    if path.is_file():
        raise UserError(f"The model {name} is a file. Give the folder that holds config.json and the weights.")
    if path.is_dir() and not (path / "config.json").exists():
        there = shorten(sorted(item.name for item in path.iterdir())) or "nothing"
        raise UserError(
            f"The folder {name} holds no model: it has no config.json, only {there}. Give a folder that "
            "save_pretrained wrote."
        )
    commit = None if path.is_dir() else pinned_revision(name, revision)
    try:
        config = AutoConfig.from_pretrained(folder, revision=commit, trust_remote_code=trust_remote_code)
    except Exception as error:  # a broken config raises whatever the code of its model class raises
        if commit and (explained := hub_error(error, name, revision)):
            raise explained from error
        remedy = " Choose a model with a config.json of transformers or timm." if commit else ""
        raise UserError(first_line(f"Cannot load the model '{name}'", error) + remedy) from error
    if commit:
        config._commit_hash = commit
    return config


def _timm_config(architecture: str) -> Any:
    import timm

    choose(architecture, timm.list_models(), "timm architecture", option="model")
    timm_config: Any = transformers.TimmWrapperConfig
    return timm_config(architecture=architecture, pretrained_cfg=timm_image_settings(architecture))


def check_supports_task(model_config: PreTrainedConfig, task: Task, name: str) -> None:
    """Raise unless `transformers` has a version of the model for the task.

    Raises:
        UserError: names the tasks that the model supports.
    """
    if supports_task(model_config, task):
        return
    fitting = [other for other in task_names() if supports_task(model_config, get_task(other))]
    can = f" It supports {', '.join(fitting)}." if fitting else ""
    raise UserError(
        f"'{name}' is a model of type {model_config.model_type}, which does not support {task.name}.{can} "
        f"Choose a model that {task.auto_class} loads."
    )


def supports_task(model_config: PreTrainedConfig, task: Task) -> bool:
    """Whether a model with this config has a version for the task."""
    auto = getattr(transformers, task.auto_class)
    return type(model_config) in auto._model_mapping or task.auto_class in getattr(model_config, "auto_map", {})


def name_outputs(model_config: PreTrainedConfig, labels: Sequence[str], previous: Sequence[str]) -> None:
    """Write the labels into a config, wherever this kind of config holds those of the checkpoint.

    `id2label` is only one place: timm's wrapper reads `label_names`, and a config with code of its own may read any
    other. So every list that equals the `previous` labels is replaced, every dict by label is removed, and the config
    is saved and loaded once to see that the new labels survive.

    Raises:
        UserError: they do not, so that the saved model would answer with other names.
    """
    for name, value in list(vars(model_config).items()):
        if isinstance(value, list | tuple) and list(value) == list(previous):
            setattr(model_config, name, list(labels))
        elif isinstance(value, dict) and len(value) > 1 and list(value) == list(previous):  # timm's label_descriptions
            delattr(model_config, name)
    model_config.id2label = dict(enumerate(labels))
    model_config.label2id = {label: i for i, label in enumerate(labels)}
    found = type(model_config).from_dict(json.loads(model_config.to_json_string())).id2label
    if found != model_config.id2label:
        raise UserError(
            f"The config of a {model_config.model_type} model loses the names of classes: saved and loaded again, it "
            f"has {shorten((found or {}).values(), 3)} in place of {shorten(labels, 3)}. Choose another model."
        )
