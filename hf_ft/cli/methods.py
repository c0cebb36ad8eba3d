"""List the fine-tuning methods: what trains, when to use it, paper."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft.cli.wrapping import hanging

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = "hf-ft methods --peft"


def add_arguments(parser: Parser) -> None:
    """Which list."""
    parser.add_argument("--peft", action="store_true", help="list the PEFT methods that peft:NAME takes")


def run(options: Namespace) -> None:
    """Print the list."""
    from hf_ft.environment import print_table

    if options.peft:
        print(_of_peft())
        return
    from hf_ft.methods import METHODS

    rows = [(method.spelled, method.trains, f"{method.when}\n{method.paper}") for method in METHODS.values()]
    print_table(("method", "trains", "when to use it"), rows, plain=_listed)
    limited = ", ".join(f"{method.spelled}@last_n:N" for method in METHODS.values() if method.limited)
    print(f"\nIn the last N blocks only, those below frozen and cached:\n  {limited}")
    print("\nYour own stages: --plan FILE.yaml. PEFT methods: hf-ft methods --peft.")


def _listed() -> str:
    from hf_ft.methods import METHODS

    lines = []
    for method in METHODS.values():
        lines += hanging(f"{method.spelled:13} ", f"trains {method.trains}")
        lines += hanging(" " * 14, method.when)
        lines.append(" " * 14 + method.paper)
    return "\n".join(lines)


def _of_peft() -> str:
    from hf_ft.methods import MEASURED, REFUSED, mergeable, preset

    lines = [
        "Methods that merge into plain weights, with their default learning rates:",
        "",
        f"{'':20} {'texts':>8}  {'images':>8}",
    ]
    for name in mergeable():
        rates = [
            f"{getattr(preset(name), modality):8g}{' ' if name in MEASURED[modality] else '*'}" for modality in MEASURED
        ]
        lines.append(f"peft:{name:15} {' '.join(rates)}".rstrip())
    lines += ["", "* an estimate that was never tried: compare a few values of --learning_rate"]
    lines += ["", "Not supported, since they do not merge:", ""]
    for name, reason in REFUSED.items():
        lines += hanging(f"peft:{name:24} ", reason)
    return "\n".join(lines)
