"""What a comparison is asked to do: methods times sizes times seeds, read and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ft.config import Config, build, check_output_dir, normalise
from hf_ft.lookup import UserError

Layer = tuple[str, Mapping[str, Any]]

SEEDS = 3
DEPTHS = "depths"
"""Among methods: `head`, `last_n` and `full` at every depth, or at nine of them."""
OWN = ("methods", "seeds", "examples_per_class")
"""Settings of a comparison that a run has not, or has in another form."""


@dataclass(frozen=True)
class Grid:
    """What to compare, and with which settings otherwise.

    `methods` are empty where those that fit the model are meant, and `depths` among them stands for one method at each
    depth; a size of None is all of train. `layers` are those of
    `config.build`, without a method.
    """

    methods: list[str]
    seeds: list[int]
    sizes: list[int | None]
    layers: list[Layer]
    folder: Path


def read_grid(layers: Sequence[Layer], holds: str = "compare.json") -> Grid:
    """Take the settings of a comparison out of layers of settings, and check them and all others.

    `holds` is the file by which an output folder is known as one to go on with.

    Raises:
        UserError: a mistake in any setting, or nothing to compare.
    """
    own, rest = _take_own(layers)
    methods, seeds = names_of(own.get("methods")), seeds_of(own.get("seeds", SEEDS))
    sizes = sizes_of(own.get("examples_per_class"))
    if len(methods) * len(sizes) == 1 and methods != [DEPTHS]:
        raise UserError(
            f"One method ({methods[0]}) at one size is nothing to compare. Give at least two: --methods head,full."
        )
    folder = output_folder(rest, holds)
    for method in [name for name in methods if name != DEPTHS] or ["head"]:
        build(*rest, ("the comparison", {"method": method, "output_dir": str(folder / "arms" / "data")}))
    return Grid(methods, seeds, sizes, rest, folder)


def _take_own(layers: Sequence[Layer]) -> tuple[dict[str, Any], list[Layer]]:
    """The settings that only a comparison has, and the layers without them.

    Raises:
        UserError: a method or plan is given, which is what is compared.
    """
    own: dict[str, Any] = {}
    rest: list[Layer] = []
    for source, layer in layers:
        own |= {name: layer[name] for name in OWN if layer.get(name) is not None}
        kept = {name: value for name, value in layer.items() if name not in OWN}
        if wrong := [name for name in ("method", "plan") if kept.get(name) is not None]:
            raise UserError(f"'{wrong[0]}' in {source} is no option of a comparison. Give --methods, with commas.")
        rest.append((source, kept))
    return own, rest


def names_of(value: Any) -> list[str]:
    """Names from a list, or from text with commas; each once."""
    words = value.split(",") if isinstance(value, str) else list(value or ())
    return list(dict.fromkeys(str(word).strip() for word in words if str(word).strip()))


def whole_numbers(value: Any, option: str, least: int) -> list[int]:
    """Whole numbers from a number, a list, or text with commas; each once, in the order given."""
    words = [value] if isinstance(value, int) else names_of(value)
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        raise UserError(f"--{option} takes whole numbers with commas between them, not '{value}'.") from None
    if not numbers or min(numbers) < least:
        raise UserError(f"--{option} takes whole numbers from {least} on, not '{value}'.")
    return list(dict.fromkeys(numbers))


def seeds_of(value: Any) -> list[int]:
    """Seeds from how many there are to be, or from a list of them: `3` is 0, 1, 2, and `3,` or `[3]` is seed 3."""
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int):
        return list(range(whole_numbers(value, "seeds", 1)[0]))
    return whole_numbers(value, "seeds", 0)


def sizes_of(value: Any) -> list[int | None]:
    """Training examples of each class, smallest first; None for all there are."""
    return [None] if value is None else [*sorted(whole_numbers(value, "examples_per_class", 1))]


def output_folder(layers: Sequence[Layer], holds: str) -> Path:
    """The output folder that the layers name; one that holds `holds` is gone on with, any other has to be empty.

    Raises:
        UserError: none is given, or it holds something else.
    """
    given: dict[str, Any] = {}
    for source, layer in layers:
        given |= {name: value for name, value in normalise(layer, source).items() if value is not None}
    if not given.get("output_dir"):
        raise UserError("No output folder given: set --output_dir.")
    folder = Path(given["output_dir"]).expanduser()
    if (folder / holds).exists():
        return folder
    check_output_dir(str(folder), Config(model=given.get("model", ""), dataset=given.get("dataset", "")), None)
    return folder
