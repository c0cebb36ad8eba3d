"""Texts that are longer than what a model reads: truncated, cut to their head and tail, or read in windows.

`head_tail` is "head+tail" of https://arxiv.org/abs/1905.05583, in the proportion that was best there: the first 128 and
the last 382 of 510 tokens. `windows` reads all of a text, in pieces that overlap by a quarter. In training each window
is an example with the label of its text; in evaluation the logits of a text are the mean over its windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import UserError
from hf_ft.tasks.tokenizer_identity import HashedTokenizer

if TYPE_CHECKING:
    from datasets import Dataset

HEAD, OVERLAP = 4, 4
"""One part in so many of a text's tokens comes from its beginning; windows overlap by one part in so many."""


@dataclass(frozen=True)
class Pieces:
    """How the tokens of a long text are divided, in numbers of tokens.

    Args:
        limit: What the model reads at once, with special tokens.
        room: The same without special tokens.
        before: Special tokens that the tokenizer puts before a text.
        way: `head_tail` or `windows`.
    """

    limit: int
    room: int
    before: int
    way: str

    @property
    def overlap(self) -> int:
        """Tokens that a window shares with the one before, as the `stride` of tokenizers."""
        return self.room // OVERLAP

    @property
    def head(self) -> int:
        """Tokens from the beginning for `head_tail`, with the special ones there."""
        return self.before + self.room // HEAD

    def of(self, count: int) -> list[list[int]]:
        """Return the positions of the tokens of each piece of a text of `count` tokens, with special tokens."""
        if count <= self.limit:
            return [list(range(count))]
        if self.way == "head_tail":
            return [[*range(self.head), *range(count - (self.limit - self.head), count)]]
        begin, end = range(self.before), count - (self.limit - self.room - self.before)
        # As the tokenizers' own: the last window is the first to reach the end, and may be shorter.
        starts = range(self.before, end - self.overlap, self.room - self.overlap)
        return [[*begin, *range(start, min(start + self.room, end)), *range(end, count)] for start in starts]


def pieces(processor: Any, limit: int, way: str) -> Pieces:
    """Return how long texts are divided for a tokenizer."""
    added = processor("a", return_special_tokens_mask=True)["special_tokens_mask"]
    before = next((i for i, special in enumerate(added) if not special), 0)
    return Pieces(limit, limit - processor.num_special_tokens_to_add(pair=False), before, way)


def encode_long(dataset: Dataset, processor: Any, limit: int, way: str) -> Dataset:
    """Tokenise texts whole and divide long ones; windows have the index of their text in the column `example`.

    Raises:
        UserError: The data are pairs of texts.
    """
    if "text_pair" in dataset.column_names:
        raise UserError(
            f"--long_text {way} needs single texts, and these data are pairs.",
            option="long_text",
            value=way,
            hint="Leave it out: the longer text of a pair is truncated. Or name one column with --text_column.",
        )
    division, tokenizer = pieces(processor, limit, way), HashedTokenizer(processor)

    def divided(batch: dict[str, list[Any]], examples: list[int]) -> dict[str, Any]:
        whole = dict(tokenizer(batch["text"], verbose=False))
        parts = [division.of(len(tokens)) for tokens in whole["input_ids"]]
        owners = [place for place, found in enumerate(parts) for _ in found]
        kept = [positions for found in parts for positions in found]
        columns = {
            name: [[values[owner][i] for i in positions] for owner, positions in zip(owners, kept, strict=True)]
            for name, values in whole.items()
        }
        if "labels" in batch:
            columns["labels"] = [batch["labels"][owner] for owner in owners]
        return columns | ({"example": [examples[owner] for owner in owners]} if way == "windows" else {})

    columns = dataset.column_names
    return dataset.map(divided, batched=True, with_indices=True, remove_columns=columns, desc="Tokenising")


class TextCollator:
    """Pad a batch to its longest text, and drop the column that the model does not take."""

    def __init__(self, processor: Any) -> None:
        from transformers import DataCollatorWithPadding

        self.pad = DataCollatorWithPadding(processor)

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        return self.pad([{name: value for name, value in row.items() if name != "example"} for row in rows])


def mean_of_windows(encoded: Dataset, outputs: Any) -> Any:
    """Return outputs `(examples, outputs)` as the mean over the windows of each text; others as they are."""
    if "example" not in encoded.column_names:
        return np.asarray(outputs)
    _, owners, counts = np.unique(encoded["example"][:], return_inverse=True, return_counts=True)
    values = np.asarray(outputs)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, owners, values)
    return (sums / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(values.dtype)
