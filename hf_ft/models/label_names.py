"""A head that starts from the names of the labels: the rows of its weight are embeddings of texts about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from hf_ft.errors import UserError, shorten
from hf_ft.models.grouping import DepthGroups
from hf_ft.models.head_features import NoFeatures, features_as_logits, head_features

SHARPNESS = 20.0
"""Logits are cosines times this, the usual scale of sentence encoders."""
SAYS_NOTHING = re.compile(r"(label|class)?[\s_-]*\d*", re.IGNORECASE)


def check_names(labels: Sequence[str]) -> None:
    """Check that label names are words.

    Raises:
        UserError: One is a number, or a number behind `LABEL_`.
    """
    silent = [label for label in labels if SAYS_NOTHING.fullmatch(label.strip())]
    if silent:
        raise UserError(
            f"--head_init label_names: the names of these labels say nothing: {shorten(silent, 5)}.",
            option="head_init",
            value="label_names",
            hint="Give the labels names in the data, or leave it out.",
        )


def start_from_names(
    model: PreTrainedModel, tokenizer: Any, groups: DepthGroups, labels: Sequence[str], template: str
) -> None:
    """Write the embeddings of texts about the labels into the head, so that its logits rank labels by cosine.

    The embeddings are what the head itself reads of these texts. Their mean is subtracted, which changes no
    probability, and the bias is zero.

    Args:
        template: The text, with `{label}` in it.

    Raises:
        UserError: Names that say nothing, a head without a single last layer, or equal embeddings.
    """
    check_names(labels)
    texts = [template.replace("{label}", label.replace("_", " ")) for label in labels]
    device = next(model.parameters()).device
    try:
        with features_as_logits(model, groups):
            found = [head_features(model, tokenizer(text, return_tensors="pt").to(device)) for text in texts]
    except NoFeatures as reason:
        raise UserError(
            f"--head_init label_names: {reason}.", option="head_init", value="label_names", hint="Leave it out."
        ) from None
    features = torch.cat(found).float()
    directions = normalize(features, dim=1)
    directions -= directions.mean(0)
    if not bool((directions.norm(dim=1) > 1e-4).all()):
        raise UserError(
            "--head_init label_names: the encoder gives the same embedding for different labels.",
            option="head_init",
            value="label_names",
            hint="Leave it out, or change --label_template.",
        )
    weights = directions * (SHARPNESS / features.norm(dim=1).mean())
    with torch.no_grad():
        for name in (name for group in groups for name in group.label_sized):
            parameter = model.get_parameter(name)
            parameter.copy_(weights) if parameter.ndim == 2 else parameter.zero_()
