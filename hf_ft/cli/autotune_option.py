"""The option `--autotune` of the commands that predict with a finished model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_ft.settings import Parser


def add_autotune(parser: Parser) -> None:
    """Add the option with the choices and the help of training."""
    from hf_ft.settings import MachineSettings

    option = MachineSettings.options()["autotune"].metadata
    parser.add_argument("--autotune", choices=option["choices"], default="on", help=option["help"])
