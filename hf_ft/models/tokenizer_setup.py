"""What a tokenizer has to know of its model: a padding token, and the longest text."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from hf_ft.errors import UserError


def match_padding(model_config: PreTrainedConfig, processor: Any, notes: list[str]) -> None:
    """Set a padding token in tokenizer and config where there is none, as in most decoders; adds a note on it."""
    if not hasattr(processor, "pad_token_id"):
        return
    if processor.pad_token_id is None:
        processor.pad_token = processor.unk_token or processor.eos_token
        notes.append(f"the model had no padding token: '{processor.pad_token}' is used and saved")
    text = model_config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = processor.pad_token_id
        model_config.pad_token_id = processor.pad_token_id


def limit_length(processor: Any, model: PreTrainedModel, asked: int | None) -> None:
    """Set `model_max_length` of a tokenizer to what the model can take; many tokenizers name no limit (1e30).

    Models with relative positions have no limit, or say -1 (XLNet), which means the same.

    Raises:
        UserError: `asked`, the user's `max_length`, is above the limit, or leaves no room for text.
    """
    if not hasattr(processor, "model_max_length"):
        return
    if processor.model_max_length < 1:
        processor.model_max_length = VERY_LARGE_INTEGER
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and 0 < limit < processor.model_max_length:
        processor.model_max_length = limit - _first_position(model, limit)
    longest = processor.model_max_length
    if asked and asked > longest:
        raise UserError(f"max_length {asked:,} is more than the model's longest text, {longest:,} tokens.")
    special = processor.num_special_tokens_to_add()
    if asked and asked <= special:
        raise UserError(
            f"max_length {asked} leaves nothing of a text, to which the tokenizer adds {special} tokens of its own. "
            f"Use at least --max_length {special + 1}."
        )


def _first_position(model: PreTrainedModel, limit: int) -> int:
    """How many positions are never used: RoBERTa and its kind count positions from the padding index on."""
    tables = [part for part in model.modules() if isinstance(part, torch.nn.Embedding) and part.num_embeddings == limit]
    return next((int(table.padding_idx) + 1 for table in tables if table.padding_idx is not None), 0)
