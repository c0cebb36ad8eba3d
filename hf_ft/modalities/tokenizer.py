"""Whether a tokenizer belongs to its model: `transformers` makes one of a few tokens up where the files are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig

from hf_ft.errors import UserError, first_line

FAR, PADDED = 4, 128
"""How many times larger one vocabulary may be than the other, and a difference that is the padding of small ones."""
LOOKED_AT = 1000
"""Texts whose tokens are counted."""
MOST = 0.5
"""Share of unknown tokens above which training is refused."""


def load_tokenizer(folder: str, settings: PreTrainedConfig, name: str, **options: Any) -> Any:
    """The tokenizer of a model, as large as the model's vocabulary or nearly.

    Tables of embeddings are padded to round numbers and tokens are added, so the two need not be equal. Models of
    characters state no vocabulary.

    Raises:
        UserError: it cannot be loaded, or the sizes are far apart, so that it belongs to another model or was made up.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # tokenizers raise what their files make them stumble over
        raise UserError(first_line(f"Cannot load the tokenizer of '{name}'", error)) from error
    size, wanted = len(tokenizer), getattr(settings.get_text_config(), "vocab_size", None)
    if not isinstance(wanted, int):
        return tokenizer
    small, large = sorted((size, wanted))
    if large <= FAR * small or large - small <= PADDED:
        return tokenizer
    files = dict.fromkeys(["tokenizer.json", *type(tokenizer).vocab_files_names.values()])
    path = Path(folder)
    lost = path.is_dir() and not any((path / file).exists() for file in files)
    why = f": the folder has none of the files {', '.join(files)}" if lost else ", so they do not belong together"
    raise UserError(
        f"The tokenizer of '{name}' has {size:,} tokens and the model {wanted:,}{why}. Copy the tokenizer's files into "
        "the folder from where the model came from; `save_pretrained` of the tokenizer writes them."
    )


def check_tokens(encoded: Any, tokenizer: Any, name: str) -> None:
    """Refuse training texts of which the tokenizer knows next to nothing; images and others pass.

    Raises:
        UserError: most of their tokens are unknown, or they have none.
    """
    if "input_ids" not in getattr(encoded, "column_names", ()) or not hasattr(tokenizer, "unk_token_id"):
        return
    texts = encoded[:LOOKED_AT]["input_ids"]
    unknown = tokenizer.unk_token_id
    special = {*tokenizer.all_special_ids} - {unknown}
    tokens = [token for text in texts for token in text if token not in special]
    share = sum(token == unknown for token in tokens) / len(tokens) if tokens else 1.0
    if share <= MOST:
        return
    what = f"are {share:.0%} unknown tokens ({tokenizer.unk_token})" if tokens else "have no tokens at all"
    raise UserError(
        f"To the tokenizer of '{name}' the first {len(texts):,} training texts {what}: there is nothing to learn from "
        "them. Check the tokenizer's files, or choose a model for this language and kind of text."
    )
