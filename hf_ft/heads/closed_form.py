"""The linear probe fitted to convergence: from cached features to the weights of the model's own head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear

from hf_ft.errors import UserError
from hf_ft.heads.linear_solver import Fit, fit_linear
from hf_ft.methods import AppliedStage
from hf_ft.models import DepthGroup, ModelSplit, evaluating, linear_head
from hf_ft.settings import Config

if TYPE_CHECKING:
    from hf_ft.feature_cache import CachedRows

CHUNK = 1024
"""Rows that are read at once."""
OF_STEPS = {
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "optim",
    "head_lr_multiplier",
    "early_stopping_patience",
}
"""Settings that say how steps are to be made: who sets one for a head alone wants steps."""


def check_solver(config: Config, stages: Sequence[AppliedStage]) -> None:
    """Raise unless a head solver that was asked for has a stage that it can stand for.

    Raises:
        UserError: no stage trains the head alone.
    """
    if config.head_solver == "exact" and not any(stage.trains_head_alone for stage in stages):
        raise UserError(
            f"--head_solver exact: no stage of method '{config.method}' trains the head alone. Use --method head or "
            "lp_ft, or leave out --head_solver."
        )


def wants_solver(config: Config, stages: Sequence[AppliedStage], stage: AppliedStage) -> bool:
    """Whether the head of a stage is to be solved, if it is linear and its features are cached.

    Steps are made where the user says so: by `head_solver`, by settings of steps in the stage itself, or by those of
    the run where no other stage could be meant. For `lp_ft` a number of epochs or a rate is that of the fine-tuning
    after the head.
    """
    if config.head_solver == "sgd" or not stage.trains_head_alone:
        return False
    if config.head_solver == "exact":
        return True
    only = all(other.trains_head_alone for other in stages)
    return not stage.configures_steps and not (only and OF_STEPS & config.explicit)


def expects_solver(
    config: Config, stages: Sequence[AppliedStage], stage: AppliedStage, groups: Sequence[DepthGroup]
) -> bool:
    """Whether the head of a stage will be solved, as far as that is known before the model is split."""
    return wants_solver(config, stages, stage) and config.cache != "off" and linear_head(groups)


def steps_instead(config: Config, stage: AppliedStage, groups: Sequence[DepthGroup]) -> list[str]:
    """The settings by which a head that could be solved trains by steps, though nobody asked for these by name."""
    could = config.head_solver == "auto" and stage.trains_head_alone and linear_head(groups)
    return sorted(OF_STEPS & config.explicit) if could and config.cache != "off" and not stage.configures_steps else []


def linear_head_of(split: ModelSplit) -> tuple[nn.Parameter, nn.Parameter | None] | None:
    """Weight and bias of a head that is a linear function of what is kept; None for any other head.

    Found by trying: on random features the model's head has to answer as the matrix product does.
    """
    named = {name: split.model.get_parameter(name) for group in split.upper for name in group.parameters}
    weights = [value for value in named.values() if value.ndim == 2]
    others = [value for value in named.values() if value.ndim != 2]
    if len(split.upper) != 1 or len(split.layouts) != 1 or len(weights) != 1 or len(others) > 1:
        return None
    weight, bias = weights[0], others[0] if others else None
    layout = split.layouts[0]
    if int(np.prod(layout.shape)) != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    features = torch.randn(3, *layout.shape, device=weight.device)
    batch = {"attention_mask": torch.ones(1, 3, dtype=torch.long, device=weight.device)} if layout.ragged else {}
    with torch.no_grad(), evaluating(split.model):
        try:
            found = split.replay([features], batch).reshape(3, -1)
        except (KeyError, RuntimeError):  # the model's own forward wants more than features
            return None
        expected = linear(features.flatten(1), weight, bias)
    same = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    return (weight, bias) if same else None


def solve_head(
    weight: nn.Parameter,
    bias: nn.Parameter | None,
    train: CachedRows,
    validation: CachedRows,
    loss: Callable[..., torch.Tensor],
    goes_on: bool = False,
) -> Fit:
    """Fit a linear head on cached features and write it into the model; see `probe.fit_linear`.

    Raises:
        UserError: features that are not finite.
    """

    def validate(weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        found, items = 0.0, _items(validation)
        for features, labels in chunks(validation):
            logits = linear(features, weight, bias)
            found += float(loss(_Logits(logits), labels, num_items_in_batch=items))
        return found

    fit = fit_linear(lambda: chunks(train), len(weight), loss, validate, bias is not None, goes_on=goes_on)
    with torch.no_grad():
        weight.copy_(fit.weight)
        if bias is not None and fit.bias is not None:
            bias.copy_(fit.bias)
    return fit


class _Logits:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def chunks(rows: CachedRows) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features and labels a chunk at a time: `(rows, d)`, or `(1, tokens, d)` with the labels of all tokens."""
    for begin in range(0, len(rows), CHUNK):
        part = range(begin, min(begin + CHUNK, len(rows)))
        (features,) = rows.features.take(np.asarray(part))
        cells = rows.rows[begin : part.stop]["labels"]
        if rows.features.layouts[0].ragged:
            labels = torch.tensor([label for cell in cells for label in cell])[None]
            yield features.float()[None], labels
        else:
            labels = torch.tensor(np.asarray(cells))
            yield features.float().flatten(1), labels.double() if labels.is_floating_point() else labels


def _items(rows: CachedRows) -> int:
    """How many labels count."""
    return sum(int((labels != -100).sum()) for _, labels in chunks(rows))
