"""`Dataset.map` keeps its results by a digest of the tokenizer, the same in any process for one that does the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer

from hf_ft.settings import EncodingSettings
from hf_ft.tasks.registry import get_task
from hf_ft.tasks.tokenizer_identity import HashedTokenizer, tokenizer_digest
from tests.support.processes import python

CHANGES: dict[str, Callable[[Any], Any]] = {
    "a token more": lambda tokenizer: tokenizer.add_tokens(["zebra"]),
    "another side": lambda tokenizer: setattr(tokenizer, "truncation_side", "left"),
    "other columns": lambda tokenizer: setattr(tokenizer, "model_input_names", ["input_ids"]),
    "another normaliser": lambda tokenizer: setattr(tokenizer.backend_tokenizer, "normalizer", None),
    "another template": lambda tokenizer: setattr(tokenizer.backend_tokenizer, "post_processor", None),
}


@pytest.fixture
def tokenizer(text_model: str) -> Any:
    """A fast tokenizer, as a model has it."""
    return AutoTokenizer.from_pretrained(text_model)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_tokens_changes_the_digest(change: str, tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    assert tokenizer_digest(other) == tokenizer_digest(tokenizer)
    CHANGES[change](other)
    assert tokenizer_digest(other) != tokenizer_digest(tokenizer)


def test_calls_change_nothing(tokenizer: Any) -> None:
    """Limits of a call stay in a fast tokenizer, and the next call has its own."""
    before = tokenizer_digest(tokenizer)
    tokenizer(["a film"], truncation=True, max_length=7, padding="max_length")
    assert tokenizer_digest(tokenizer) == before


def test_the_digest_is_that_of_another_process(tokenizer: Any, text_model: str) -> None:
    program = (
        "import sys; from transformers import AutoTokenizer; from hf_ft.tasks.tokenizer_identity import *\n"
        "print(tokenizer_digest(AutoTokenizer.from_pretrained(sys.argv[1])))"
    )
    done = python("-c", program, text_model)
    assert done.stdout.strip() == tokenizer_digest(tokenizer), done.stderr


def test_a_tokenizer_in_python_is_hashed_whole() -> None:
    """One without a backend to ask."""

    class Slow:
        def __init__(self, words: list[str]) -> None:
            self.words = words

    assert tokenizer_digest(Slow(["a"])) == tokenizer_digest(Slow(["a"])) != tokenizer_digest(Slow(["b"]))


class Unpicklable:
    """What no hash of `datasets` survives: the name of a result would be a random one."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("not to be pickled")


@pytest.mark.parametrize(
    ("task", "long_text"),
    [
        ("text_classification", "truncate"),
        ("text_classification", "windows"),
        ("text_regression", "head_tail"),
        ("token_classification", "truncate"),
    ],
)
def test_the_vocabulary_is_not_pickled(task: str, long_text: str, tokenizer: Any) -> None:
    """Encoding hashes the digest alone, and rows of another tokenizer have another fingerprint."""
    rows = {"tokens": [["a", "film"]] * 3} if task == "token_classification" else {"text": ["a film"] * 3}
    labels = [[0, 0]] * 3 if task == "token_classification" else [0, 1, 0]
    dataset = Dataset.from_dict({**rows, "labels": labels})
    tokenizer.more = Unpicklable()
    with pytest.raises(TypeError):
        Hasher.hash(tokenizer)

    def encoded() -> Dataset:
        return get_task(task).encode(dataset, tokenizer, EncodingSettings(long_text=long_text), True)

    first = encoded()
    assert first._fingerprint == encoded()._fingerprint
    tokenizer.truncation_side = "left"
    assert first._fingerprint != encoded()._fingerprint


def test_it_answers_as_the_tokenizer(tokenizer: Any) -> None:
    assert dict(HashedTokenizer(tokenizer)(["a film"], truncation=True)) == dict(tokenizer(["a film"], truncation=True))
