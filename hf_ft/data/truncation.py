"""Truncation: how many texts are longer than the model reads, and how many tokens are lost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from hf_ft.data.splits import Splits
from hf_ft.modalities import full_lengths, token_counts
from hf_ft.settings import EncodingSettings
from hf_ft.tables import BATCH, batches
from hf_ft.tasks import Task


@dataclass(frozen=True)
class Truncation:
    """So many of `of` examples of a split are longer than `limit` tokens, which loses `lost` of `tokens` tokens."""

    split: str
    examples: int
    of: int
    lost: int
    tokens: int
    limit: int

    def note(self, longest: int | None) -> str:
        """One sentence, with the fix; `longest` is what the model takes, None where it sets no limit."""
        share = 100 * self.lost / self.tokens
        if longest is not None and longest <= self.limit:
            remedy = "The model takes no more: split the texts, or choose a model for longer ones."
        else:
            remedy = "Raise --max_length" + (f" (the model takes {longest:,})." if longest else ".")
        one = self.examples == 1
        return (
            f"{self.split}: {self.examples:,} of {self.of:,} texts {'is' if one else 'are'} longer than {self.limit:,} "
            f"tokens and {'is' if one else 'are'} truncated, which loses {share:.2g} % of all tokens. {remedy}"
        )


UNLIMITED = 10**9
"""A larger limit means none: tokenizers say 1e30."""


def with_truncation(splits: Splits, task: Task, processor: Any, config: EncodingSettings) -> Splits:
    """The same splits with the truncation of their texts counted and noted; once for all models of one tokenizer."""
    if task.limit is None or splits.truncation is not None:
        return splits
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = [count_truncated(name, part, task, processor, config) for name, part in parts.items() if part is not None]
    found = tuple(one for one in counts if one is not None)
    notes = (*splits.notes, *(one.note(max_input_tokens(processor)) for one in found))
    return dataclasses.replace(splits, notes=notes, truncation=found)


def max_input_tokens(processor: Any) -> int | None:
    """The longest text that a model takes, in tokens; None where its tokenizer sets no limit."""
    longest = int(processor.model_max_length)
    return longest if longest < UNLIMITED else None


def count_truncated(
    split: str, rows: Dataset, task: Task, processor: Any, config: EncodingSettings
) -> Truncation | None:
    """Count the truncated examples and the lost tokens; None if no example is truncated.

    Only examples as long as the limit are tokenised a second time, whole.
    """
    if task.limit is None:
        return None
    limit = task.limit(processor, config)
    encoded = task.encode(rows, processor, config, False)
    lengths = token_counts(encoded)
    assert lengths is not None  # a task with a limit makes tokens
    texts = rows.select_columns([role for role in task.inputs if role in rows.column_names])
    examples = lost = 0
    for batch in batches(texts.select(np.flatnonzero(lengths >= limit)), BATCH // 10):
        columns = [batch[role].to_pylist() for role in texts.column_names]
        whole = full_lengths(processor, columns)
        examples += sum(length > limit for length in whole)
        lost += sum(max(0, length - limit) for length in whole)
    return Truncation(split, examples, len(rows), lost, int(lengths.sum()) + lost, limit) if examples else None
