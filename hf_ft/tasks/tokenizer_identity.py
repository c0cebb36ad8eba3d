"""A tokenizer that `datasets` can hash quickly."""

from __future__ import annotations

from typing import Any

from hf_ft.storage import json_digest


class HashedTokenizer:
    """A tokenizer to be called in `Dataset.map`, identified by a digest.

    `Dataset.map` names its results by a hash of all that the mapped function refers to, and pickles it for that: with
    a vocabulary of 30,000 tokens a quarter of a second each time, seven times in a training. The digest takes a few
    milliseconds. Pickled, this is the digest alone, so `Dataset.map` has to run in one process (`num_proc=None`).
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.processor(*args, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (tokenizer_digest(self.processor),)


def tokenizer_digest(processor: Any) -> str:
    """Return a digest of all that the tokens of a text depend on, apart from the arguments of the call."""
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is None:  # written in Python
        from datasets.fingerprint import Hasher

        return str(Hasher.hash(processor))
    # The limits in front are those of the last call; a call that says nothing of them resets them.
    _, key, rest = backend.to_str().partition('"added_tokens"')
    own = {name: value for name, value in vars(processor).items() if isinstance(value, str | int | float | list | None)}
    state = [type(processor).__qualname__, own, key + rest]
    return json_digest(state)
