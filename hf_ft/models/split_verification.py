"""The proof of a model split: the two parts give the logits and the gradients of the whole model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_ft.models.freezing import plain_name
from hf_ft.models.grouping import DepthGroup
from hf_ft.models.model_split import Collate, ModelSplit, Rows, UpperPart, by_example
from hf_ft.models.module_calls import Batch, CannotSplit, running_model_code
from hf_ft.models.tracing import all_require_grad, evaluating, full_precision

# Logits and gradients have different tolerances. Both parts compute the same float32 operations, so logits differ by
# the rounding of another batch shape: 1e-5 of their scale is some ten times what is seen. A gradient is discontinuous
# where a ReLU or a max-pool switches, so rounding moves it much further, while a part that is skipped changes it by the
# order of its own size: 1e-2 separates the two.
LOGIT_TOLERANCE = 1e-5
"""Largest difference between the logits of a split model and of the whole one, relative to their scale."""
GRADIENT_TOLERANCE = 1e-2
"""Largest distance between the gradients, relative to their norm."""
BATCH_TOLERANCE = 1e-4
"""Largest difference of the whole model's own logits between batches that is rounding; more depends on the padding."""


@full_precision()
def verify(split: ModelSplit, rows: Rows, collate: Collate) -> None:
    """Compare a split model with the whole one; sets `split.difference`.

    Features are captured from two batches in reverse order and replayed in one, so that examples meet other neighbours
    and other padding than when they were cached: in training they will as well. What the whole model itself changes
    by being batched otherwise, which is rounding, is allowed to the split model too.

    Gradients are compared because logits alone would not show a split that jumps over blocks that train: the logits
    are right, but these blocks would have no gradient.

    Raises:
        CannotSplit: they differ by more, or the whole model's own logits depend on the padding.
    """
    whole = collate(rows)
    features, alone = _captured_in_other_batches(split, rows, collate)
    upper = UpperPart(split)
    # Those of adapters as well, which no group names; a weight that is shared with the lower part is the lower part's.
    lower = {name for group in split.lower for name in group.parameters}
    shared = {id(value) for name, value in split.model.named_parameters() if plain_name(name) in lower}
    parameters = [value for value in upper.parameters() if id(value) not in shared]
    with all_require_grad(split.model, parameters), torch.enable_grad(), running_model_code(split.place):
        with split.installed():  # before the whole pass, which may leave states in the model that would help
            found, own = _logits_and_gradients(upper, {"features": features, **whole}, parameters)
        expected, gradients = _logits_and_gradients(split.model, whole, parameters)
    scale = max(float(expected.abs().max()), 1e-6)
    rounding = float((alone - expected).abs().max()) / scale
    if rounding > BATCH_TOLERANCE:
        on = "how far a text is padded" if "attention_mask" in whole else "what else is in the batch"
        raise CannotSplit(f"the model's answer depends on {on}")
    if found.shape != expected.shape:
        raise CannotSplit(f"{split.name}: logits have another shape")
    split.difference = float((found - expected).abs().max()) / scale
    # Written so that a difference of NaN is refused.
    if not split.difference <= max(LOGIT_TOLERANCE, 2 * rounding):
        raise CannotSplit(f"{split.name}: the logits differ by {split.difference:.1g} of their scale")
    pairs = list(zip(own, gradients, strict=True))
    missing = any(bool(wanted.any()) and not bool(got.any()) for got, wanted in pairs)
    distance = math.sqrt(sum(float(((got - wanted) ** 2).sum()) for got, wanted in pairs))
    norm = math.sqrt(sum(float((wanted**2).sum()) for _, wanted in pairs))
    if missing or distance > GRADIENT_TOLERANCE * norm:
        raise CannotSplit(f"{split.name}: what trains would get other gradients")


def _captured_in_other_batches(
    split: ModelSplit, rows: Rows, collate: Collate
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Features and the whole model's logits from two batches in reverse order, put back in the order of the rows."""
    order = list(reversed(range(len(rows))))
    half = (len(rows) + 1) // 2
    captured: dict[int, list[torch.Tensor]] = {}
    logits: dict[int, torch.Tensor] = {}
    for places in (part for part in (order[:half], order[half:]) if part):
        batch = collate([rows[i] for i in places])
        with running_model_code(split.place):
            features = split.unbatch(split.capture(batch), batch)
            with torch.no_grad(), evaluating(split.model):
                answers = by_example(split.model(**batch).logits, batch)
        captured |= zip(places, features, strict=True)
        logits |= zip(places, answers, strict=True)
    columns = zip(*(captured[i] for i in range(len(rows))), strict=True)
    return [torch.cat(values) for values in columns], torch.cat([logits[i] for i in range(len(rows))])


def _logits_and_gradients(
    model: nn.Module, inputs: Mapping[str, Any], parameters: list[nn.Parameter]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits without padding, and the gradients of one weighted sum of them.

    The weights run from -1 to 1. With equal weights, whatever cancels in the sum of all logits (the output of a head
    that is centred, say) would have a gradient of zero on both sides and go unchecked.
    """
    with evaluating(model):
        logits = torch.cat(by_example(model(**inputs).logits, inputs))
        total = (logits * torch.linspace(-1, 1, logits.shape[-1]).to(logits)).sum()
        wanted = [value for value in parameters if value.requires_grad]
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    return logits.detach(), [torch.zeros(1) if gradient is None else gradient.cpu() for gradient in gradients]


@contextmanager
def informative_head(model: PreTrainedModel, head: DepthGroup, batch: Batch) -> Iterator[None]:
    """Within the block, a head that gives all examples the same logits has random weights.

    A head of zeros, a usual start for linear probes, would give the right logits whatever a split has cached.
    """
    with torch.no_grad(), evaluating(model):
        rows = by_example(model(**batch).logits, batch)
    logits = torch.stack([row.flatten()[: model.config.num_labels] for row in rows])
    if float((logits - logits[:1]).abs().max()) > LOGIT_TOLERANCE * float(logits.abs().max()):
        yield
        return
    # By the plain model's names, which PEFT changes where the head trains beside adapters.
    own = {plain_name(name): value for name, value in model.named_parameters()}
    before = {name: own[name].detach().clone() for name in head.parameters}
    with torch.no_grad(), torch.random.fork_rng():
        for name in before:
            own[name].normal_(std=0.1)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)
