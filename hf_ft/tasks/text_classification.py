"""Text classification: one label or several labels per text or pair of texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.modalities import get_modality
from hf_ft.tasks.base import Raw, Task
from hf_ft.tasks.long_texts import TextCollator, encode_long, mean_of_windows
from hf_ft.tasks.tokenizer_identity import HashedTokenizer

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_ft.settings import EncodingSettings

LONGEST = 512
"""Number of tokens to which texts are truncated by default: the limit of BERT and its relatives."""


def longest(processor: Any, config: EncodingSettings) -> int:
    """Return the number of tokens to which a text is truncated."""
    return int(min(config.max_length or LONGEST, processor.model_max_length))


def encode(dataset: Dataset, processor: Any, config: EncodingSettings, training: bool) -> Dataset:
    """Tokenise once, at most `max_length` tokens or as `long_text` says; the collator pads each batch."""
    limit = longest(processor, config)
    if config.long_text != "truncate":
        return encode_long(dataset, processor, limit, config.long_text)

    tokenizer = HashedTokenizer(processor)

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [batch[name] for name in ("text", "text_pair") if name in batch]
        return dict(tokenizer(*texts, truncation=True, max_length=limit))

    unused = [name for name in dataset.column_names if name != "labels"]
    return dataset.map(tokenize, batched=True, remove_columns=unused, desc="Tokenising")


def collator(processor: Any) -> Any:
    """Return a collator that pads a batch to its longest text."""
    return TextCollator(processor)


def raw(rows: Dataset, processor: Any, config: EncodingSettings, folder: Path) -> Raw:
    """Return texts, or pairs of texts in the form that `pipeline` takes, truncated, whatever `long_text` says."""
    names = [name for name in ("text", "text_pair") if name in rows.column_names]
    inputs = [row["text"] if names == ["text"] else row for row in rows.select_columns(names)]
    return Raw(rows, inputs, {"truncation": True, "max_length": longest(processor, config)})


TASK = Task(
    name="text_classification",
    summary="one or several labels per text or pair of texts",
    modality=get_modality("text"),
    auto_class="AutoModelForSequenceClassification",
    pipeline="text-classification",
    inputs={
        "text": ("text", "sentence", "sentence1", "premise", "question1", "review", "content"),
        "text_pair": ("text_pair", "sentence2", "hypothesis", "question2"),
    },
    optional_inputs=("text_pair",),
    training={"train_sampling_strategy": "group_by_length"},  # texts of similar length need little padding
    encode=encode,
    collator=collator,
    limit=longest,
    raw=raw,
    gather=mean_of_windows,
)
