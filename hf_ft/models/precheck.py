"""Checks of a run against the model's config alone, before any data are read."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers
from transformers import TrainingArguments
from transformers.initialization import no_init_weights

from hf_ft.errors import UserError
from hf_ft.methods import MethodSpec, plan_method
from hf_ft.models.drop_path import check_drop_path
from hf_ft.models.grouping import DepthGroups, depth_groups
from hf_ft.models.image_size import check_image_size
from hf_ft.models.load import from_config
from hf_ft.models.loading_output import silent_loading
from hf_ft.models.model_config import check_supports_task, find_config, name_outputs
from hf_ft.settings import Config
from hf_ft.tasks import get_task


def check_model(
    config: Config,
    args: TrainingArguments,
    methods: Iterable[MethodSpec] = (),
    check: Callable[[DepthGroups], object] | None = None,
) -> None:
    """Check that the model fits the task, and that its depth groups support the method.

    Args:
        config: The settings of the run.
        args: The arguments of `Trainer`.
        methods: Methods to check in place of `config.method`.
        check: A further check of the depth groups, which raises when it fails.

    Raises:
        UserError: The error that `load_model` or `make_plan` would raise only after reading the data.
    """
    found = find_config(config.model, config.model_revision, config.trust_remote_code)
    check_supports_task(found, get_task(config.task), config.model)
    auto = getattr(transformers, get_task(config.task).auto_class)
    known = auto._model_mapping.get(type(found), None)
    if args.gradient_checkpointing and not getattr(known, "supports_gradient_checkpointing", True):
        raise UserError(f"--gradient_checkpointing: {known.__name__} does not support it. Leave it out.")
    if config.drop_path:
        check_drop_path(
            _labelled(found), functools.partial(auto.from_config, trust_remote_code=config.trust_remote_code)
        )
    if config.image_size:
        check_image_size(lambda one: from_config(auto, config, one), _labelled(found), config.image_size, config.model)
    asking = [spec for spec in methods or [config.method] if spec.depends_on_model]
    if not (asking or check):
        return
    groups = bare_groups(config, found)
    for spec in asking:
        plan_method(spec, groups, 1, 1.0, new_head=not config.keep_head)
    if check:
        check(groups)


def bare_groups(config: Config, found: Any) -> DepthGroups:
    """Return the depth groups of a model built from its config, without initialising its weights."""
    auto = getattr(transformers, get_task(config.task).auto_class)
    found = _labelled(found)
    with silent_loading(), torch.random.fork_rng(), no_init_weights():
        return depth_groups(from_config(auto, config, found))


def _labelled(found: Any) -> Any:
    """Return a config with labels: a feature extractor of timm gets its classes from the data."""
    if not found.id2label:
        found = copy.deepcopy(found)
        name_outputs(found, ("0", "1"), ())
    return found
