"""Which split plays which role (train, validation, test), by the user's word or by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hf_ft.data.readers.raw_split import RawSplit
from hf_ft.errors import UserError, choose
from hf_ft.settings import DataSettings

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Role of a split -> the names it goes by, alone or followed by `-`, `_`, `.` or a digit (`train-00000-of-00019`)."""


def assign_roles(sources: Mapping[str, RawSplit], config: DataSettings, notes: list[str]) -> dict[str, str]:
    """Role (train, validation, test) -> name of the split that plays it; roles without a split are absent.

    A name that is exactly a word for the role goes before one that begins with it (`validation_matched`).

    Raises:
        UserError: no split of the name that the user gave, several that could be meant, or an empty one.
    """
    named = {role: getattr(config, f"{role}_split") for role in SPLIT_WORDS}
    roles = {
        role: choose(name, sources, f"{role} split", option=f"{role}_split") for role, name in named.items() if name
    }
    for role in [role for role in SPLIT_WORDS if role not in roles]:
        words = SPLIT_WORDS[role]
        free = [name for name in sources if name not in roles.values()]
        exact = [name for name in free if name.lower() in words]
        found = exact or [name for name in free if _first_word(name, words)]
        if len(found) > 1:
            raise UserError(
                f"Several splits of {config.dataset} could be {role}: {', '.join(found)}. Choose with --{role}_split."
            )
        if found:
            roles[role] = found[0]
    for role, name in roles.items():
        if len(sources[name].rows) == 0:
            raise UserError(
                f"The split '{name}' of {config.dataset} is empty. Fill it, remove it, or choose another with "
                f"--{role}_split."
            )
    if unused := [name for name in sources if name not in roles.values()]:
        notes.append(f"Splits not used: {', '.join(unused)}.")
    return {role: roles[role] for role in SPLIT_WORDS if role in roles}


def _first_word(name: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `name` is or begins with, as it is written in `name`."""
    match = re.fullmatch(rf"({'|'.join(map(re.escape, words))})(?:[-_.\d].*)?", name, flags=re.IGNORECASE)
    return match.group(1) if match else None


def split_word(name: str, config: DataSettings) -> str | None:
    """The word for a split that the name of a file or folder is or begins with; the user's own words come first."""
    own = [getattr(config, f"{role}_split") for role in SPLIT_WORDS]
    return _first_word(
        name, [word for word in own if word] + [word for group in SPLIT_WORDS.values() for word in group]
    )
