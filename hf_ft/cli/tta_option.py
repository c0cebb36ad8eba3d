"""The option `--tta` of the commands that predict: how many views of an image a prediction is the mean of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.errors import UserError

if TYPE_CHECKING:
    from hf_ft.settings import Parser
    from hf_ft.tasks import Task


def add_tta(parser: Parser) -> None:
    """Add the option as text, which `views_of` reads."""
    from hf_ft.modalities import MOST_VIEWS

    parser.add_argument(
        "--tta",
        nargs="?",
        const="2",
        metavar="N",
        help="average predictions over N views of each image: 2 (the default after `--tta`) are the image and its "
        f"mirror image, up to {MOST_VIEWS} add crops of the centre and the corners (default: the image alone)",
    )


def views_of(tta: str | None, task: Task) -> int:
    """Return how many views the option asks for, 1 where it was left out.

    Raises:
        UserError: No number, perhaps an input that follows `--tta`, or none that the inputs of the model have.
    """
    if tta is not None and not tta.lstrip("-").isdigit():
        problem = f"--tta takes a number of views, not '{tta}'."
        raise UserError(problem, option="tta", value=tta, hint="Write --tta 2 where an input follows.")
    views = 1 if tta is None else int(tta)
    if tta is not None and views == 1:
        raise UserError("--tta 1 averages nothing.", option="tta", value=1, hint="Use 2 or more, or leave it out.")
    task.modality.check_views(views)
    return views
