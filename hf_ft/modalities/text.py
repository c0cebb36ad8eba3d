"""Texts: columns of text or of words, a tokenizer, batches of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.modalities.base import ColumnType, Modality
from hf_ft.modalities.input_code import text_code

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig, PreTrainedModel

PADDING = 5
"""Padding tokens added to try a model."""
DEFAULT_VOCABULARY = 256
"""Models of bytes or characters state no size of their vocabulary."""


def load_processor(folder: str, config: PreTrainedConfig, name: str, **options: Any) -> tuple[Any, list[str]]:
    """The tokenizer of a source model; there is nothing to note."""
    from hf_ft.modalities.tokenizer import load_tokenizer

    return load_tokenizer(folder, config, name, **options), []


def load_saved_processor(folder: str, config: PreTrainedConfig) -> Any:
    """The tokenizer of a result folder."""
    from hf_ft.modalities.tokenizer import load_tokenizer

    return load_tokenizer(folder, config, folder, trust_remote_code=False)


def example_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """Eight tokens that are neither padding nor, but for the last, the end of a sentence; None for other models."""
    import inspect

    import torch

    accepted = inspect.signature(model.forward).parameters
    if "input_ids" not in accepted and not any(each.kind is each.VAR_KEYWORD for each in accepted.values()):
        return None
    text = model.config.get_text_config()
    words = getattr(text, "vocab_size", None) or DEFAULT_VOCABULARY
    tokens = torch.arange(3, 11, device=model.device).unsqueeze(0) % words
    pad, end = getattr(text, "pad_token_id", None), getattr(text, "eos_token_id", None)
    if pad is not None:
        tokens = torch.where(tokens == pad, (pad + 1) % words, tokens)
    if isinstance(end, int):
        # Classifiers of BART's kind read the state at the sentence end, so there must be exactly one.
        tokens = torch.where(tokens == end, (end + 1) % words, tokens)
        tokens[:, -1] = end
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def padding_trial(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None:
    """A text alone, and the same text padded as if a longer one stood beside it."""
    import torch

    inputs = example_inputs(model)
    if inputs is None:
        return None
    tokens = inputs["input_ids"]
    tokens = torch.cat([tokens[:, :-1]] * 3 + [tokens[:, -1:]], dim=1)  # longer than the pieces that some models cut
    mask = torch.ones_like(tokens)
    pad = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    padding = torch.full((1, PADDING), pad, device=tokens.device)
    padded = {
        "input_ids": torch.cat([tokens, padding], dim=1),
        "attention_mask": torch.cat([mask, torch.zeros_like(padding)], dim=1),
    }
    return {"input_ids": tokens, "attention_mask": mask}, padded


def batch_tokens(batch: Mapping[str, Any]) -> Any:
    """The tokens `(batch, tokens)` of a batch of texts, padding included; None for a batch of another modality."""
    return batch.get("input_ids")


def token_counts(rows: Dataset) -> NDArray[np.int64] | None:
    """The number of tokens of each encoded row `(rows,)`; None where rows are not texts."""
    import numpy as np
    import pyarrow.compute as pc

    from hf_ft.tables import batches

    if "input_ids" not in rows.column_names:
        return None
    columns = (batch["input_ids"] for batch in batches(rows.select_columns(["input_ids"])))
    return np.concatenate([pc.list_value_length(column).to_numpy() for column in columns]).astype(np.int64)


def longest_first(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """The order of texts from the longest to the shortest, in which batches hold little padding.

    Texts of one length stay in their order, so the batches are the same in every run.
    """
    import numpy as np

    return np.argsort(-lengths, kind="stable")


def filled_batches(lengths: NDArray[Any], order: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut an order of texts into batches of at most so many tokens, padding included.

    A text that is longer is a batch of its own. In an order by length batches hold little padding.
    """
    begin, longest = 0, 1
    for place, length in enumerate(lengths[order].tolist()):
        longest = max(longest, length)
        if place > begin and (place - begin + 1) * longest > tokens:
            yield order[begin:place]
            begin, longest = place, max(1, length)
    if len(order):
        yield order[begin:]


def full_lengths(processor: Any, columns: Sequence[Sequence[Any]]) -> list[int]:
    """The number of tokens of each text (or pair, for two columns) that is not truncated."""
    return [len(tokens) for tokens in processor(*columns, verbose=False)["input_ids"]]


def _holds_text(feature: Any) -> bool:
    from hf_ft.tables import holds_text

    return holds_text(feature)


def _holds_words(feature: Any) -> bool:
    from hf_ft.tables import holds_words

    return holds_words(feature)


_TEXT = ColumnType(_holds_text, "text")

MODALITY = Modality(
    name="text",
    plural="texts",
    unit="tokens",
    example='"some text"',
    options=("max_length", "long_text", "pooling", "head_init", "label_template", "tokens_per_batch"),
    columns={"text": _TEXT, "text_pair": _TEXT, "tokens": ColumnType(_holds_words, "lists of words")},
    method_defaults="text",
    load_processor=load_processor,
    load_saved_processor=load_saved_processor,
    example_inputs=example_inputs,
    padding_trial=padding_trial,
    sentence_encoders=True,
    input_code=text_code,
)
