"""The contrastive objective: examples of one class get similar features, others different ones.

Every pair of examples in a batch is a pair to learn from, so n forward passes give n (n - 1) / 2 pairs. SetFit
(https://arxiv.org/abs/2209.11055), after which the method is modelled, runs two texts for each pair instead. The
features are what the last layer of the head reads, so that what is learnt here is what a linear head separates next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from hf_ft.errors import UserError
from hf_ft.methods import CONTRASTIVE
from hf_ft.models import DepthGroups, NoFeatures, features_as_logits
from hf_ft.tasks import Target

TEMPERATURE = 0.1
"""Divides cosines in the softmax, as in https://arxiv.org/abs/2004.11362."""


def check_contrastive(model: PreTrainedModel, groups: DepthGroups, target: Target) -> None:
    """Check that the labels make pairs, and that the head reads one vector for each example.

    Raises:
        UserError: One of them is not so.
    """
    if not target.contrasts:
        raise UserError(
            f"A contrastive stage needs one class for each example, and these data are {target.name}.",
            option="method",
            value=CONTRASTIVE,
            hint="Use lp_ft.",
        )
    try:
        with features_as_logits(model, groups):
            pass
    except NoFeatures as reason:
        raise UserError(
            f"A contrastive stage compares one vector for each example, and {reason}.",
            option="method",
            value=CONTRASTIVE,
            hint="Use lp_ft.",
        ) from None


def contrastive_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Return the supervised contrastive loss of a batch for `Trainer(compute_loss_func=...)`.

    Each example that has another one of its class in the batch is an anchor: the loss is the mean, over those others,
    of the negative log-softmax of their cosine with the anchor (https://arxiv.org/abs/2004.11362, equation 2).

    Args:
        outputs: Its `logits` are features `(batch, width)`.
        labels: The class of each example, `(batch,)`.
        num_items_in_batch: The number of examples in all accumulated batches.
    """
    features = normalize(outputs.logits.float(), dim=-1)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    cosines = (features @ features.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    likelihood = (cosines - cosines.logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)
    alike = (labels[:, None] == labels[None]) & ~itself
    others = alike.sum(1)
    anchors = others > 0
    total = -((likelihood * alike).sum(1)[anchors] / others[anchors]).sum()
    share = len(labels) / max(int(anchors.sum()), 1)  # a batch counts by its examples, anchors or not
    return total * share / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def in_pairs(labels: Sequence[int]) -> Callable[[torch.Generator], list[int]]:
    """Return a random order of the rows in which two of a class follow each other, as long as there are two.

    So every batch of an even size has pairs of a class, even with more classes than examples in a batch.
    """

    def order(generator: torch.Generator) -> list[int]:
        waiting: dict[int, int] = {}
        pairs: list[tuple[int, ...]] = []
        for row in torch.randperm(len(labels), generator=generator).tolist():
            first = waiting.pop(labels[row], None)
            if first is None:
                waiting[labels[row]] = row
            else:
                pairs.append((first, row))
        pairs = [pairs[place] for place in torch.randperm(len(pairs), generator=generator).tolist()]
        return [row for pair in pairs for row in pair] + list(waiting.values())

    return order
