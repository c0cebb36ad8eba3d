"""Plain text of lists: a name, and its text wrapped beside it."""

from __future__ import annotations

import textwrap


def hanging(name: str, text: str, width: int = 79) -> list[str]:
    """A name and its text, wrapped beside it.

    Example:
        >>> hanging("head  ", "trains the new head only", width=20)
        ['head  trains the new', '      head only']
    """
    return textwrap.wrap(text, width, initial_indent=name, subsequent_indent=" " * len(name))
