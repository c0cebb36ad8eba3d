"""Trap: a folder without tokenizer files gives a tokenizer of five words, to which every text is unknown."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    BertConfig,
    CanineConfig,
    CanineTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
)

from hf_ft import UserError
from hf_ft.cli.app import main
from hf_ft.modalities.tokenizer import check_tokens, load_tokenizer


def without_tokenizer(folder: str, target: Path) -> str:
    """A copy of a model's folder that lost all files of its tokenizer."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "special_tokens*"))
    return str(target)


def train_words(model: str, data: str, out: Path) -> list[str]:
    """The shortest training by the command line."""
    words = ["train", "--task", "text_classification", "--model", model, "--dataset", data, "--output_dir", str(out)]
    return [*words, "--method", "head", "--max_steps", "1", "--load_back_proof", "false"]


@pytest.mark.parametrize("kind", ["BERT", "GPT-2"])
def test_trap_a_tokenizer_that_was_made_up_is_refused(
    kind: str, text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BERT's would make every text unknown, GPT-2's would make it empty; nothing is trained or written."""
    if kind == "BERT":
        model = without_tokenizer(text_model, tmp_path / "model")
    else:
        model = str(tmp_path / "model")
        GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2)).save_pretrained(model)
    assert len(AutoTokenizer.from_pretrained(model)) < 10
    assert main(train_words(model, text_data, tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert "has none of the files tokenizer.json, vocab" in said
    assert ("30,522" if kind == "BERT" else "50,257") in said
    assert not (tmp_path / "out" / "run.json").exists()


def test_trap_a_result_that_lost_its_tokenizer_is_refused(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict` and `evaluate` answered as if nothing were missing."""
    assert main(train_words(text_model, text_data, tmp_path / "out")) == 0
    lost = without_tokenizer(str(tmp_path / "out"), tmp_path / "lost")
    for command in (["predict", "a good film"], ["evaluate", "--dataset", text_data]):
        where = [command[0], str(tmp_path / "out"), *command[1:]]
        assert main(where) == 0
        capsys.readouterr()
        where[1] = lost
        assert main(where) == 2
        out, err = capsys.readouterr()
        assert "has none of the files tokenizer.json, vocab.txt" in err
        assert not out


def test_texts_that_the_tokenizer_does_not_know_are_refused(
    text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ugaritic is unknown to English BERT; where every third word is, training runs."""
    for share, code in ((1.0, 2), (0.34, 0)):
        rows = [f"{' '.join(UGARITIC if i / 9 < share else 'good' for i in range(9))} {n},{n % 2}" for n in range(20)]
        path = tmp_path / f"{code}.csv"
        path.write_text("\n".join(["text,label", *rows]))
        assert main(train_words(text_model, str(path), tmp_path / str(code))) == code
        assert ("% unknown tokens ([UNK])" in capsys.readouterr().err) == (code == 2)


UGARITIC = "\U00010380"


def words_tokenizer(count: int, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of so many words, special ones among them."""
    vocabulary = {name: i for i, name in enumerate([*special.values(), *map(str, range(count - len(special)))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token", "")))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "belongs"),
    [
        (30_000, 30_522, True),  # a padded table
        (33, 64, True),  # a small one: of amino acids, padded
        (5, 128, True),
        (50_257, 50_304, True),
        (1_010, 1_000, True),  # tokens added and never used
        (104, 32_128, False),  # T5's sentinels alone
        (7, 250_002, False),
        (30_522, 1_000, False),  # another model's
    ],
)
def test_sizes(tokens: int, vocabulary: int, belongs: bool, tmp_path: Path) -> None:
    """Sizes need not be equal, and they must not be far apart."""
    words_tokenizer(tokens, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(tmp_path)
    settings = BertConfig(vocab_size=vocabulary)
    if belongs:
        assert len(load_tokenizer(str(tmp_path), settings, "x")) == tokens
        return
    with pytest.raises(UserError, match=rf"{tokens:,} tokens and the model {vocabulary:,}, so they do not belong"):
        load_tokenizer(str(tmp_path), settings, "x")


def test_characters_have_no_vocabulary(tmp_path: Path) -> None:
    """CANINE's tokenizer has a million characters and needs no file; its model states no size."""
    CanineTokenizer().save_pretrained(tmp_path)
    CanineConfig().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), CanineConfig(), "x")
    check_tokens(encoded(tokenizer, ["a good film"]), tokenizer, "x")


def encoded(tokenizer: Any, texts: list[str]) -> Dataset:
    """Texts as `encode` gives them."""
    return Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"]})


def test_tokens_are_counted_without_the_special_ones() -> None:
    """Ends and padding do not make a text known; a tokenizer that knows everything passes, and no token at all not."""
    tokenizer = words_tokenizer(20, unk_token="[UNK]", pad_token="[PAD]")
    check_tokens(encoded(tokenizer, ["1 2 3 what is this"]), tokenizer, "x")
    with pytest.raises(UserError, match=r"are 60% unknown tokens \(\[UNK\]\)"):
        check_tokens(encoded(tokenizer, ["1 [PAD] [PAD] [PAD] 2 what is this"]), tokenizer, "x")
    everything = words_tokenizer(20, pad_token="[PAD]")
    check_tokens(encoded(everything, ["1 2 3"]), everything, "x")
    with pytest.raises(UserError, match="have no tokens at all"):
        check_tokens(Dataset.from_dict({"input_ids": [[], []]}), everything, "x")
