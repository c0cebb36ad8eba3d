"""The settings of a comparison: methods, sizes and seeds, parsed and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError
from hf_ft.methods import MethodSpec, join_patterns
from hf_ft.settings import (
    OF_ADAPTERS,
    OF_AVERAGES,
    SECTIONS,
    OutputSettings,
    adapter_options,
    build,
    check_place,
    check_range,
    normalise,
)
from hf_ft.storage import check_ours

Layer = tuple[str, Mapping[str, Any]]

SEEDS = 3
MOST_SEEDS = 1000
DEPTHS = "depths"
"""Among methods: `head`, `last_n` and `full` at every depth, or at nine of them."""
OWN = ("methods", "seeds", "examples_per_class")
"""Settings of a comparison that a run has not, or has in another form."""
SECTIONS_OF_TRIALS = tuple(section for section in SECTIONS if section is not OutputSettings)
"""What is checked before any trial has a folder: all settings but those of one."""
OF_FOLDER = ("overwrite_output_dir", "resume_from_checkpoint")
"""Settings that say what becomes of an earlier result, not what a training does."""


@dataclass(frozen=True)
class ComparisonSettings:
    """What to compare, and with which settings otherwise.

    `methods` are empty where those that fit the model are meant, and `depths` among them stands for one method at each
    depth; a size of None is all of train. `layers` are those of `config.build`, without a method. With `overwrite`,
    what the folder holds is replaced.
    """

    methods: list[str]
    seeds: list[int]
    sizes: list[int | None]
    layers: list[Layer]
    folder: Path
    overwrite: bool = False


def read_comparison_settings(layers: Sequence[Layer]) -> ComparisonSettings:
    """Take the settings of a comparison out of layers of settings, and check them and all others.

    Raises:
        UserError: a mistake in any setting, or nothing to compare.
    """
    own, rest = take_own(layers, OWN, "in a comparison", "Use --methods, with commas.")
    methods, seeds = parse_methods(own.get("methods")), parse_seeds(own.get("seeds", SEEDS))
    sizes = parse_sizes(own.get("examples_per_class"))
    rest, folder, overwrite = parse_output_folder(rest, "comparison")
    joins = not overwrite and (folder / "compare.json").exists()
    if len(methods) * len(sizes) == 1 and methods != [DEPTHS] and not joins:
        raise UserError(
            f"One method ({methods[0]}) at one size is nothing to compare. Give at least two: --methods head,full."
        )
    named = [name for name in methods if name != DEPTHS]
    probes = [applicable_layers(rest, name) for name in named] or [applicable_layers(rest, "lora")]
    if named and not joins and not any(map(_adapter_options, probes)) and _adapter_options(rest):
        probes[0] = rest  # no method takes them: checking the first reports it
    for name, probe in zip(named or ["head" if methods else "lora"], probes, strict=True):
        build(*probe, ("the comparison", {"method": name}), sections=SECTIONS_OF_TRIALS)
    return ComparisonSettings(methods, seeds, sizes, rest, folder, overwrite)


def applicable_layers(layers: Sequence[Layer], method: str) -> list[Layer]:
    """Layers without options of adapters and averages that a method does not take: they are meant for other methods."""
    spec = MethodSpec.parse(method)
    others = OF_ADAPTERS - adapter_options(spec) | (OF_AVERAGES if spec.name == "head" else frozenset())
    return [(source, {name: value for name, value in layer.items() if name not in others}) for source, layer in layers]


def _adapter_options(layers: Sequence[Layer]) -> set[str]:
    return {name for _, layer in layers for name, value in layer.items() if name in OF_ADAPTERS and value is not None}


def take_own(
    layers: Sequence[Layer], names: Sequence[str], where: str, hint: str
) -> tuple[dict[str, Any], list[Layer]]:
    """Return the settings that only an experiment has, and the layers without them.

    Args:
        layers: Layers of settings.
        names: The names of these settings.
        where: The experiment in the error, such as "in a comparison".
        hint: What to use in place of a method or plan.

    Raises:
        UserError: A method or plan, which the experiment sets itself, or a calibration.
    """
    own: dict[str, Any] = {}
    rest: list[Layer] = []
    for source, layer in layers:
        own |= {name: layer[name] for name in names if layer.get(name) is not None}
        others = {name: value for name, value in layer.items() if name not in names}
        if wrong := [name for name in ("method", "plan") if others.get(name) is not None]:
            raise UserError(f"`{wrong[0]}` in {source} is not supported {where}.", option=wrong[0], hint=hint)
        if others.get("calibrate"):
            raise UserError(
                f"`calibrate` in {source} is not supported here: trials are compared as they were trained.",
                option="calibrate",
                hint="Add it to the training with the method that you choose.",
            )
        rest.append((source, others))
    return own, rest


def parse_names(value: Any) -> list[str]:
    """Return names from a list, or from text with commas; each once."""
    words = value.split(",") if isinstance(value, str) else list(value or ())
    return list(dict.fromkeys(str(word).strip() for word in words if str(word).strip()))


def parse_methods(value: Any) -> list[str]:
    """Return names of methods; in text, patterns after `train:PATTERN` belong to it, although commas divide both."""
    words = parse_names(value)
    found = join_patterns(words) if isinstance(value, str) else words
    if value is not None and not found:
        raise UserError("--methods is empty. Give names with commas between them, or leave it out for the usual ones.")
    return found


def parse_integers(value: Any, option: str, least: int) -> list[int]:
    """Return integers from a number, a list, or text with commas; each once, in order."""
    words = [value] if isinstance(value, int) else parse_names(value)
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        raise UserError(f"--{option} takes whole numbers with commas between them, not '{value}'.") from None
    if not numbers or min(numbers) < least:
        raise UserError(f"--{option} takes whole numbers from {least} on, not '{value}'.")
    return list(dict.fromkeys(numbers))


def parse_seeds(value: Any) -> list[int]:
    """Return seeds from their number or a list: `3` is seeds 0, 1, 2; `3,` and `[3]` are seed 3."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int):
        count = parse_integers(value, "seeds", 1)[0]
        if count > MOST_SEEDS:
            raise UserError(f"--seeds {count} is more than {MOST_SEEDS:,} seeds. One of them alone is --seeds {count},")
        return list(range(count))
    seeds = parse_integers(value, "seeds", 0)
    check_range("seed", max(seeds), "--seeds: a seed")
    return seeds


def parse_sizes(value: Any) -> list[int | None]:
    """Return training examples per class, smallest first; None is the whole training split."""
    return [None] if value is None else [*sorted(parse_integers(value, "examples_per_class", 1))]


def parse_output_folder(layers: Sequence[Layer], kind: str) -> tuple[list[Layer], Path, bool]:
    """The layers in plain spelling, the output folder that they name, and whether what it holds is to be replaced.

    A folder with a result of this `kind` is gone on with without being asked to; any other has to be empty.

    Raises:
        UserError: It is missing, or holds something else.
    """
    plain = [(source, normalise(layer, source)) for source, layer in layers]
    explicit = {name: value for _, layer in plain for name, value in layer.items() if value is not None}
    rest: list[Layer] = [
        (source, {name: layer[name] for name in layer if name not in OF_FOLDER}) for source, layer in plain
    ]
    if not explicit.get("output_dir"):
        raise UserError("`--output_dir` is missing.", option="output_dir", hint="Set it to a folder for the result.")
    folder = Path(explicit["output_dir"]).expanduser()
    check_place(str(folder), explicit.get("model", ""), explicit.get("dataset", ""))
    return rest, folder, check_ours(folder, kind) == kind and bool(explicit.get("overwrite_output_dir"))
