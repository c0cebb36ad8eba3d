"""The entry point of `hf-ft`: find the command, run it, and turn its errors into exit codes.

A command is a module of this package with a docstring (its first line is the summary in `hf-ft --help`), `EXAMPLE`,
`add_arguments(parser)` and `run(options)`. Nothing heavy is imported before the options have been checked, so that
help and errors come at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from hf_ft import __version__
from hf_ft.environment import Terminated, print_error, silence_libraries
from hf_ft.errors import UserError
from hf_ft.settings import Parser

GROUPS: dict[str, tuple[str, ...]] = {
    "Train a model and use it": ("train", "soup", "evaluate", "predict", "export", "push"),
    "Choose a model, a method, a freeze depth": ("models", "methods", "inspect", "rank", "compare", "depth"),
    "Housekeeping": ("cache", "env"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
EXAMPLE = """\
hf-ft train --task image_classification --model google/vit-base-patch16-224 \\
    --dataset AI-Lab-Makerere/beans --method lp_ft --output_dir beans"""
CONTINUE = "hf-ft train continues with --resume, other commands when repeated without --overwrite_output_dir"
EXIT_CODES = (
    "Exit codes: 0 success; 2 user error, or a full disk; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1: training "
    "writes a checkpoint after the current step, and --resume continues from it."
)


def run(command: Callable[[], Any]) -> int:
    """Run a command and return its exit code (`EXIT_CODES`); a `UserError` becomes one line on stderr."""
    try:
        with silence_libraries():
            try:
                command()
            finally:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `hf-ft methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return 141  # as a shell reports a process that SIGPIPE ended
    except UserError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {CONTINUE}", file=sys.stderr)
        return 130
    except Terminated as signal:
        print(f"ended by {signal.name}; {CONTINUE}", file=sys.stderr)
        return int(str(signal.code))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `hf-ft`; returns the exit code."""
    return run(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _dispatch(words: list[str]) -> None:
    parser, commands = _parsers()
    try:
        options, rest = parser.parse_known_args(words or ["--help"])
    except SystemExit as done:
        if done.code:
            raise
        return  # after --help and --version
    if options.command is None:
        parser.refuse(rest)
    name = options.__dict__.pop("command")
    commands[name].refuse(rest)
    module_of(name).run(options)


def module_of(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"hf_ft.cli.{command}")


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of `hf-ft`, and those of its commands, whose options are added when the command is used."""
    parser = _Overview("hf-ft", "Transfer learning on Hugging Face models.", EXAMPLE, usage="hf-ft COMMAND [options]")
    parser.add_argument("--version", action="version", version=f"hf-ft {__version__}")
    actions = parser.add_subparsers(dest="command", parser_class=Parser)
    return parser, {name: actions.add_parser(name, prog=f"hf-ft {name}", add=_adder(name)) for name in COMMANDS}


def _adder(name: str) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        module = module_of(name)
        parser.description, parser.example = module.__doc__, module.EXAMPLE
        module.add_arguments(parser)

    return add


class _Overview(Parser):
    """The parser of `hf-ft`, whose help lists the commands by use."""

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_text("Example:\n\n  " + self.example.replace("\n", "\n  "))
        formatter.add_usage(self.usage, (), ())
        for title, names in GROUPS.items():
            formatter.start_section(title)
            for name in names:
                summary = (module_of(name).__doc__ or "").splitlines()[0].rstrip(".")
                formatter.add_argument(argparse.Action([], name, metavar=name, help=summary))
            formatter.end_section()
        formatter.add_text("hf-ft COMMAND --help lists the options of a command.")
        formatter.add_text(EXIT_CODES)
        return formatter.format_help()


if __name__ == "__main__":
    sys.exit(main())
