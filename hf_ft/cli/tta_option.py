"""The option `--tta` of the commands that predict: how many views of an image a prediction is the mean of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.errors import UserError

if TYPE_CHECKING:
    from hf_ft.settings import Parser

LEAST = 2
"""The image and its mirror image: what `--tta` alone means."""


def add_tta(parser: Parser) -> None:
    """Add the option; its value is 1 where predictions are for the image alone."""
    from hf_ft.modalities import MOST_VIEWS

    parser.add_argument(
        "--tta",
        nargs="?",
        const=LEAST,
        default=1,
        type=_views,
        metavar="N",
        help="average predictions over N views of each image: 2 (the default after `--tta`) are the image and its "
        f"mirror image, up to {MOST_VIEWS} add crops of the centre and the corners (default: the image alone)",
    )


def _views(text: str) -> int:
    from hf_ft.modalities import MOST_VIEWS

    choices = [str(number) for number in range(LEAST, MOST_VIEWS + 1, 2)]
    if text not in choices:
        raise UserError(
            f"--tta takes an even number of views, not '{text}'.",
            option="tta",
            value=text,
            choices=choices,
            hint="Write --tta 2 before an input." if not text.lstrip("-").isdigit() else "",
        )
    return int(text)
