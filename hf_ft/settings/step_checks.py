"""Checks between options of training by steps: early stopping, averaging, BatchNorm, and `TrainingArguments`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hf_ft.errors import UserError
from hf_ft.settings.schema import Config, asks_for_steps


def check_steps(config: Config, training: Mapping[str, Any]) -> None:
    """Check what early stopping and averaging need of the method and of evaluations and checkpoints.

    Raises:
        UserError: the first contradiction.
    """
    strategies = training.get("eval_strategy"), training.get("save_strategy")  # the one follows the other
    if config.stops_early and (strategies[0] or strategies[1]) == "no":
        raise UserError(
            "early_stopping_patience needs evaluations.",
            option="early_stopping_patience",
            hint="Leave out the strategy `no`.",
        )
    for name in ("ema", "soup"):
        if getattr(config, name) is not None:
            _check_average(name, config, training)
    if config.soup is not None:
        _check_soup(config.soup, strategies, training)
    if config.batch_norm == "eval" and not config.method.definition.pretrained:
        raise UserError(
            f"--batch_norm eval keeps the running statistics of the source model, and method '{config.method}' starts "
            "from random weights.",
            option="batch_norm",
            value="eval",
            hint="Leave it out.",
        )


def check_token_batches(config: Config, training: Mapping[str, Any]) -> None:
    """Check that nothing else decides which examples make a batch where it is filled by tokens.

    Raises:
        UserError: the first contradiction.
    """
    if config.tokens_per_batch is None:
        return
    by_length = training.get("train_sampling_strategy") in (None, "group_by_length")
    reasons = {
        "per_device_train_batch_size": "sets the number of texts of a batch"
        if "per_device_train_batch_size" in config.explicit
        else "",
        "auto_find_batch_size": "looks for a number of texts" if training.get("auto_find_batch_size") else "",
        "dataloader_drop_last": "drops batches of fewer texts" if training.get("dataloader_drop_last") else "",
        "train_sampling_strategy": "" if by_length else "orders texts without regard to their length",
        "method": f"{config.method} draws pairs of examples" if config.method.contrastive else "",
    }
    for name, why in reasons.items():
        if why:
            raise UserError(
                f"--tokens_per_batch fills batches by tokens, and --{name} {why}.",
                option="tokens_per_batch",
                value=config.tokens_per_batch,
                hint="Keep one of them.",
            )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise UserError(
            f"--tokens_per_batch is for one process, and these are {processes}: they would read unequal batches.",
            option="tokens_per_batch",
            value=config.tokens_per_batch,
            hint="Use --train_sampling_strategy group_by_length.",
        )


def _check_average(name: str, config: Config, training: Mapping[str, Any]) -> None:
    """Check that the weights of a stage can be averaged."""
    value = getattr(config, name)
    wants_steps = asks_for_steps(config) or config.random_images
    steps = config.head_solver == "sgd" or (config.head_solver == "auto" and wants_steps)
    if config.method.name == "head" and not steps:
        raise UserError(
            f"--{name} averages weights of training by steps, and method 'head' solves a linear head in closed form.",
            option=name,
            value=value,
            hint="Leave it out, or train the head by steps with --head_solver sgd.",
        )
    if any(peft == "adalora" for peft, _ in config.adapters):
        raise UserError(
            f"--{name} does not go with adalora, whose adapters change their ranks while they train.",
            option=name,
            value=value,
            hint="Use another method of PEFT, such as lora.",
        )
    for other in ("deepspeed", "fsdp"):
        if training.get(other):
            raise UserError(
                f"--{name} does not go with --{other}, which splits the weights over several processes.",
                option=name,
                value=value,
                hint=f"Leave out --{name}.",
            )


def _check_soup(soup: int, strategies: tuple[Any, Any], training: Mapping[str, Any]) -> None:
    """Check that there are checkpoints with scores to average."""
    if "no" in strategies or training.get("load_best_model_at_end") is False:
        raise UserError(
            "--soup needs evaluations and checkpoints, and the best of them.",
            option="soup",
            value=soup,
            hint="Leave out the strategy `no` and --load_best_model_at_end false.",
        )
    limit = training.get("save_total_limit")
    if limit is not None and limit < soup:
        raise UserError(
            f"--save_total_limit {limit} keeps fewer checkpoints than --soup {soup} averages.",
            option="save_total_limit",
            value=limit,
            hint=f"Leave it out, or set it to {soup} or more.",
        )
