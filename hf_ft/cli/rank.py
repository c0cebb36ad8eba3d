"""Rank pretrained models on your data before training, by three scores and their cost.

Reads the training split alone. The same command again continues where it was interrupted.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = """\
hf-ft rank distilbert/distilbert-base-uncased answerdotai/ModernBERT-base \\
    --task text_classification --dataset stanfordnlp/sst2 --output_dir ranking"""


def add_arguments(parser: Parser) -> None:
    """The candidates, and every setting."""
    from hf_ft.models import SIZES
    from hf_ft.settings import add_settings

    parser.usage = "hf-ft rank MODEL... --task T --dataset D --output_dir OUT [options]"
    parser.epilog = (
        "Settings of training apply to --confirm. Scores read at most 2,000 training examples; --max_train_examples N "
        "sets another limit."
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="Hub id, folder or builtin")
    group = parser.add_argument_group("ranking")
    group.add_argument("--list", metavar="FILE", help="more models, one per line")
    group.add_argument("--size", choices=SIZES, help="without MODEL: the models of this size that hf-ft models lists")
    group.add_argument("--confirm", metavar="K", type=int, default=0, help="fine-tune the best K (--method lp_ft)")
    add_settings(parser)


def run(options: Namespace) -> None:
    """Score the candidates, and fine-tune the best if asked."""
    from hf_ft.settings import settings_layers

    settings = vars(options)
    models, file, size, confirm = (settings.pop(name) for name in ("models", "list", "size", "confirm"))
    layers = tuple(settings_layers(settings))
    from hf_ft.experiments import named_models, rank_models
    from hf_ft.finetuning import execute

    rank_models(named_models(models, file, size, layers), confirm, layers, lambda settings: execute(settings).record)
