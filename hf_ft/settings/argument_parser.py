"""The argument parser of all commands and scripts: help that begins with an example, errors as `UserError`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from hf_ft.errors import UserError, choose, unknown

WIDTH = 79
"""Columns of a help text, so that it fits the narrowest usual terminal."""


class HelpFormatter(argparse.HelpFormatter):
    """Help at most 79 columns wide, with defaults; indented paragraphs (commands) keep their lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)
        self._width = min(self._width, WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        filled = [
            part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), width, break_on_hyphens=False)
            for part in paragraphs
        ]
        return textwrap.indent("\n\n".join(filled), indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default not in (None, False, argparse.SUPPRESS) and "default" not in (action.help or "")
        return f"{action.help} (default: %(default)s)" if shown and action.help else action.help


class Parser(argparse.ArgumentParser):
    """A parser whose help begins with an example, and whose errors are `UserError`s.

    `check_option` raises for an option that the parser does not have; `add_settings` replaces it.

    Args:
        prog: What the user types before the options.
        description: One sentence, or the docstring of a script.
        example: A command or several, shown before everything else.
        add: Adds the options; called once help or a command line asks for them, so that a program of many commands
            builds the options of one alone.
    """

    def __init__(
        self,
        prog: str | None = None,
        description: str = "",
        example: str = "",
        add: Callable[[Parser], None] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False, **others
        )
        self.example, self._add, self.check_option = example, add, self._refuse_option

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; refuses empty values, as an unset shell variable makes them: they would mean the default, or `.`."""
        if self._add is not None:
            add, self._add = self._add, None
            add(self)
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            if action.default is not argparse.SUPPRESS and getattr(found, action.dest, None) == "":
                option = action.option_strings[0] if action.option_strings else str(action.metavar)
                raise UserError(
                    f"{option} is empty.",
                    option=action.dest,
                    value="",
                    hint=f"Set a value, or leave it out. See {self.prog} --help.",
                )
        return found, rest

    def refuse(self, words: Sequence[str]) -> None:
        """Refuse what `parse_known_args` left over.

        Raises:
            UserError: the first such word; for an option with the most similar one.
        """
        for word in words:
            if word.startswith("--"):
                self.check_option(word.partition("=")[0])
            raise UserError(f"Unexpected '{word}' on the command line: no option precedes it.", value=word)

    def _refuse_option(self, written: str) -> Any:
        names = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        raise unknown(written, names, "option", f"See {self.prog} --help.")

    def error(self, message: str) -> Any:
        """Raise what argparse found wrong.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message[0].upper()}{message[1:]}.", hint=f"See {self.prog} --help.")

    def format_help(self) -> str:
        """The description, the example, the usage, then the options by group."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        if self.example:
            formatter.add_text("Example:\n\n" + textwrap.indent(self.example, "  "))
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse swallows the error of a closed pipe, by which `hf-ft --help | head` has to end.
        (file or sys.stderr).write(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            kind = "command" if action.dest == "command" else f"value for {'/'.join(action.option_strings)}:"
            choose(str(value), map(str, action.choices), kind, f"See {self.prog} --help.", option=action.dest)
