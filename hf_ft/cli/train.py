"""Fine-tune a model on a dataset and save it as a plain Hub model.

The run ends with scores and proofs; `--resume` continues an interrupted one, `--from_run` repeats a finished one.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft.cli.redraw import add_redraw, record_to_redraw

if TYPE_CHECKING:
    from hf_ft.settings import Parser


EXAMPLE = """\
hf-ft train --task image_classification --model google/vit-base-patch16-224 \\
    --dataset AI-Lab-Makerere/beans --method lp_ft --output_dir beans"""


def add_arguments(parser: Parser) -> None:
    """Every setting is an option."""
    from hf_ft.settings import add_settings

    parser.usage = (
        "hf-ft train --task T --model M --dataset D --output_dir OUT [options]\n       hf-ft train --redraw OUT"
    )
    group = parser.add_argument_group("finished run")
    add_redraw(group, "run", "the figures and the model card, in which your own edits stay,")
    group.add_argument(
        "--from_run",
        metavar="RUN.JSON",
        default=argparse.SUPPRESS,
        help="train again as its record says; other options win over its settings",
    )
    add_settings(parser)


def run(options: Namespace) -> None:
    """Train, score and save, or write figures and card again."""
    from hf_ft.records import RunRecord
    from hf_ft.settings import build, settings_layers

    layers, repetition = settings_layers(vars(options)), None
    if (folder := record_to_redraw(layers, RunRecord)) is not None:
        from hf_ft.results import redraw_run

        print("\n".join(redraw_run(folder)))
        return
    if (path := layers[-1][1].pop("from_run", None)) is not None:
        from hf_ft.results import read_repetition

        repetition = read_repetition(path, layers)
        layers = [repetition.layer, *layers]
    settings = build(*layers)
    from hf_ft.finetuning import execute

    execute(settings, repetition=repetition)
