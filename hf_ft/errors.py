"""User errors: one exception with fields, the lookup of names a user writes, and the closest match for a typo."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 40
"""Longest list of choices that a message shows in full."""


class UserError(ValueError):
    """A mistake in what the user wrote, as one line: the problem, the nearest choice, all choices, the fix.

    The command line prints it without a traceback and exits with code 2.

    Args:
        problem: What is wrong, as a sentence with its full stop.
        option: The setting or argument at fault, without dashes.
        value: What the user wrote for it.
        choices: The values that would have been valid.
        hint: How to fix it, as a sentence.

    Example:
        >>> error = UserError("Unknown size 'huge'.", option="size", value="huge", choices=("small", "large"))
        >>> str(error)
        "Unknown size 'huge'. Choose from: small, large."
    """

    def __init__(
        self,
        problem: str,
        *,
        option: str | None = None,
        value: object = None,
        choices: Iterable[str] = (),
        hint: str = "",
    ) -> None:
        self.problem = problem
        self.option = option
        self.value = value
        self.choices = tuple(choices)
        self.hint = hint
        super().__init__(" ".join(part for part in (problem, self._suggestion(), self._listed(), hint) if part))

    @property
    def nearest(self) -> str | None:
        """The choice most like the value, None when there is none."""
        return nearest(self.value, self.choices) if isinstance(self.value, str) else None

    def _suggestion(self) -> str:
        return f"Did you mean '{self.nearest}'?" if self.nearest else ""

    def _listed(self) -> str:
        if not self.choices:
            return ""
        if len(self.choices) <= LISTED:
            return f"Choose from: {', '.join(self.choices)}."
        close = difflib.get_close_matches(str(self.value), self.choices, n=5, cutoff=0.3)
        return f"Choose from {len(self.choices)}, such as {', '.join(close or self.choices[:5])}."


def choose(name: str, choices: Iterable[str], kind: str, hint: str = "", *, option: str | None = None) -> str:
    """Return `name` if it is one of `choices`.

    Raises:
        UserError: see `unknown`.
    """
    known = list(choices)
    if name in known:
        return name
    raise unknown(name, known, kind, hint, option=option)


def unknown(name: str, choices: Iterable[str], kind: str, hint: str = "", *, option: str | None = None) -> UserError:
    """The error for a name that does not exist: what it is (`kind`), the nearest choice, all choices, and `hint`.

    `choose` raises it; call it where the lookup is another one than `name in choices`.
    """
    return UserError(f"Unknown {kind} '{name}'.", option=option, value=name, choices=choices, hint=hint)


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


def root_cause(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of errors, on one short line; builders of `datasets` wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
