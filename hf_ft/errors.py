"""Names the user types: looking them up, splitting off their argument, and the one error for a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what was given, what exists and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


def choose(name: str, options: Iterable[str], kind: str, remedy: str = "") -> str:
    """Return `name` if it is one of `options`.

    Raises:
        UserError: names what was given, the nearest option, all options, and `remedy`.
    """
    known = list(options)
    if name in known:
        return name
    raise UserError(unknown(name, known, kind, remedy))


def unknown(name: str, options: Iterable[str], kind: str, remedy: str = "") -> str:
    """The message for a name that does not exist; `choose` raises it, others may add to it."""
    known = list(options)
    near = nearest(name, known)
    hint = f" Did you mean '{near}'?" if near else ""
    if len(known) <= 40:
        exists = f" There is: {', '.join(known)}." if known else ""
    else:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.3)
        exists = f" There are {len(known)}, among them: {', '.join(close or known[:5])}."
    return f"Unknown {kind} '{name}'.{hint}{exists}" + (f" {remedy}" if remedy else "")


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, or None when nothing is."""
    by_folded = {option.lower().replace("-", "_"): option for option in options}
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def split_argument(text: str) -> tuple[str, str | None]:
    """Split `name:argument`, the one form for names with an argument (`last_n:4`, `builtin:NAME`).

    The argument is None when there is no colon.
    """
    name, colon, argument = text.partition(":")
    return name, argument if colon else None


def shorten(items: Iterable[object], limit: int = 5) -> str:
    """The first `limit` items, comma separated, and how many more there are."""
    listed = [str(item) for item in items]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def first_line(what: str, error: Exception) -> str:
    """What went wrong and the first line of an error of many lines; two where the first announces the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return f"{what}: {text}."
