"""Depth groups without a model behind them, and what a plan does to them."""

from __future__ import annotations

from dataclasses import dataclass

from hf_ft.methods.registry import METHODS
from hf_ft.methods.stages import Plan, Setting


@dataclass(frozen=True)
class Row:
    """A depth group as far as a plan knows it."""

    name: str
    role: str
    parameters: tuple[str, ...]
    norms: tuple[str, ...]
    modules: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    label_sized: tuple[str, ...] = ()
    size: int = 1


def table(*names: str) -> tuple[Row, ...]:
    """Rows from names whose first word is the role: `block 0` is a block; each has a layer and a normalisation.

    The layer of the head has as many outputs as there are labels.
    """
    rows = []
    for name in names:
        prefix = name.replace(" ", ".")
        norms = tuple(f"{prefix}.norm.{part}" for part in ("weight", "bias"))
        layer = f"{prefix}.linear.weight", f"{prefix}.linear.bias"
        rows.append(Row(name, name.split()[0], (*layer, *norms), norms, label_sized=layer if name == "head" else ()))
    return tuple(rows)


THREE_BLOCKS = table("stem", "block 0", "block 1", "block 2", "neck", "head", "unused")


NO_NECK = table("stem", "block 0", "block 1", "block 2", "head")


NO_BLOCKS = table("stem", "head")


def mode_of(setting: Setting) -> str:
    """The mode, or `part` where some parameters of the group train and others do not."""
    return setting.mode if setting.only is None else "part"


def rates(plan: Plan, stage: int = 0) -> dict[str, float]:
    """The rate of each group in one stage; 0 for those that are frozen."""
    return {group.name: setting.rate for group, setting in plan.stages[stage]}


def spelled(name: str) -> str:
    """A method as the user writes it: with an argument where it takes one."""
    argument = METHODS[name].argument
    return f"{name}:{ {'N': '2', 'NAME': 'loha', 'PATTERN': '*norm*'}[argument] }" if argument else name


NO_UNUSED = THREE_BLOCKS[:-1]
