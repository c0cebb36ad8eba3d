"""What the head reads beside what the layers offer, and the pooling that a sentence encoder's folder names."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from hf_ft import depth, depth_groups
from hf_ft.cli.app import main
from hf_ft.heads.hidden_states import pooled_states
from hf_ft.models.pooling import sentence_pooling

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts that one word decides: 200 to train on, 120 for validation."""
    folder = tmp_path_factory.mktemp("data") / "opinions"
    folder.mkdir()
    for split, count in (("train", 200), ("validation", 120)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for i in range(count):
                word, label = (("awful", "negative"), ("great", "positive"))[i % 2]
                rows.writerow([f"{word} {word} {split} {i}", label])
    return str(folder)


@pytest.fixture(scope="module")
def deaf_model(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> str:
    """A tiny BERT whose pooler gives the same for every text, in the folder of a sentence encoder."""
    folder = tmp_path_factory.mktemp("models") / "deaf"
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SMALL))
    torch.nn.init.zeros_(model.pooler.dense.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    say_pooling(folder)
    return str(folder)


def say_pooling(folder: Path, **settings: Any) -> None:
    """Write the files by which sentence-transformers says how the tokens are pooled."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    usual = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(settings or usual))


def run(model: str, data: str, out: Path, method: str, *more: str) -> dict[str, Any]:
    """The record of a run by the command line."""
    command = ["train", "--task=text_classification", f"--model={model}", f"--dataset={data}", f"--output_dir={out}"]
    assert main([*command, f"--method={method}", "--load_back_proof=false", *more]) == 0
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def test_a_deaf_head_is_told_with_its_remedy(
    deaf_model: str, opinions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output, record and card say what is lost; the method that they name reaches what the layers offer."""
    record = run(deaf_model, opinions, tmp_path / "head", "head", "--pooling=model")
    found, text = record["head_input"], capsys.readouterr().out
    assert found["reads_less"]
    assert found["head_score"] < 0.6
    assert max(found["boundary_scores"]) > 0.95
    assert found["difference"][0] > 0.2
    assert found["boundaries"] == [0, 1, 2, 3]
    card = (tmp_path / "head/README.md").read_text()
    for told in (" ".join(text.split()), card):
        assert "reads less than the frozen layers offer" in told
        assert f"--method {found['suggested_method']}" in told
        assert f"{max(found['boundary_scores']):.3f}" in told
    # Random weights learn from higher rates than pretrained ones.
    steps = ("--learning_rate=3e-3", "--num_train_epochs=10")
    mended = run(deaf_model, opinions, tmp_path / "mended", found["suggested_method"], "--pooling=model", *steps)
    assert mended["metrics"]["validation"]["accuracy"]["value"] > 0.95
    assert mended["head_input"] is None
    answers = pipeline("text-classification", str(tmp_path / "mended"))(["great great film", "awful awful film"])
    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def test_a_head_reads_the_sentence_embedding_by_default(deaf_model: str, opinions: str, tmp_path: Path) -> None:
    """The same model without an option: the head reads the mean of the tokens and misses nothing."""
    record = run(deaf_model, opinions, tmp_path / "head", "head")
    assert not record["head_input"]["reads_less"]
    assert record["head_input"]["head_score"] > 0.95
    assert "a block was added that averages the tokens" in " ".join(record["model"]["notes"])


def test_a_head_that_reads_well_is_told_nothing(
    text_model: str, opinions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the noise of the best layer there is nothing to say; the figures are recorded all the same."""
    record = run(text_model, opinions, tmp_path / "out", "head")
    assert not record["head_input"]["reads_less"]
    assert record["head_input"]["head_score"] > 0.9
    assert "reads less" not in capsys.readouterr().out + (tmp_path / "out/README.md").read_text()
    assert not any("mean pooling" in note for note in record["model"]["notes"])


@pytest.mark.parametrize("kind", ["pooler", "first token"])
def test_what_the_head_reads(kind: str) -> None:
    """BERT's head gets the pooler's output; RoBERTa's gets all tokens and reads the first."""
    torch.manual_seed(0)
    if kind == "pooler":
        model: Any = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    else:
        model = RobertaForSequenceClassification(RobertaConfig(**SMALL)).eval()
    batch = {"input_ids": torch.randint(5, 90, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    batch["attention_mask"][1, 4:] = 0
    found = pooled_states(model, depth_groups(model), batch, head=True)
    plain = pooled_states(model, depth_groups(model), batch)
    assert len(found) == len(plain) + 1
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=False))
    base = model.base_model(**batch)
    expected = base.pooler_output if kind == "pooler" else base.last_hidden_state[:, 0]
    assert torch.allclose(found[-1], expected, atol=1e-6)


def test_pooling_that_a_folder_names(tmp_path: Path) -> None:
    """Both formats of sentence-transformers are read; other folders name none, whatever stands in these files."""
    assert sentence_pooling(str(tmp_path)) is None
    say_pooling(tmp_path)
    assert sentence_pooling(str(tmp_path)) == "mean"
    say_pooling(tmp_path, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    assert sentence_pooling(str(tmp_path)) == "cls"
    say_pooling(tmp_path, pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True)
    assert sentence_pooling(str(tmp_path)) == "max+mean"
    say_pooling(tmp_path, pooling_mode="mean")
    assert sentence_pooling(str(tmp_path)) == "mean"
    for broken in ("{", "[1]", "{}"):
        (tmp_path / "modules.json").write_text(broken)
        assert sentence_pooling(str(tmp_path)) is None


def test_an_architecture_that_can_pools_as_its_encoder_was_trained(opinions: str, minilm: str, tmp_path: Path) -> None:
    """ModernBERT reads the mean where its folder says so, also once it is saved; else the first token."""
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "cls_token_id": 101, "bos_token_id": 101, "sep_token_id": 102, "eos_token_id": 102}
    config = ModernBertConfig(**SMALL, **tokens, vocab_size=30522)
    ModernBertModel(config).save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "encoder")
    say_pooling(tmp_path / "encoder")
    for name, pooling in (("plain", "cls"), ("encoder", "mean")):
        record = run(str(tmp_path / name), opinions, tmp_path / f"out-{name}", "head")
        assert json.loads((tmp_path / f"out-{name}/config.json").read_text())["classifier_pooling"] == pooling
        assert any("classifier_pooling is mean" in note for note in record["model"]["notes"]) == (pooling == "mean")


def test_depth_says_what_contradicts_its_choice(
    deaf_model: str, opinions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A handful of steps cannot open a deaf head: the probes show what the layers hold, and this is said."""
    settings = {"task": "text_classification", "model": deaf_model, "dataset": opinions, "depths": "0,2,3"}
    settings["pooling"] = "model"
    record = depth(**settings, num_train_epochs=1, output_dir=str(tmp_path / "out"))
    choice = record.choice
    assert choice is not None
    assert choice.contradicting_probe is not None
    assert choice.contradicting_probe.score == max(record.layer_probes.scores) > 0.95 > choice.high
    page = (tmp_path / "out/depth.md").read_text()
    for told in (" ".join(capsys.readouterr().out.split()), page):
        assert "The layer probes contradict this" in told
