"""The search for the deepest verified split of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from hf_ft.models.forward_split import ForwardSplit
from hf_ft.models.grouping import DepthGroup, DepthGroups
from hf_ft.models.head_split import HeadSplit
from hf_ft.models.model_split import Collate, ModelSplit, Rows
from hf_ft.models.module_calls import CannotSplit
from hf_ft.models.split_verification import informative_head, verify


def find_split(model: PreTrainedModel, groups: DepthGroups, depth: int, rows: Rows, collate: Collate) -> ModelSplit:
    """The deepest split with at most `depth` groups in its lower part that passes verification.

    The search starts at the last frozen group, where a split saves most, and goes down one group at a time: a split
    that fails at one depth (a block that hands two tensors on, say) often works one block below.

    Args:
        depth: most groups in the lower part, as `AppliedStage.frozen_depth` counts them.
        rows: a few encoded examples without labels, of lengths as different as in the data.
        collate: makes a batch of rows, on the model's device.

    Raises:
        CannotSplit: no depth works; the text is the reason at the greatest depth.
    """
    used = [group for group in groups if group.role != "unused"]
    reasons = []
    with informative_head(model, used[-1], collate(rows)):
        for lower in range(min(depth, len(used) - 1), 0, -1):
            if used[lower - 1].role == "stem" and len(used) > 2:
                break  # embeddings alone are not worth a cache
            try:
                split = split_at(model, used, lower, rows, collate)
            except CannotSplit as error:
                reasons.append(str(error))
            else:
                split.notes += [f"not split deeper: {reasons[0]}"] if reasons else []
                return split
    raise CannotSplit(reasons[0] if reasons else "no block is frozen")


def split_at(
    model: PreTrainedModel, groups: Sequence[DepthGroup], depth: int, rows: Rows, collate: Collate
) -> ModelSplit:
    """The verified split after the first `depth` groups, of which none is `unused`.

    Before the head the simplest way is tried first; the model's own forward with stubs is the most general, and slower.

    Raises:
        CannotSplit: none of the ways works; the text is the reason of the last.
    """
    ways: list[Callable[[], ModelSplit]] = []
    if groups[depth].role == "head":
        ways += [
            lambda: HeadSplit(model, groups, depth, rows, collate),
            lambda: ForwardSplit(model, groups, depth, rows, collate, at_head=True),
        ]
    if any(group.role == "block" for group in groups[:depth]):
        ways.append(lambda: ForwardSplit(model, groups, depth, rows, collate))
    reason = f"{groups[depth - 1].name} has no block below it"
    for way in ways:
        try:
            split = way()
            verify(split, rows, collate)
        except CannotSplit as error:
            reason = str(error)
        else:
            return split
    raise CannotSplit(reason)
