"""Print what a bug report needs: versions, machine, devices."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft import __version__

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft env"


def add_arguments(parser: Parser) -> None:
    """None."""


def run(options: Namespace) -> None:
    """Print the versions and the machine."""
    from hf_ft.environment import machine, print_table, versions

    found = {"hf-ft": __version__, **versions(), **machine()}
    rows = [(name, str(value)) for name, value in found.items()]
    print_table(("name", "value"), rows, plain=lambda: "\n".join(f"{name:14} {value}" for name, value in rows))
