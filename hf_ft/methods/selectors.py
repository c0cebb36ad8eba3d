"""What a stage trains: from a word (`last_n:4`, `bitfit`, `train:*attention*`) to the groups or parameters it means.

`bitfit@last_n:4` limits what a word means to the top blocks, so that the blocks below are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from hf_ft.errors import UserError, choose, nearest, shorten, split_argument


class Group(Protocol):
    """What stages need to know of a depth group; `hf_ft.models.DepthGroup` is one."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def modules(self) -> tuple[str, ...]: ...
    @property
    def parameters(self) -> tuple[str, ...]: ...
    @property
    def buffers(self) -> tuple[str, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def norms(self) -> tuple[str, ...]: ...
    @property
    def label_sized(self) -> tuple[str, ...]: ...


Chosen = Mapping[str, frozenset[str] | None]
"""Name of each group that trains -> the parameters that do, or None for all of them."""


def _named(groups: Sequence[Group], *roles: str) -> dict[str, frozenset[str] | None]:
    return {group.name: None for group in groups if group.role in roles}


def _all(groups: Sequence[Group], argument: str) -> Chosen:
    return _named(groups, "stem", "block", "neck", "head")


def _head(groups: Sequence[Group], argument: str) -> Chosen:
    return _named(groups, "head")


def _top(groups: Sequence[Group], argument: str) -> Chosen:
    return _named(groups, "neck", "head")


def _last(groups: Sequence[Group], argument: str) -> Chosen:
    blocks, count = list(_named(groups, "block")), int(argument)
    if count > len(blocks):
        raise UserError(
            f"last_n:{count} asks for more blocks than the model has ({len(blocks)}). Use last_n:1 to "
            f"last_n:{len(blocks)}, or `full` to train everything."
        )
    return dict.fromkeys(blocks[len(blocks) - count :]) | dict(_top(groups, argument))


def _first_frozen(groups: Sequence[Group], argument: str) -> Chosen:
    blocks, count = list(_named(groups, "block")), int(argument)
    if count >= len(blocks):
        possible = f"Use first_n:1 to first_n:{len(blocks) - 1}, or" if len(blocks) > 1 else "Use"
        raise UserError(
            f"first_n:{count} would freeze all blocks of the model (it has {len(blocks)}). {possible} `head` to train "
            "the head only."
        )
    return dict.fromkeys(blocks[count:]) | dict(_top(groups, argument))


def _parts(groups: Sequence[Group], wanted: Callable[[Group], set[str]]) -> dict[str, frozenset[str] | None]:
    """The wanted parameters of each group below the head; a group of which all are wanted trains whole."""
    chosen: dict[str, frozenset[str] | None] = {}
    for group in groups:
        names = wanted(group) if group.role not in ("head", "unused") else set()
        if names:
            chosen[group.name] = None if names == set(group.parameters) else frozenset(names)
    return chosen


def _biases(groups: Sequence[Group], argument: str) -> Chosen:
    # `bias`, and the names of attention's own (`q_bias`, `in_proj_bias`); tables of position biases end otherwise.
    found = _parts(groups, lambda group: {name for name in group.parameters if name.endswith("bias")})
    if not found:
        raise UserError("The model has no biases outside its head. Use another method, for example norms or last_n:1.")
    return found | dict(_head(groups, argument))


def _norms(groups: Sequence[Group], argument: str) -> Chosen:
    found = _parts(groups, lambda group: set(group.norms))
    if not found:
        raise UserError(
            "The model has no normalisation layers with parameters outside its head. Use another method, for example "
            "bitfit or last_n:1."
        )
    return found | dict(_head(groups, argument))


def _matching(groups: Sequence[Group], argument: str) -> Chosen:
    parameters = [name for group in groups if group.role != "unused" for name in group.parameters]
    patterns = [pattern.strip() for pattern in argument.split(",") if pattern.strip()]
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in parameters):
            names = list(dict.fromkeys(part for name in parameters for part in _around(name)))
            near = nearest(pattern, names)
            shown = f"Did you mean '{near}'? " if near else ""
            raise UserError(
                f"train:{pattern} matches no parameter and no module of the model.",
                option="train",
                value=pattern,
                hint=f"{shown}Choose from {len(names)}, such as {shorten(names)}. `*` matches any text, as in "
                "train:*layer.1*.",
            )
    found = _parts(groups, lambda group: {name for name in group.parameters if _matches(name, patterns)})
    return found | dict(_head(groups, argument))


def _around(parameter: str) -> list[str]:
    """The names of the modules around a parameter, from the outermost to its own name."""
    words = parameter.split(".")
    return [".".join(words[:i]) for i in range(1, len(words) + 1)]


def _matches(parameter: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern is the parameter's full name or that of a module around it."""
    return any(fnmatchcase(name, pattern) for name in _around(parameter) for pattern in patterns)


SELECTORS: dict[str, Callable[[Sequence[Group], str], Chosen]] = {
    "all": _all,
    "head": _head,
    "top": _top,
    "last_n": _last,
    "first_n": _first_frozen,
    "bitfit": _biases,
    "norms": _norms,
    "train": _matching,
}
"""Name -> function from the depth groups to what trains of them."""

ARGUMENTS = {"last_n": "N", "first_n": "N", "train": "PATTERN"}
"""Selector -> what follows its colon; the others take no argument."""

TOP = "last_n"
"""The selector that may follow an `@`: `bitfit@last_n:4`."""
LIMITED = ("bitfit", "norms")
"""Selectors that may be limited to the top blocks so."""


def split_top(text: str) -> tuple[str, str | None]:
    """Split `bitfit@last_n:4` at its `@`; the second part is None without one. Patterns of `train:` keep theirs.

    Example:
        >>> split_top("lora@last_n:4")
        ('lora', 'last_n:4')
    """
    what, sign, top = text.partition("@")
    return (what, top) if sign and split_argument(what)[0] != "train" else (text, None)


def check_top(text: str, top: str, limited: Sequence[str], kind: str) -> str:
    """Check what follows an `@`, and that what stands before it may be limited to the top blocks.

    Args:
        text: The whole text, as in `bitfit@last_n:4`.
        top: What follows the `@`.
        limited: What may stand before it, as it is spelled.
        kind: What the text is, for the message.

    Raises:
        UserError: It is not `last_n:N`, or does not go with what stands before it.
    """
    name, argument = split_argument(top)
    what = split_top(text)[0]
    start = kind[0].upper() + kind[1:]
    if split_argument(what)[0] not in [split_argument(one)[0] for one in limited]:
        raise UserError(
            f"{start} '{text}': only adapters and parts of blocks can be limited to the top blocks.",
            option="method" if kind == "method" else split_argument(what)[0],
            value=text,
            hint=f"Use {', '.join(f'{one}@{TOP}:N' for one in limited)}.",
        )
    if name != TOP or not (argument or "").isdecimal() or int(argument or 0) < 1:
        raise UserError(
            f"{start} '{text}' needs a number of top blocks after its '@'.",
            option="method" if kind == "method" else split_argument(what)[0],
            value=text,
            hint=f"Use {what}@{TOP}:N, for example {what}@{TOP}:2.",
        )
    return f"{TOP}:{int(argument or 0)}"


def check_selector(text: str, kind: str = "selection of depth groups") -> tuple[str, str]:
    """Split `last_n:4` into the selector and its checked argument, which is empty where there is none.

    What follows an `@` is checked as well, and not returned.

    Raises:
        UserError: Unknown selector (with the nearest); argument missing, unexpected or no positive number.
    """
    what, top = split_top(text)
    name, argument = split_argument(what)
    choose(name, SELECTORS, kind)
    check_argument(name, argument, ARGUMENTS.get(name), kind)
    if top is not None:
        check_top(text, top, LIMITED, kind)
    return name, argument or ""


def check_argument(name: str, argument: str | None, takes: str | None, kind: str) -> None:
    """Check the text after the colon: nothing, a positive number or a pattern, as the name takes it.

    Raises:
        UserError: It is something else; with an example.
    """
    what = kind[0].upper() + kind[1:]
    if takes is None and argument is not None:
        raise UserError(f"{what} '{name}' takes no argument.", option=name, value=argument, hint=f"Write '{name}'.")
    if takes == "N" and not (argument or "").isdecimal():
        raise UserError(
            f"{what} '{name}' needs a number of blocks.",
            option=name,
            value=argument,
            hint=f"Use {name}:N, for example {name}:2.",
        )
    if takes == "N" and int(argument or 0) < 1:
        means = "trains no block. Use `head` to train the head only" if name == "last_n" else "freezes no block"
        raise UserError(f"{name}:{argument} {means}.")
    if takes == "PATTERN" and not [pattern for pattern in (argument or "").split(",") if pattern.strip()]:
        raise UserError(
            f"{what} '{name}' needs patterns of names.",
            option=name,
            value=argument,
            hint=f"Use {name}:PATTERN, for example {name}:*attention*.",
        )


def choose_parameters(selector: str, groups: Sequence[Group]) -> Chosen:
    """What a selector (`all`, `last_n:4`, `bitfit`, `bitfit@last_n:4`) trains of the groups of a model.

    Raises:
        UserError: unknown selector, or one that the model cannot take.
    """
    name, argument = check_selector(selector)
    chosen, top = SELECTORS[name](groups, argument), split_top(selector)[1]
    if top is None:
        return chosen
    inside = _last(groups, split_argument(top)[1] or "")
    found = {group: only for group, only in chosen.items() if group in inside}
    if found.keys() <= _head(groups, "").keys():
        raise UserError(
            f"{selector} finds nothing to train below the head. Use more blocks, or {top} to train them whole.",
            value=selector,
        )
    return found


def choose_groups(text: Mapping[str, str], groups: Sequence[Group]) -> dict[str, str]:
    """The mode of each group from a table by name, such as `{stem: frozen, "block 0-3": frozen, "block 4-": train}`.

    Raises:
        UserError: a group that does not exist, is left out, or is named twice.
    """
    used = [group.name for group in groups if group.role != "unused"]
    modes: dict[str, str] = {}
    for key, mode in text.items():
        for name in _spread(str(key), used):
            if name in modes:
                raise UserError(
                    f"groups: '{key}' includes {name}, which is in another line already.", option="groups", value=key
                )
            modes[name] = mode
    left = [name for name in used if name not in modes]
    if left:
        raise UserError(
            f"groups has no mode for {shorten(left)}.", option="groups", hint="Set each to frozen, train or adapt."
        )
    return modes


def _spread(key: str, used: Sequence[str]) -> list[str]:
    """The groups that a key stands for: one, or blocks from A to B, where A or B may be missing."""
    first, dash, last = key.removeprefix("block").strip().partition("-")
    blocks = [name for name in used if name.startswith("block ")]
    if key.startswith("block") and dash and all(part.strip().isdecimal() or not part.strip() for part in (first, last)):
        low, high = int(first or 0), int(last or len(blocks) - 1)
        named = [name for name in blocks if low <= int(name.split()[1]) <= high]
        if not named or high >= len(blocks):
            raise UserError(
                f"groups: '{key}' includes blocks that the model does not have; it has block 0-{len(blocks) - 1}.",
                option="groups",
                value=key,
            )
        return named
    return [choose(key, used, "depth group", 'Several blocks: "block 0-3", "block 4-".')]
