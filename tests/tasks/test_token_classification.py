"""Tags per word: entities as conlleval reads them, windows that lose no word, and a plain model for `pipeline`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from transformers import AutoModelForTokenClassification, AutoTokenizer, RobertaTokenizer, pipeline

from hf_ft import Config, UserError, finetune
from hf_ft.cli.app import main
from hf_ft.data.load import load_splits
from hf_ft.data.splits import Splits
from hf_ft.settings import TrainingSettings
from hf_ft.tasks.token_classification import (
    IGNORED,
    TAG,
    Collator,
    encode,
    from_text,
    gather,
    pack,
    prepare,
    reduce,
)

# --- Windows --------------------------------------------------------------------------------------------------------


def test_windows_hold_whole_words() -> None:
    assert pack([1, 2, 3, 1], 4) == [(0, 2), (2, 4)]
    assert pack([1, 9, 1], 4) == [(0, 1), (1, 2), (2, 3)]
    assert pack([2], 4) == [(0, 1)]


def sentences(random: np.random.Generator) -> list[list[str]]:
    """Of no, one and several windows, with words that a tokenizer drops and one that is longer than a window."""
    words = ["Ada", "visited", "Paris", "incomprehensibilities", ".", "", "\u200b", "\x00", "日本"]
    return [random.choice(words, size).tolist() for size in (1, 3, 40, 7, 90)] + [["x", "ab" * 60, "y"], [""]]


def test_every_word_has_one_place_in_the_windows(text_model: str) -> None:
    """Tags in, tags out: what a perfect model says is put together to the very tags, whatever the order of batches."""
    processor = prepare(AutoTokenizer.from_pretrained(text_model))
    random = np.random.default_rng(0)
    words = sentences(random)
    tags = [random.integers(0, 5, len(row)).tolist() for row in words]
    data = Dataset.from_dict({"tokens": words, "labels": tags, "input": [" "] * len(words)})
    encoded = encode(data, processor, Config(max_length=20), False)
    assert len(encoded) > len(words) + 5
    assert all(len(ids) <= 20 for ids in encoded["input_ids"])
    assert set(encoded.column_names) >= {"input_ids", "attention_mask", "labels", "example"}
    batch = Collator(processor)(list(encoded))
    assert "example" not in batch
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    logits = 5.0 * torch.nn.functional.one_hot(batch["labels"].clamp(min=0), 5)
    reduced = reduce(logits, batch["labels"])
    assert reduced.shape == (*batch["labels"].shape, 2)
    found = gather(encoded, reduced.numpy())
    assert [row[:, 0].astype(int).tolist() for row in found] == tags
    assert all((row[:, 1] > 0.9).all() for row in found)
    bare = encode(data.remove_columns("labels"), processor, Config(max_length=20), False)
    assert [[label != IGNORED for label in row] for row in bare["labels"]] == [
        [label != IGNORED for label in row] for row in encoded["labels"]
    ]


def test_only_first_sub_tokens_carry_tags(text_model: str) -> None:
    processor = AutoTokenizer.from_pretrained(text_model)
    data = Dataset.from_dict({"tokens": [["incomprehensibilities", "Paris"]], "labels": [[3, 4]]})
    row = encode(data, processor, Config(), True)[0]
    pieces = processor.convert_ids_to_tokens(row["input_ids"])
    assert len(pieces) > 4
    assert {piece: label for piece, label in zip(pieces, row["labels"], strict=True) if label != IGNORED} == {
        pieces[1]: 3,
        "paris": 4,
    }


def test_byte_level_tokenizers_see_the_space_before_a_word(tmp_path: Path) -> None:
    """As in running text; the tokenizer that is saved does so too, and others are left alone."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["to be or not to be"] * 5, vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"])
    trained.save_model(str(tmp_path))
    tokenizer = RobertaTokenizer(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    words = ["to", "be"]
    assert tokenizer(words, is_split_into_words=True)["input_ids"] != tokenizer("to be")["input_ids"]
    prepared = prepare(tokenizer)
    prepared.save_pretrained(tmp_path / "saved")
    for each in (prepared, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert each(words, is_split_into_words=True)["input_ids"] == each("to be")["input_ids"]
    assert prepare(prepared) is prepared


def test_slow_tokenizers_are_refused() -> None:
    from types import SimpleNamespace

    with pytest.raises(UserError, match=r"needs a fast tokenizer, and SimpleNamespace .* Choose a model with a tokeni"):
        prepare(SimpleNamespace(is_fast=False))


def test_words_of_raw_text_and_their_characters(text_model: str) -> None:
    processor = AutoTokenizer.from_pretrained(text_model)
    rows = [{"text": "  Angela Merkel  visited Paris."}, {"tokens": ["New", "York", "!"]}, {"text": "\x00"}]
    found = from_text(rows, processor)
    assert found["tokens"] == [["Angela", "Merkel", "visited", "Paris", "."], ["New", "York", "!"], ["\x00"]]
    assert found["input"] == [rows[0]["text"], "New York !", "\x00"]
    for text, words, starts, ends in zip(*(found[key] for key in ("input", "tokens", "starts", "ends")), strict=True):
        assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == words


# --- Reading --------------------------------------------------------------------------------------------------------


def write(folder: Path, **splits: list[tuple[list[Any], Any]]) -> Path:
    for split, rows in splits.items():
        lines = (json.dumps({"tokens": words, "ner_tags": tags}) for words, tags in rows)
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


GOOD = [(["Ada", "saw", "Rome"], ["B-PER", "O", "B-LOC"]), (["Ada", "Byron"], ["B-PER", "I-PER"])] * 5


def load(folder: Path, **settings: Any) -> Splits:
    return load_splits(
        Config(task="token_classification", dataset=str(folder), explicit=frozenset(settings), **settings)
    )


def test_tags_are_in_natural_order_behind_o(tmp_path: Path) -> None:
    splits = load(write(tmp_path, train=GOOD))
    assert splits.labels == ("O", "B-LOC", "B-PER", "I-PER")
    assert splits.problem_type == "token_classification"
    for words, tags in zip(splits.train["tokens"], splits.train["labels"], strict=True):
        assert (list(words), [splits.labels[tag] for tag in tags]) in GOOD
    assert "Tags are read as BIO (IOB2: each entity begins with B-); entities: LOC, PER." in splits.notes
    assert TAG.counts(splits.train, splits.labels) == [
        sum(tags.count(k) for tags in splits.train["labels"]) for k in range(4)
    ]


def test_declared_order_and_numbers(tmp_path: Path) -> None:
    names = ["I-PER", "O", "B-PER"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    rows = {"tokens": [["a", "b"], ["c"]] * 5, "ner_tags": [[2, 0], [1]] * 5}
    DatasetDict({"train": Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path / "declared")
    splits = load(tmp_path / "declared")
    assert splits.labels == tuple(names)
    assert sorted(splits.train["labels"])[0] == [1]
    (tmp_path / "numbers").mkdir()
    numbers = load(write(tmp_path / "numbers", train=[(["a", "b"], [10, 2])] * 5))
    assert numbers.labels == ("2", "10")


def test_conll_files_give_the_same_data(tmp_path: Path) -> None:
    lines = ["-DOCSTART- -X- O O\n"]
    lines += ["".join(f"{word} X Y {tag}\n" for word, tag in zip(*row, strict=True)) for row in GOOD]
    (tmp_path / "train.conll").write_text("\n".join(lines))
    (tmp_path / "json").mkdir()
    splits, other = load(tmp_path), load(write(tmp_path / "json", train=GOOD))
    assert splits.labels == other.labels
    for name in ("tokens", "labels"):
        assert splits.train[name][:] == other.train[name][:]
    (tmp_path / "one").mkdir()
    (tmp_path / "one/train.conll").write_text("Ada\n")
    with pytest.raises(UserError, match=r"train\.conll has one column only"):
        load(tmp_path / "one")


BAD: dict[str, tuple[tuple[list[Any], Any], str]] = {
    "too few tags": ((["a", "b"], ["O"]), r"1 of 11 examples has another number of tags than of words \(rows 11, c"),
    "missing tag": ((["a", "b"], ["O", None]), r"train: 1 of 11 examples has a missing tag \(rows 11, counted from"),
    "blank tag": ((["a", "b"], ["O", " "]), r"train: 1 of 11 examples has a missing tag \(rows 11, counted from 1"),
    "no tags": ((["a", "b"], None), r"train: 1 of 11 examples has a missing tag \(rows 11, counted from 1"),
    "no words": (([], []), r"train: 1 of 11 examples has no words \(rows 11, counted from 1\)\. Fix them, or"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_sentences_are_told_or_left_out(mistake: str, tmp_path: Path) -> None:
    row, message = BAD[mistake]
    write(tmp_path, train=[*GOOD, row])
    with pytest.raises(UserError, match=message):
        load(tmp_path)
    splits = load(tmp_path, bad_examples="skip")
    assert len(splits.train) + len(splits.validation) == len(GOOD)


def test_other_mistakes_in_the_data(tmp_path: Path) -> None:
    for name in ("strange", "text", "plain", "single"):
        (tmp_path / name).mkdir()
    write(tmp_path / "strange", train=GOOD, test=[(["x", "y"], ["B-ORG", "I-ORG"]), (["z"], ["B-ORG"])])
    with pytest.raises(UserError, match=r"test has tags that train lacks, .* words: B-ORG \(2\), I-ORG \(1\)\. Train"):
        load(tmp_path / "strange")
    write(tmp_path / "text", train=[(words, " ".join(tags)) for words, tags in GOOD])
    with pytest.raises(UserError, match=r"Column 'ner_tags' holds string, not lists of tags, one for each word"):
        load(tmp_path / "text")
    (tmp_path / "plain/train.csv").write_text("tokens,ner_tags\nAda,O\n")
    with pytest.raises(UserError, match=r"Column 'tokens' holds string, not lists of words\. .*--tokens_column"):
        load(tmp_path / "plain")
    write(tmp_path / "single", train=[(["a"], ["O"])] * 3)
    with pytest.raises(UserError, match=r"All words of train have the tag 'O'"):
        load(tmp_path / "single")
    with pytest.raises(UserError, match="a sentence has many tags"):
        load(tmp_path / "strange", examples_per_class=3)


@pytest.mark.parametrize(
    ("sentences", "kind"),
    [
        (["I-A O I-A B-A", "O I-B I-A"], "IOB1"),
        (["B-A O B-A B-A I-A", "O B-B B-A"], "IOB2"),
        (["B-A O B-B", "O B-B"], "IOB2"),
        (["I-A O B-A I-A", "O I-B I-A"], "of no one kind: 5 entities begin with B- as in IOB2, and 15 with I-"),
    ],
)
def test_iob1_is_told_from_iob2(sentences: list[str], kind: str, tmp_path: Path) -> None:
    """A file whose entities begin with I- is not announced as one where they begin with B-."""
    lines = ["\n".join(f"word{i} {tag}" for i, tag in enumerate(line.split())) for line in sentences * 5]
    (tmp_path / "train.conll").write_text("\n\n".join(lines) + "\n")
    (note,) = (note for note in load(tmp_path).notes if note.startswith("Tags are read as BIO"))
    assert kind in note
    assert ("(IOB1" in note) is (kind == "IOB1")
    assert ("(IOB2" in note) is (kind == "IOB2")


# --- A trained model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(text_model: str, token_data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    out = str(tmp_path_factory.mktemp("runs") / "names")
    settings = {"method": "full", "learning_rate": 1e-2, "max_steps": 40, "per_device_train_batch_size": 8}
    settings |= {"model": text_model, "dataset": token_data, "class_weights": "balanced"}
    return out, finetune(task="token_classification", output_dir=out, **settings).record


def predict(capsys: pytest.CaptureFixture[str], folder: str, *words: str) -> list[dict[str, str]]:
    capsys.readouterr()
    assert main(["predict", folder, *words]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_model_is_plain_and_has_learnt(trained: tuple[str, dict[str, Any]]) -> None:
    folder, record = trained
    assert record["metrics"]["test"]["f1"]["value"] > 0.8
    assert record["metrics"]["test"]["f1"]["n"] == 16
    assert record["proofs"]["load_back"]["passed"]
    assert set(record["baseline"]["test"]) == set(record["metrics"]["test"])
    model = AutoModelForTokenClassification.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(["O", "B-LOC", "B-PER", "I-PER"]))
    assert model.config.problem_type is None
    assert "Task: token classification, 4 tags (O, B-LOC, B-PER, I-PER)." in (Path(folder) / "README.md").read_text()


def test_evaluations_in_training_score_as_the_result(trained: tuple[str, dict[str, Any]]) -> None:
    _, record = trained
    best = max(entry["eval_f1"] for stage in record["stages"] for entry in stage["history"] if "eval_f1" in entry)
    assert best == pytest.approx(record["metrics"]["validation"]["f1"]["value"])


def test_predictions_as_pipeline_makes_them(
    trained: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Types, texts and characters of `aggregation_strategy="simple"`, on words of one token each."""
    folder, _ = trained
    text = "Grace Turing  visited Rome."
    rows = predict(capsys, folder, text)
    tag = pipeline("token-classification", model=folder, aggregation_strategy="simple")
    expected = [(span["entity_group"], span["start"], span["end"]) for span in tag(text)]
    assert len(expected) >= 2
    assert [(row["label"], int(row["start"]), int(row["end"])) for row in rows] == expected
    assert [float(row["score"]) for row in rows] == pytest.approx([span["score"] for span in tag(text)], abs=1e-4)
    assert all(row["text"] == text[int(row["start"]) : int(row["end"])] for row in rows)
    assert list(rows[0]) == ["input", "label", "text", "start", "end", "score"]


def test_predict_reads_words_texts_and_lines(
    trained: tuple[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    (tmp_path / "words.jsonl").write_text(json.dumps({"tokens": ["Ada", "Hopper", "visited", "Paris", "."]}))
    (tmp_path / "texts.jsonl").write_text(json.dumps({"sentence": "Ada Hopper visited Paris ."}))
    (tmp_path / "lines.txt").write_text("\nAda Hopper visited Paris .\n")
    found = [predict(capsys, folder, str(tmp_path / name)) for name in ("words.jsonl", "texts.jsonl", "lines.txt")]
    assert found[0]
    assert found[0] == found[1] == found[2] == predict(capsys, folder, "Ada Hopper visited Paris .")
    assert main(["predict", folder, str(tmp_path / "lines.txt"), "--output", str(tmp_path / "out.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [row["text"] for row in found[0]]


def test_evaluate_gives_what_run_json_states(
    trained: tuple[str, dict[str, Any]], token_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, record = trained
    capsys.readouterr()
    assert main(["evaluate", folder, "--dataset", token_data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert {name: score["value"] for name, score in found.items()} == pytest.approx(
        {name: score["value"] for name, score in record["metrics"]["test"].items()}
    )


def test_long_sentences_are_scored_whole(
    text_model: str, token_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With windows of a few tokens every word of a long text still has its tag, in scores and predictions."""
    settings = {"method": "head", "max_steps": 2, "load_back_proof": False, "max_length": 6}
    record = finetune(
        task="token_classification", model=text_model, dataset=token_data, output_dir=str(tmp_path / "o"), **settings
    ).record
    splits = load(Path(token_data))
    assert splits.test is not None
    assert record["metrics"]["test"]["accuracy"]["n"] == len(splits.test)
    text = "Ada Byron visited Paris . " * 40
    for row in predict(capsys, str(tmp_path / "o"), text):
        assert text[int(row["start"]) : int(row["end"])] == row["text"]


def test_weighted_loss_leaves_out_what_is_no_word(token_data: str) -> None:
    from types import SimpleNamespace

    splits = load(Path(token_data))
    config, args = TrainingSettings(class_weights="balanced"), SimpleNamespace(label_smoothing_factor=0.0)
    loss = TAG.learning(None, splits.train, splits.labels, config, args).loss  # type: ignore[arg-type]
    assert loss is not None
    counts = torch.tensor(TAG.counts(splits.train, splits.labels))
    weights = counts.sum() / (4 * counts)
    labels = torch.tensor([[IGNORED, 0, 2, IGNORED], [1, IGNORED, IGNORED, 3]])
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 4)
    chosen = logits.log_softmax(-1)[labels != IGNORED][range(4), labels[labels != IGNORED]]
    expected = -(chosen * weights[labels[labels != IGNORED]]).sum() / 4
    assert torch.allclose(loss(SimpleNamespace(logits=logits), labels), expected)
    # Accumulated halves, each divided by the words of both, add up to the whole.
    halves = [loss(SimpleNamespace(logits=logits[i : i + 1]), labels[i : i + 1], 4) for i in (0, 1)]
    assert torch.allclose(sum(halves), expected)
