"""The solved head: a linear probe fitted to convergence on cached features, written into the model's own head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear

from hf_ft.heads.linear_solver import PENALTIES, Fit, fit_linear
from hf_ft.models import ModelSplit, evaluating

if TYPE_CHECKING:
    from hf_ft.feature_cache import CachedRows

CHUNK = 1024
"""Rows that are read at once."""


def linear_head_of(split: ModelSplit) -> tuple[nn.Parameter, nn.Parameter | None] | None:
    """Weight and bias of a head that is a linear function of the cached features; None for any other head.

    Architectures are not asked for their names: on random features the head has to answer as the matrix product does.
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
        except (KeyError, RuntimeError):  # the model's own forward needs more than the features
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
    finetuned_next: bool = False,
    penalty: float | None = None,
    near_start: bool = False,
) -> Fit:
    """Fit a linear head on cached features and write it into the model.

    Args:
        loss: that of the task, as `Learning.loss`.
        finetuned_next: the layers below train in a later stage; see `fit_linear`.
        penalty: the one to use; None chooses one by validation loss.
        near_start: the penalty pulls towards the head's present weights, not towards zero.

    Raises:
        UserError: features that are not finite.
    """

    def validate(weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        found, items = 0.0, _items(validation)
        for features, labels in chunks(validation):
            logits = linear(features, weight, bias)
            found += float(loss(_Logits(logits), labels, num_items_in_batch=items))
        return found

    prior = (weight.detach().cpu(), None if bias is None else bias.detach().cpu()) if near_start else None
    fit = fit_linear(
        lambda: chunks(train),
        len(weight),
        loss,
        validate,
        bias is not None,
        PENALTIES if penalty is None else (penalty,),
        finetuned_next=finetuned_next,
        prior=prior,
    )
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
    """How many labels are not -100."""
    return sum(int((labels != -100).sum()) for _, labels in chunks(rows))
