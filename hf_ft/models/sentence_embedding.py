"""A classifier that reads the sentence embedding its encoder was trained for, and is still a plain model.

Sentence encoders are trained with the mean over their tokens, or with the state of the first one. The classifiers of
BERT and RoBERTa read the first token through a dense layer with tanh, which was trained for neither: a linear probe
there scores 0.42 where the mean scores 0.79 (MiniLM, 300 questions of six classes). Two changes of the weights make
such a classifier read the embedding; nothing but `num_hidden_layers` changes in its config.

- For the mean, a block is added behind the last one. Its queries are zero, so each token attends to all tokens alike,
  and its values are large multiples of the states, so that the residual connection hardly counts. What it computes at
  the first token is the mean, standardised by the layer normalisation, which no cosine notices.
- The dense layer becomes a small multiple of the identity, where tanh is linear.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from hf_ft.models.grouping import DepthGroups, depth_groups
from hf_ft.models.head_features import NoFeatures, features_as_logits, head_features
from hf_ft.models.pooling import MEAN
from hf_ft.models.tracing import evaluating, example_inputs

FIRST = "cls"
"""The pooling of encoders that are trained with the state of the first token."""
GAIN = 10.0
"""Of the values and of the attention's output: their product is how much more the mean counts than the residual."""
SLOPE = 0.1
"""Of the dense layer: standardised states times this are where tanh is nearly linear."""
TOLERANCE = 0.03
"""Largest difference of cosines between what the head reads and the embedding."""

ZERO = ("attention.self.query", "output.dense")
AMPLIFIED = ("attention.self.value", "attention.output.dense")
STANDARDISED = ("attention.output.LayerNorm", "output.LayerNorm")
"""Layers in the blocks of BERT, RoBERTa and their kin. The keys stay as they are, so that queries can learn."""


class CannotRead(Exception):
    """The head cannot be made to read the sentence embedding; the text says why."""


def read_embedding(model: PreTrainedModel, groups: DepthGroups, pooling: str | None) -> PreTrainedModel:
    """Return a model whose head reads the sentence embedding, verified on random tokens.

    Args:
        model: A text classifier with the encoder's weights; returned as it is if its head reads the embedding already.
        groups: Its depth groups.
        pooling: What the encoder was trained with, as `sentence_pooling` returns it.

    Raises:
        CannotRead: It is no sentence encoder, or its architecture cannot express the embedding.
    """
    if pooling not in (MEAN, FIRST):
        raise CannotRead(
            f"its sentence encoder pools by {pooling}" if pooling else "its folder names no sentence encoder"
        )
    if reads_embedding(model, groups, pooling):
        return model
    kind = type(model).__name__
    changed = _with_mean_block(model) if pooling == MEAN else copy.deepcopy(model)
    groups = depth_groups(changed)
    dense = _dense_layer(changed, groups)
    if dense is None:
        raise CannotRead(f"the head of {kind} has no single dense layer before its last one")
    with torch.no_grad():
        dense.weight.copy_(SLOPE * torch.eye(len(dense.weight)))
        if dense.bias is not None:
            dense.bias.zero_()
    difference = embedding_difference(model, changed, groups, pooling)
    if difference > TOLERANCE:
        raise CannotRead(f"the head of {kind} computes something else (cosines differ by {difference:.2f})")
    return changed


def reads_embedding(model: PreTrainedModel, groups: DepthGroups, pooling: str | None) -> bool:
    """Return whether the last layer of a model's head reads the sentence embedding of its own encoder."""
    try:
        return pooling in (MEAN, FIRST) and embedding_difference(model, model, groups, pooling) <= TOLERANCE
    except CannotRead:
        return False


def _with_mean_block(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model with one more block, whose output at each token is the standardised mean over all tokens."""
    config = copy.deepcopy(model.config)
    try:
        config.num_hidden_layers += 1
        wider = type(model)(config)
    except Exception as error:  # the model's own code: a list with an entry for each block is too short, for example
        raise CannotRead(f"{type(model).__name__} takes no further block") from error
    missing, unexpected = wider.load_state_dict(model.state_dict(), strict=False)
    blocks = {name[: name.index(".attention.")] for name in missing if ".attention." in name}
    if len(blocks) != 1 or unexpected or not all(name.startswith(f"{min(blocks)}.") for name in missing):
        raise CannotRead(f"{type(model).__name__} takes no further block")
    place = blocks.pop()
    parent, _, last = place.rpartition(".")
    block = wider.get_submodule(place)
    block.load_state_dict(wider.get_submodule(f"{parent}.{int(last) - 1}").state_dict())
    try:
        _average(block)
    except AttributeError as error:
        raise CannotRead(f"the blocks of {type(model).__name__} are not those of BERT") from error
    return wider.eval()


def _average(block: nn.Module) -> None:
    """Set the weights of a block so that it averages over the tokens."""
    parts: dict[str, Any] = {name: block.get_submodule(name) for name in (*ZERO, *AMPLIFIED, *STANDARDISED)}
    with torch.no_grad():
        for name, layer in parts.items():
            layer.bias.zero_()
            if name in ZERO:
                layer.weight.zero_()
            elif name in AMPLIFIED:
                layer.weight.copy_(GAIN * torch.eye(len(layer.weight)))
            else:
                layer.weight.fill_(1.0)


def _dense_layer(model: PreTrainedModel, groups: DepthGroups) -> Any:
    """The one square linear layer behind the blocks, before the last layer of the head; None if it is not alone."""
    last = {name for group in groups for name in group.label_sized}
    behind = [name for group in groups if group.role in ("neck", "head") for name in group.parameters]
    matrices = [name for name in behind if name not in last and model.get_parameter(name).ndim == 2]
    if len(matrices) != 1:
        return None
    layer = model.get_submodule(matrices[0].rpartition(".")[0])
    square = isinstance(layer, nn.Linear) and layer.in_features == layer.out_features
    return layer if square else None


def embedding_difference(
    encoder: PreTrainedModel, model: PreTrainedModel, groups: DepthGroups, pooling: str | None
) -> float:
    """Return the largest difference between cosines of an encoder's embeddings and those of what a model's head reads.

    The texts are random tokens of several lengths.

    Raises:
        CannotRead: The head reads several vectors of an example.
    """
    batch = _random_texts(encoder)
    body: Any = getattr(encoder, encoder.base_model_prefix)
    with torch.no_grad(), evaluating(encoder):
        try:
            states = body(**batch).last_hidden_state
        except Exception as error:  # the model's own code: an encoder and a decoder want more inputs, for example
            raise CannotRead(f"{type(body).__name__} does not read texts alone") from error
    mask = batch["attention_mask"][..., None].to(states)
    embedding = (states * mask).sum(1) / mask.sum(1) if pooling == MEAN else states[:, 0]
    try:
        with features_as_logits(model, groups):
            read = head_features(model, batch)
    except NoFeatures as reason:
        raise CannotRead(str(reason)) from None
    return float((_cosines(embedding) - _cosines(read)).abs().max())


def _random_texts(model: PreTrainedModel) -> dict[str, Tensor]:
    """Four texts of 5 to 20 random tokens, padded at the end."""
    device = example_inputs(model)["input_ids"].device
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([20, 15, 10, 5])
    words = torch.randint(10, model.config.get_text_config().vocab_size, (4, 20), generator=generator)
    mask = (torch.arange(20)[None] < lengths[:, None]).long()
    pad = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    return {"input_ids": torch.where(mask.bool(), words, pad).to(device), "attention_mask": mask.to(device)}


def _cosines(vectors: Tensor) -> Tensor:
    """Cosines between vectors `(n, width)` about the mean of their own entries, which a layer normalisation removes."""
    vectors = normalize(vectors - vectors.mean(1, keepdim=True), dim=1)
    return vectors @ vectors.T
