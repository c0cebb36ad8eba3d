"""Plans that users write: YAML without duplicate keys, and the check of every stage in it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_ft.environment import schedulers
from hf_ft.errors import UserError, choose, unknown
from hf_ft.methods import OBJECTIVES, Stage, adapter_rates, check_name, check_selector
from hf_ft.settings.ranges import check_range

MODES = ("frozen", "train", "adapt")
NUMBERS = ("share", "scale", "learning_rate", "head_lr_multiplier", "layer_decay", "warmup")
KEYS = tuple(item.name for item in dataclasses.fields(Stage))


class _Loader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error; PyYAML silently takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping with unique keys; merge keys (`<<: *base`) do not count, and may be overridden."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for tag, key in keys:
            if keys.count((tag, key)) > 1 and not tag.endswith(":merge"):
                line = node.start_mark.line + 1
                raise UserError(
                    f"Duplicate key '{key}' in the mapping that starts on line {line}.",
                    option=str(key),
                    hint="Keep one of them.",
                )
        return node


def read_yaml(path: str, option: str, content: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file.
        option: The option that names it, for errors.
        content: What the file must hold, for errors.

    Raises:
        UserError: No such file, invalid YAML, a duplicate key, or no mapping.
    """
    if not path:
        raise UserError(f"--{option} is empty.", option=option, value=path, hint=f"It takes a YAML file of {content}.")
    try:
        loaded = yaml.load(Path(path).expanduser().read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(
            f"No such settings file: {path}.",
            option=option,
            value=path,
            hint=f"--{option} takes a YAML file of {content}.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}.", option=option, value=path, hint=f"--{option} takes a YAML file."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}", option=option, value=path
        ) from None
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", option=error.option, hint=error.hint) from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path} must hold {content}, not {type(loaded).__name__}.", option=option, value=path)
    return loaded


def read_stages(plan: Mapping[str, Any], modality: str) -> tuple[Stage, ...]:
    """The stages of a plan such as `{stages: [{name: head, trains: head, share: 0.3}, ...]}`.

    A stage with adapters and no rate of its own gets the rate of its PEFT method for the modality (`image` or `text`).

    Raises:
        UserError: unknown keys, wrong values, no stages, or two of one name.
    """
    for key in plan:
        choose(str(key), ["stages"], "key of a plan:")
    listed = plan.get("stages")
    if not isinstance(listed, list) or not listed:
        raise UserError(
            "The plan has no stages.",
            option="plan",
            hint="Write `stages:` and below it lines like `- {name: head, trains: head}`.",
        )
    stages = tuple(_stage(item, number, modality) for number, item in enumerate(listed, start=1))
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"The plan has two stages named '{name}'.",
                option="plan",
                value=name,
                hint="Use a different name for each.",
            )
    return stages


def _stage(item: Any, number: int, modality: str) -> Stage:
    if not isinstance(item, Mapping):
        raise UserError(f"Stage {number} of the plan must be `key: value` pairs, not {item!r}.")
    for key in item:
        if key not in KEYS:
            raise unknown(str(key), KEYS, f"key in stage {number} of the plan:")
    name = str(item.get("name") or f"stage{number}")
    where = f"Stage '{name}'"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(
            f"{where}: a name may have letters, digits, '-', '_' and '.' only, since a folder is named after it."
        )
    if ("trains" in item) == ("groups" in item):
        raise UserError(f"{where} needs either `trains` (such as all, head, last_n:2) or `groups`, not both.")
    if "objective" in item:
        choose(str(item["objective"]), OBJECTIVES, f"objective of stage '{name}':")
    numbers = {key: _number(item[key], key, where) for key in NUMBERS if key in item}
    if "scheduler" in item:
        choose(str(item["scheduler"]), schedulers(), f"scheduler in stage '{name}':")
    if "trains" in item:
        check_selector(str(item["trains"]), f"value of trains in stage '{name}':")
    else:
        _check_groups(item["groups"], where, bool(item.get("peft")))
    rates = _check_adapters(item, where, modality)
    return Stage(**{**rates, **item, **numbers, "name": name})


def _number(value: Any, key: str, where: str) -> float:
    try:  # YAML reads 1e-3 as text
        number = float("no" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {key} must be a number, not {value!r}.") from None
    check_range(key, value if isinstance(value, int) else number, f"{where}: {key}")
    return number


def _check_groups(groups: Any, where: str, peft: bool) -> None:
    if not isinstance(groups, Mapping) or not groups:
        raise UserError(f"{where}: groups must be a mapping such as {{stem: frozen, 'block 0-': train, head: train}}.")
    for name, mode in groups.items():
        choose(str(mode), MODES, f"mode of '{name}' in {where[0].lower() + where[1:]}:")
        if mode == "adapt" and not peft:
            raise UserError(f"{where}: '{name}: adapt' needs a PEFT method. Add for example `peft: lora`.")


def _check_adapters(item: Mapping[str, Any], where: str, modality: str) -> dict[str, float]:
    """The default rates of a stage's adapters, empty where it has no adapters or sets its own rate."""
    if "peft" not in item:
        if "peft_options" in item:
            raise UserError(f"{where}: peft_options needs a PEFT method. Add for example `peft: lora`.")
        return {}
    name = check_name(str(item["peft"]))
    if not isinstance(item.get("peft_options", {}), Mapping):
        raise UserError(f"{where}: peft_options must be `option: value` pairs, not {item['peft_options']!r}.")
    return {} if {"learning_rate", "scale"} & set(item) else adapter_rates(name, modality)
