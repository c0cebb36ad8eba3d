"""The settings of a freeze depth search, the method of each depth, and the schedule of successive halving."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_ft.errors import UserError
from hf_ft.experiments.comparison_settings import (
    SECTIONS_OF_TRIALS,
    Layer,
    parse_integers,
    parse_output_folder,
    parse_seeds,
    take_own,
)
from hf_ft.settings import build

OWN = ("depths", "seeds")
"""Settings of a search that a run does not have."""
MAX_DEPTHS = 9
"""Most depths that are tried by default; in deeper models they are evenly spaced."""
SHARES = (1 / 6, 1 / 2)
"""How long depths train in each rung, as a share of their full length."""
MIN_STEPS = 50
"""Steps that a training needs before its score is informative, which is a sixth of the default length or more.

MiniLM on 320 sentences of SST-2 (seed 0, batch 32): 0.56 after 30 steps of last_n:4, 0.78 after 60.
"""
REDUCTION = 3
"""The first rung keeps one depth of this many."""


@dataclass(frozen=True)
class DepthSettings:
    """What to search: numbers of frozen blocks (None: spread over the model), seeds, and all other settings.

    `layers` are those of `config.build`, without a method. With `overwrite`, what the folder holds is replaced.
    """

    depths: list[int] | None
    seeds: list[int]
    layers: list[Layer]
    folder: Path
    overwrite: bool = False


def read_depth_settings(layers: Sequence[Layer]) -> DepthSettings:
    """Take the settings of a search out of layers of settings, and check them and all others.

    Raises:
        UserError: A wrong setting, or a method, which the search sets itself.
    """
    where = "by hf-ft depth, which compares head, last_n:N and full"
    hint = "Leave it out, or use --depths: numbers of frozen blocks with commas."
    own, rest = take_own(layers, OWN, where, hint)
    depths = parse_integers(own["depths"], "depths", 0) if "depths" in own else None
    if depths is not None and len(depths) < 2:
        raise UserError(
            f"One depth ({depths[0]} frozen blocks) is nothing to choose from. Give at least two: --depths 0,2."
        )
    seeds = parse_seeds(own.get("seeds", 1))
    rest, folder, overwrite = parse_output_folder(rest, "search")
    build(*rest, ("the search", {"method": "full"}), sections=SECTIONS_OF_TRIALS)
    return DepthSettings(depths, seeds, rest, folder, overwrite)


def method_of_depth(frozen: int, blocks: int) -> str:
    """Return the method with a freeze depth: `full` for none, `head` for all blocks, else `last_n`."""
    return {0: "full", blocks: "head"}.get(frozen, f"last_n:{blocks - frozen}")


def freeze_depths(depths: Sequence[int] | None, blocks: int) -> dict[int, str]:
    """Frozen blocks -> method, the fewest frozen first; without `depths` at most `MAX_DEPTHS`, spread evenly.

    Raises:
        UserError: a model without blocks, or a depth that it has not.
    """
    if not blocks:
        raise UserError("The model has no blocks, so there is no freeze depth to choose. Use --method head or full.")
    if depths is None:
        count = min(MAX_DEPTHS, blocks + 1)
        depths = [round(i * blocks / (count - 1)) for i in range(count)]
    if wrong := [depth for depth in depths if depth > blocks]:
        raise UserError(
            f"--depths {wrong[0]}: the model has {blocks} blocks, so 0 (full) to {blocks} (head) of them can be frozen."
        )
    return {depth: method_of_depth(depth, blocks) for depth in sorted(depths)}


def halving_schedule(count: int, steps: float = math.inf) -> list[tuple[float, int]]:
    """The rungs for so many depths that train by steps: the share of their length, and how many go on.

    One depth alone needs none. No rung has fewer than `MIN_STEPS` of the `steps` of a whole length, but for lengths
    that are shorter: these are trained as they are. Rungs that become equal are one.
    """
    both = list(zip(SHARES, (max(2, math.ceil(count / REDUCTION)), 1), strict=True))
    plan = both if count > 2 else both[1:] if count == 2 else []
    long = [(min(1.0, max(share, MIN_STEPS / steps)), going) for share, going in plan]
    return [one for one, after in itertools.zip_longest(long, long[1:]) if after is None or one[0] < after[0]]


def best_depths(scores: Mapping[int, float], count: int) -> list[int]:
    """The `count` depths of highest score, the fewest frozen first; of equal ones those that freeze more."""
    best = sorted(scores, key=lambda frozen: (-scores[frozen], -frozen))[:count]
    return sorted(best)
