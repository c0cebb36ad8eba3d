"""The fresh head of a loaded model, and the proof that nothing but the head is new."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from hf_ft.errors import UserError, shorten
from hf_ft.models.grouping import DepthGroups, label_sized_parameters
from hf_ft.settings import ModelSettings


def renew_head(
    model: PreTrainedModel,
    groups: DepthGroups,
    config: ModelSettings,
    previous: Sequence[str],
    labels: Sequence[str],
    new: set[str],
    notes: list[str],
) -> set[str]:
    """Initialise the head anew where the checkpoint's head was loaded; returns the names of the new parameters.

    `from_pretrained` replaces a head by its size only: a checkpoint for as many other classes would silently keep its
    head.
    """
    loaded = label_sized_parameters(model) - new
    same = list(previous) == list(labels)
    if config.keep_head and same and loaded:
        notes.append("the checkpoint's head is kept: its labels are those of the data")
        return set()
    if config.keep_head:
        raise UserError(
            f"--keep_head: the head of '{config.model}' has the labels {shorten(previous)}, "
            f"the data {shorten(labels)}. Leave out --keep_head for a fresh head."
        )
    if not loaded:
        return set()
    names = set(groups.of_role("head")[0].parameters)
    fresh = dict(type(model)(model.config).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.copy_(fresh[name])
    notes.append("the checkpoint's head was replaced by a fresh one")
    return names


def check_only_head_is_new(model: PreTrainedModel, new: set[str], groups: DepthGroups, name: str) -> None:
    """Raise unless every newly initialised parameter comes after the last block, and has sane values.

    A missing pooler is new as well; it joins the head, so that it trains. A new parameter in the stem or a block means
    that the backbone itself did not load (another image size, other layer widths, renamed keys).

    Raises:
        UserError: names the tensors of the backbone that would be random.
    """
    wild = [key for key, value in model.named_parameters() if key in new and not bool((value.abs() < 1e4).all())]
    if wild:
        raise RuntimeError(f"New parameters hold wild or non-finite numbers: {shorten(wild, 3)}")
    below = sorted(key for key in new if groups.owner(key).role in ("stem", "block"))
    if below:
        raise UserError(
            f"'{name}' does not fit its weights: {len(below)} tensors of the backbone would be random, not "
            f"pretrained: {shorten(below, 3)}. Check config.json against the checkpoint (image_size, sizes of layers)."
        )
