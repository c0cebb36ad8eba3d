"""The PEFT methods that merge into a plain model: names and options, and why the others are refused.

The list of methods comes from the installed PEFT, and whether one fits a layer is tried out (in `hf_ft.models`). The
table here holds what cannot be found that way: the reasons. Learning rates are in `defaults`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hf_ft.environment import peft_method_names
from hf_ft.errors import UserError, choose, unknown
from hf_ft.methods.defaults import preset

_VIRTUAL = "adds virtual tokens or cached states to the input, which no plain model has"
REFUSED = {
    "adaption_prompt": _VIRTUAL,
    "cartridge": _VIRTUAL,
    "cpt": _VIRTUAL,
    "multitask_prompt_tuning": _VIRTUAL,
    "p_tuning": _VIRTUAL,
    "prefix_tuning": _VIRTUAL,
    "prompt_tuning": _VIRTUAL,
    "lily": "shares parts between layers in a way that PEFT does not merge",
    "poly": "mixes adapters by a task number that a plain model does not take",
    "shadow": "its correction depends on the input, so no weights equal it",
    "trainable_tokens": "trains rows of the embeddings, which belong to no block; use train:PATTERN for embeddings",
    "xlora": "mixes other trained adapters by the input, so no weights equal it",
}
"""Methods of PEFT that do not merge into plain weights -> why; tests try that each of them indeed does not."""


REWRITES = ("corda", "eva", "loftq", "lora_ga")
"""Initialisations of LoRA that need quantised weights or passes over the data before training."""


def mergeable() -> tuple[str, ...]:
    """The names of PEFT's methods that merge into plain weights."""
    return tuple(name for name in peft_method_names() if name not in REFUSED)


def check_name(name: str) -> str:
    """Return the name of a method of PEFT that merges.

    Raises:
        UserError: Unknown method, or one that does not merge, with the reason.
    """
    if name in REFUSED:
        raise UserError(
            f"peft:{name} cannot end as a plain model: it {REFUSED[name]}.",
            option="method",
            choices=mergeable(),
        )
    return choose(name, mergeable(), "PEFT method", "`hf-ft methods --peft` lists them.", option="method")


OURS = ("modules_to_save", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Options that the depth groups decide."""


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the names and values of options against PEFT's own configuration class; imports PEFT.

    Raises:
        UserError: An unknown option (with the nearest), one that the depth groups decide, or a value that PEFT refuses.
    """
    known = [option for option in _option_names(name) if option not in OURS]
    for option in options:
        if option in OURS:
            raise UserError(
                f"'{option}' of peft:{name} is not supported: the depth groups decide which layers are adapted.",
                option="peft_options",
                value=option,
            )
        if option not in known:
            raise unknown(option, known, f"option of peft:{name}:", option="peft_options")
    if options.get("init_lora_weights") in REWRITES:
        raise UserError(
            f"init_lora_weights '{options['init_lora_weights']}' needs quantised weights or passes over the data "
            "before training.",
            option="peft_options",
            value=options["init_lora_weights"],
            choices=("true", "gaussian", "pissa", "pissa_niter_N", "olora", "orthogonal"),
        )
    configuration(name, options, ["layer"], [], steps=1000)


def _option_names(name: str) -> list[str]:
    general = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"}
    names = [item.name for item in dataclasses.fields(_config_class(name)) if item.init]
    return [option for option in names if option not in general | {"task_type"}]


def _config_class(name: str) -> Any:
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name.upper())]


def configuration(
    name: str, options: Mapping[str, Any], targets: Sequence[str], saved: Sequence[str], steps: int
) -> Any:
    """PEFT's configuration of a method.

    Args:
        name: PEFT method.
        options: Options that replace those of its preset.
        targets: Layers to adapt.
        saved: Modules that train whole, next to the adapters.
        steps: Length of the training, for methods that allocate a budget of ranks (AdaLoRA).

    Raises:
        UserError: a value that PEFT refuses.
    """
    chosen = {**preset(name).options, **options}
    if "total_step" in _option_names(name):
        chosen = {"total_step": steps, "tinit": steps // 10, "tfinal": 3 * steps // 10, **chosen}
    try:
        return _config_class(name)(**chosen, target_modules=list(targets), modules_to_save=list(saved) or None)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"peft:{name} does not support these options: {' '.join(str(error).split())}", option="peft_options"
        ) from error
