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
from hf_ft.tasks import Pieces, Task, pieces


@dataclass(frozen=True)
class Truncation:
    """So many of `of` examples of a split are longer than `limit` tokens, which loses `lost` of `tokens` tokens.

    Args:
        long_text: How they are read, the setting of that name.
        head: With `head_tail`, the tokens that are read from the beginning of a long text; the others are its last.
        windows: With `windows`, how many of them the long texts make, and how many tokens neighbours share (`overlap`).
    """

    split: str
    examples: int
    of: int
    lost: int
    tokens: int
    limit: int
    long_text: str = "truncate"
    head: int = 0
    windows: int = 0
    overlap: int = 0

    def note(self, longest: int | None) -> str:
        """One sentence, with the fix; `longest` is what the model takes, None where it sets no limit."""
        share = 100 * self.lost / self.tokens
        verb = "is" if self.examples == 1 else "are"
        subject = f"{self.split}: {self.examples:,} of {self.of:,} texts {verb} longer than {self.limit:,} tokens"
        if self.long_text == "windows":
            each = self.windows / self.examples
            return (
                f"{subject} and {verb} read in {self.windows:,} overlapping windows ({each:.1f} each): nothing is cut."
            )
        if self.long_text == "head_tail":
            kept = f"the first {self.head:,} and the last {self.limit - self.head:,}"
            return f"{subject}, of which {kept} are read, which loses {share:.2g} % of all tokens."
        if longest is not None and longest <= self.limit:
            remedy = "The model takes no more: read them by --long_text head_tail or windows, or choose another model."
        else:
            remedy = "Raise --max_length" + (f" (the model takes {longest:,})." if longest else ".")
        return f"{subject} and {verb} truncated, which loses {share:.2g} % of all tokens. {remedy}"


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
    if task.pools(encoded):
        return _count_windows(split, rows, encoded, pieces(processor, limit, config.long_text))
    lengths = token_counts(encoded)
    assert lengths is not None  # a task with a limit makes tokens
    texts = rows.select_columns([role for role in task.inputs if role in rows.column_names])
    examples = lost = 0
    for batch in batches(texts.select(np.flatnonzero(lengths >= limit)), BATCH // 10):
        columns = [batch[role].to_pylist() for role in texts.column_names]
        whole = full_lengths(processor, columns)
        examples += sum(length > limit for length in whole)
        lost += sum(max(0, length - limit) for length in whole)
    if not examples:
        return None
    found = Truncation(split, examples, len(rows), lost, int(lengths.sum()) + lost, limit, config.long_text)
    head = pieces(processor, limit, config.long_text).head if config.long_text == "head_tail" else 0
    return dataclasses.replace(found, head=head)


def _count_windows(split: str, rows: Dataset, encoded: Dataset, division: Pieces) -> Truncation | None:
    """Count the examples of several windows; their tokens are those of the windows, less what neighbours share."""
    lengths = token_counts(encoded)
    assert lengths is not None
    each = np.bincount(encoded["example"][:], minlength=len(rows))
    long, windows = int((each > 1).sum()), int(each[each > 1].sum())
    special = division.limit - division.room
    tokens = int(lengths.sum()) - (windows - long) * (division.overlap + special)
    numbers = {"windows": windows, "overlap": division.overlap}
    return Truncation(split, long, len(rows), 0, tokens, division.limit, division.way, **numbers) if long else None
