"""A repository on the Hub with its revision in one word, as `me/name@v1` and `me/name@v1:config`."""

from __future__ import annotations

from typing import Any

from hf_ft.errors import UserError, split_argument
from hf_ft.settings.paths import is_local

KINDS = ("model", "dataset")


def split_revisions(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a revision that is part of a name is in the option for it.

    Raises:
        UserError: The name ends in `@`, or the option says another revision.
    """
    found = dict(settings)
    for kind in KINDS:
        written = found.get(kind)
        if not isinstance(written, str) or "@" not in written or is_local(written):
            continue
        named, subset = split_argument(written)
        name, at, revision = named.partition("@")
        if not at:
            continue
        option = f"{kind}_revision"
        if not revision:
            raise UserError(f"'{written}' names no revision.", option=kind, value=written, hint=f"Write {name}@main.")
        if found.get(option) not in (None, revision):
            raise UserError(
                f"--{kind} {written} and --{option} {found[option]} name two revisions.",
                option=option,
                value=found[option],
                hint="Keep one of them.",
            )
        found |= {kind: name if subset is None else f"{name}:{subset}", option: revision}
    return found
