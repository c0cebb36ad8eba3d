"""Checks between a method and what a head reads, starts from and is chosen by."""

from __future__ import annotations

from hf_ft.errors import UserError
from hf_ft.settings.schema import Config


def check_start(config: Config) -> None:
    """Check that what the head reads and starts from goes with the method.

    Raises:
        UserError: Random weights have no embeddings, or a contrastive stage cannot take an option.
    """
    for name, value in (("pooling", "sentence"), ("head_init", "label_names")):
        if getattr(config, name) == value and not config.method.definition.pretrained:
            raise UserError(
                f"--{name} {value} does not go with method '{config.method}', which starts from random weights.",
                option=name,
                value=value,
                hint="Leave it out.",
            )
    if config.method.contrastive:
        _check_contrastive(config)
    if config.augment_views:
        _check_views(config)


def _check_views(config: Config) -> None:
    """Check that fixed views of the training images can be cached: the cache is on, and the method freezes blocks."""
    if config.cache == "off":
        raise UserError(
            "--augment_views caches features of augmented images, which --cache off rules out.",
            option="augment_views",
            value=config.augment_views,
            hint="Leave out one of the two.",
        )
    method = config.method
    everywhere = method.definition.limited and not method.top
    if method.name in ("scratch", "full") or everywhere:
        top = f"{method}@last_n:2" if everywhere else "last_n:2"
        raise UserError(
            f"--augment_views caches what frozen blocks give, and method '{method}' freezes none.",
            option="augment_views",
            value=config.augment_views,
            hint=f"Leave it out, or use a method that freezes blocks, such as head or {top}.",
        )


def _check_contrastive(config: Config) -> None:
    """Check that a contrastive stage gets whole examples of one class, and is not chosen by scores.

    It trains no head, so it has none; a plan may have other stages that do, so only the method is refused averages.
    """
    if config.mixing:
        name = next(iter(config.mixing))
        raise UserError(
            f"--{name} mixes labels, and a contrastive stage needs one class for each example.",
            option=name,
            hint="Leave it out.",
        )
    if config.long_text == "windows":
        raise UserError(
            "--long_text windows does not go with a contrastive stage, which compares whole texts.",
            option="long_text",
            value="windows",
            hint="Use truncate or head_tail.",
        )
    if config.head_init == "label_names":
        raise UserError(
            "--head_init label_names does not go with a contrastive stage, which moves the embeddings of the labels.",
            option="head_init",
            value="label_names",
            hint="Leave it out, or use method head or lp_ft.",
        )
    chosen = {"ema": config.ema, "soup": config.soup, "early_stopping_patience": config.stops_early}
    for name, value in chosen.items():
        if value and config.method.name == "contrastive":
            raise UserError(
                f"--{name} does not go with method 'contrastive', whose first stage keeps its last state and whose "
                "second one solves the head in closed form.",
                option=name,
                value=getattr(config, name),
                hint="Leave it out.",
            )
