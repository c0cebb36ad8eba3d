"""Fine-tune a model on a dataset and save it as a plain Hub model.

The run ends with scores and proofs; `--resume` continues an interrupted one.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_ft.settings import Parser


EXAMPLE = """\
hf-ft train --task image_classification --model google/vit-base-patch16-224 \\
    --dataset AI-Lab-Makerere/beans --method lp_ft --output_dir beans"""


def add_arguments(parser: Parser) -> None:
    """Every setting is an option."""
    from hf_ft.settings import add_settings

    parser.usage = "hf-ft train --task T --model M --dataset D --output_dir OUT [options]"
    add_settings(parser)


def run(options: Namespace) -> None:
    """Train, score and save."""
    from hf_ft.settings import build, settings_layers

    settings = build(*settings_layers(vars(options)))
    from hf_ft.finetuning import execute

    execute(settings)
