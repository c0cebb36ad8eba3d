"""Heads that read the sentence embedding of their encoder, and heads that start from label names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_ft import Config, UserError, depth_groups, load_model
from hf_ft.cli.app import main
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.models import features_as_logits
from hf_ft.models.head_features import head_features
from hf_ft.models.label_names import check_names
from hf_ft.models.sentence_embedding import TOLERANCE, CannotRead, embedding_difference, read_embedding, reads_embedding

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def encoder(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny sentence encoder whose embeddings are the mean over words: its blocks pass words on almost unchanged."""
    folder = tmp_path_factory.mktemp("models") / "words"
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES | {"hidden_size": 64, "num_hidden_layers": 1}))
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(50)
        tokenizer = AutoTokenizer.from_pretrained(minilm)
        words = [tokenizer.convert_tokens_to_ids(word) for word in ("great", "lovely", "good", "bright", "positive")]
        model.embeddings.word_embeddings.weight[words] = model.embeddings.word_embeddings.weight[words[0]].clone()
        words = [tokenizer.convert_tokens_to_ids(word) for word in ("awful", "boring", "bad", "dull", "negative")]
        model.embeddings.word_embeddings.weight[words] = model.embeddings.word_embeddings.weight[words[0]].clone()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    return str(folder)


def bert(minilm: str) -> PreTrainedModel:
    """The real sentence encoder, whose pooler was not trained for it."""
    return AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=3).eval()  # type: ignore[no-any-return]


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = normalize(vectors, dim=1)
    return unit @ unit.T


def test_a_plain_bert_reads_the_mean_of_its_tokens(minilm: str) -> None:
    """On real texts of several lengths the features are the embeddings up to a scale; the pooler's are far off."""
    model = bert(minilm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = read_embedding(model, depth_groups(model), "mean")
    assert changed.config.num_hidden_layers == model.config.num_hidden_layers + 1
    assert type(changed) is type(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    pooler = "bert.pooler.dense."
    kept = [name for name in before if not name.startswith(pooler)]
    assert all(torch.equal(before[name], changed.state_dict()[name]) for name in kept)

    texts = ["A film that is a joy from its first frame to its last.", "dull", "Shares fell by 3 % on Monday."]
    batch = dict(AutoTokenizer.from_pretrained(minilm)(texts, padding=True, return_tensors="pt"))
    with torch.no_grad():
        states = model.bert(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = cosines((states * mask).sum(1) / mask.sum(1))
    found = []
    for one in (changed, model):
        with features_as_logits(one, depth_groups(one)):
            found.append(cosines(head_features(one, batch)))
    torch.testing.assert_close(found[0], expected, rtol=0, atol=0.03)
    assert (found[1] - expected).abs().max() > 0.1


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_plain_roberta_reads_it_too(pooling: str) -> None:
    """Its head has a dense layer of its own; with `cls` no block is added."""
    torch.manual_seed(0)
    model = RobertaForSequenceClassification(RobertaConfig(**SIZES, vocab_size=99, num_labels=3)).eval()
    groups = depth_groups(model)
    assert not reads_embedding(model, groups, pooling)
    changed = read_embedding(model, groups, pooling)
    assert changed.config.num_hidden_layers == 2 + (pooling == "mean")
    assert embedding_difference(model, changed, depth_groups(changed), pooling) < TOLERANCE
    assert reads_embedding(changed, depth_groups(changed), pooling)
    assert read_embedding(changed, depth_groups(changed), pooling) is changed


@pytest.mark.parametrize(
    ("pooling", "why"), [(None, "no sentence encoder"), ("max", "pools by max"), ("mean", "blocks|further block")]
)
def test_what_cannot_be_read(pooling: str | None, why: str) -> None:
    """Other pooling, and blocks that are built in another way."""
    config = DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=48, vocab_size=99)
    model = DistilBertForSequenceClassification(config).eval()
    with pytest.raises(CannotRead, match=why):
        read_embedding(model, depth_groups(model), pooling)


# --- Options --------------------------------------------------------------------------------------------------------


def train(model: str, data: str, out: Path, *more: str) -> int:
    words = ["--task=text_classification", f"--model={model}", f"--dataset={data}", f"--output_dir={out}"]
    return main(["train", *words, "--method=head", *more])


def test_pooling_by_the_command_line(encoder: str, text_data: str, tmp_path: Path) -> None:
    """By default a linear probe on the mean separates the classes; `model` leaves the architecture as it is."""
    assert train(encoder, text_data, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["proofs"]["load_back"]["passed"]
    assert json.loads((tmp_path / "out/config.json").read_text())["num_hidden_layers"] == 2
    assert any("averages the tokens" in note for note in record["model"]["notes"])
    assert record["metrics"]["test"]["accuracy"]["value"] == 1
    config = Config(task="text_classification", model=encoder, method=MethodSpec("head"), pooling="model")
    model, _, report = load_model(config, ("negative", "positive"), "single_label_classification")
    assert model.config.num_hidden_layers == 1
    assert not any("pool" in note for note in report.notes)


def test_label_names_by_the_command_line(
    encoder: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The accuracy before training is printed and recorded, it is that of the nearest name, and the model is plain."""
    from transformers import pipeline

    more = ["--head_init=label_names", "--label_template={label}", "--num_train_epochs=1", "--learning_rate=1e-9"]
    assert train(encoder, text_data, tmp_path / "out", *more) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert "accuracy 1.0000 on validation with the head made from label names" in capsys.readouterr().out
    assert any("before any training" in note for note in record["stages"][0]["notes"])
    assert any("starts from label names" in note for note in record["model"]["notes"])
    assert record["settings"]["head_init"] == "label_names"
    assert record["stages"][0]["solver"] is None  # a learning rate asks for steps; this one changes nothing
    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    rows = list(csv.DictReader((Path(text_data) / "test.csv").open()))
    assert all(classify(row["text"])[0]["label"] == row["label"] for row in rows)


def test_a_solved_head_stays_close_to_its_names(
    encoder: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The penalty of the solver is on the distance from the names: a strong one leaves them."""
    monkeypatch.setattr("hf_ft.heads.closed_form.PENALTIES", (1e6,))
    more = ["--head_init=label_names", "--load_back_proof=false", "--examples_per_class=2"]
    assert train(encoder, text_data, tmp_path / "out", *more) == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["stages"][0]["solver"] is not None
    method = MethodSpec("head")
    config = Config(task="text_classification", model=encoder, method=method, head_init="label_names")
    start, _, _ = load_model(config, ("negative", "positive"), "single_label_classification")
    solved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    names, found = (model.classifier.weight[1] - model.classifier.weight[0] for model in (start, solved))
    assert torch.cosine_similarity(names, found, dim=0) > 0.99
    assert names.norm() > 1


WORDS = {
    "no encoder": (["--head_init=label_names"], "names no sentence encoder"),
    "template": (["--head_init=label_names", "--label_template=about"], "no place for the label"),
    "template alone": (["--label_template=a {label}"], "is for --head_init label_names"),
    "kept": (["--head_init=label_names", "--keep_head"], "does not go with --keep_head"),
    "scratch": (["--head_init=label_names", "--method=scratch"], "starts from random weights"),
    "contrastive": (["--head_init=label_names", "--method=contrastive"], "moves the embeddings"),
    "regression": (["--head_init=label_names", "--task=text_regression"], "needs classes with names"),
    "image": (["--pooling=sentence", "--task=image_classification"], "does not go with image_classification"),
    "pooling": (["--pooling=sentence"], "names no sentence encoder"),
    "scratch pooling": (["--pooling=sentence", "--method=scratch"], "starts from random weights"),
}


@pytest.mark.parametrize("name", WORDS)
def test_mistakes(
    name: str, text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing is written."""
    words, said = WORDS[name]
    given = {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "head"}
    given |= {word.removeprefix("--").split("=")[0]: word.split("=", 1)[-1] for word in words if "=" in word}
    command = [f"--{key}={value}" for key, value in given.items()] + [word for word in words if "=" not in word]
    assert main(["train", *command, f"--output_dir={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [["0", "1"], ["LABEL_0", "LABEL_1"], ["class 3", "good"], ["", "good"]], ids=str)
def test_names_that_say_nothing(labels: list[str]) -> None:
    """Numbers are no names."""
    with pytest.raises(UserError, match="say nothing") as raised:
        check_names(labels)
    assert raised.value.option == "head_init"
    check_names(["labelled", "World", "top 10"])
