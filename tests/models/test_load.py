"""Loading: the head is fresh and nothing else is; whatever does not fit is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    FNetConfig,
    FNetForSequenceClassification,
    ImageGPTConfig,
    ImageGPTModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    XLNetConfig,
    XLNetModel,
)

from hf_ft import Config, UserError, finetune, load_model
from hf_ft.environment.builtin_models import BEST_BUILTIN, BUILTIN
from hf_ft.methods.method_spec import MethodSpec
from hf_ft.models.new_head import check_only_head_is_new
from hf_ft.tasks.registry import get_task

SINGLE = "single_label_classification"


def config_for(model: str | Path, task: str = "text_classification", **settings: Any) -> Config:
    """A Config without the checks of `build`."""
    return Config(task=task, model=str(model), **{"method": MethodSpec("head"), **settings})


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c", "d", "e"), tuple("abcdefg")], ids=len)
def test_only_the_head_is_new(image_model: str, labels: tuple[str, ...]) -> None:
    """With fewer, as many and more classes than the checkpoint, all but the head is bit for bit the checkpoint."""
    source = load_file(Path(image_model) / "model.safetensors")
    model, processor, report = load_model(config_for(image_model, "image_classification"), labels, SINGLE)
    new = {"classifier.1.weight", "classifier.1.bias"}
    assert set(report.new) == new
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {label: i for i, label in enumerate(labels)}
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.items() if name not in new)
    assert len(source) - len(new) == report.loaded >= 40
    head = state["classifier.1.weight"]
    assert head.shape == (len(labels), 16)
    assert head.shape != source["classifier.1.weight"].shape or not torch.equal(head, source["classifier.1.weight"])
    assert processor.size["height"] == 32


def test_trap_old_head_is_not_silently_reused(tmp_path: Path, minilm: str) -> None:
    """As many other classes: nothing is mismatched, and the head is fresh all the same, unless asked otherwise."""
    torch.manual_seed(123)  # not the seed that the fresh head gets
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    old = BertForSequenceClassification(
        BertConfig(**sizes, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    )
    old.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    weight = old.classifier.weight
    for labels in (("bad", "good"), ("cat", "dog")):
        model, _, report = load_model(config_for(tmp_path), labels, SINGLE)
        assert not torch.equal(model.classifier.weight, weight)
        assert set(report.new) == {"classifier.weight", "classifier.bias"}
    model, _, report = load_model(config_for(tmp_path, keep_head=True), ("cat", "dog"), SINGLE)
    assert torch.equal(model.classifier.weight, weight)
    assert report.new == ()
    with pytest.raises(UserError, match=r"labels cat, dog, the data bad, good"):
        load_model(config_for(tmp_path, keep_head=True), ("bad", "good"), SINGLE)


def test_head_initialised_after_the_seed(text_model: str) -> None:
    """Trap: whatever ran before, the same seed gives the same head and another seed another."""
    heads: list[torch.Tensor] = []
    for seed in (5, 5, 6):
        torch.rand(len(heads) + 1)
        heads.append(load_model(config_for(text_model), ("a", "b"), SINGLE, seed)[0].classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(("key", "value"), [("image_size", 64), ("intermediate_size", 96)])
def test_trap_backbone_is_never_silently_random(tmp_path: Path, key: str, value: int) -> None:
    """A configuration that does not fit the weights is refused, naming what would have been random."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {key: value}))
    name = "position_embeddings" if key == "image_size" else r"layers\.0"
    with pytest.raises(UserError, match=rf"does not fit its weights: .*{name}.*Check config.json"):
        load_model(config_for(tmp_path, "image_classification"), ("a", "b"), SINGLE)


def test_planted_reinitialised_layer_is_caught(text_model: str) -> None:
    """The proof itself: one tensor of one block among the new ones is enough."""
    model, _, report = load_model(config_for(text_model), ("a", "b"), SINGLE)
    check_only_head_is_new(model, set(report.new), report.groups, "tiny")
    planted = {*report.new, "bert.encoder.layer.1.output.dense.weight"}
    with pytest.raises(UserError, match=r"1 tensors of the backbone.*layer\.1\.output\.dense"):
        check_only_head_is_new(model, planted, report.groups, "tiny")
    with torch.no_grad():
        model.classifier.weight[0, 0] = 1e37
    with pytest.raises(RuntimeError, match=r"wild or non-finite numbers: classifier\.weight"):
        check_only_head_is_new(model, set(report.new), report.groups, "tiny")


def test_missing_pooler_joins_the_head(tmp_path: Path, minilm: str) -> None:
    """RoBERTa saved without a head: dense and out_proj are new, and both are in the head group, which trains."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    RobertaModel(RobertaConfig(**sizes, vocab_size=30522), add_pooling_layer=False).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    _, _, report = load_model(config_for(tmp_path), ("a", "b"), SINGLE)
    assert set(report.new) == set(report.groups.of_role("head")[0].parameters)
    assert len(report.new) == 4


def test_decoder_without_padding_token_gets_one(tmp_path: Path, minilm: str) -> None:
    """Llama's kind cannot be batched otherwise; tokenizer and configuration agree, and it is said."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    LlamaForSequenceClassification(LlamaConfig(**sizes, vocab_size=30522)).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer, report = load_model(config_for(tmp_path), ("a", "b", "c"), SINGLE)
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None
    assert any("no padding token" in note for note in report.notes)
    batch = tokenizer(["one text", "another, longer text"], padding=True, return_tensors="pt")
    assert model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.shape == (2, 3)


def test_half_precision_checkpoints_train_in_float32(image_model: str, tmp_path: Path) -> None:
    """Trap: transformers loads a float16 checkpoint as float16, which does not train."""
    model = AutoModelForImageClassification.from_pretrained(image_model, dtype=torch.float16)
    model.save_pretrained(tmp_path)
    shutil.copy(Path(image_model) / "preprocessor_config.json", tmp_path)
    model, _, _ = load_model(config_for(tmp_path, "image_classification"), ("a", "b"), SINGLE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


SHIPPED = ("pvt-cifar100", "resnet-cifar100")


def test_every_model_that_ships_is_known() -> None:
    assert tuple(sorted(path.name for path in BUILTIN.iterdir() if path.is_dir())) == SHIPPED
    assert BEST_BUILTIN in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_models_that_ship(name: str) -> None:
    """At most 12 MB, a card with its command and score, no path of a machine, blocks to freeze, and a fresh head."""
    folder = BUILTIN / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json")
    }
    texts = [path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors"]
    assert not any(found in text for text in texts for found in ("/tmp/", "/home/", "/root/"))
    card = (folder / "README.md").read_text()
    assert "python recipes/pretrain_source.py" in card
    assert re.search(r"Training took \d+ s", card)
    model, processor, report = load_model(config_for(f"builtin:{name}", "image_classification"), ("a", "b"), SINGLE)
    assert len(report.groups.of_role("block")) >= 5
    assert report.loaded == len(list(model.state_dict())) - len(report.new)
    assert len(report.new) == 2
    assert processor.size["height"] == 64


@pytest.mark.parametrize("name", ["timm:resnet10t", *(f"builtin:{name}" for name in SHIPPED)])
def test_architectures_without_weights_train_from_scratch(name: str) -> None:
    """A bare architecture builds with random weights; the number of classes is the data's."""
    model, processor, report = load_model(
        config_for(name, "image_classification", method=MethodSpec("scratch")), ("a", "b", "c"), SINGLE
    )
    assert report.loaded == 0
    assert len(report.new) == len(list(model.named_parameters()))
    assert model.config.num_labels == 3
    assert processor is not None


def test_pretrained_text_model_of_the_real_world(minilm: str) -> None:
    """MiniLM: six blocks, pooler kept from the checkpoint, the classifier alone is new."""
    model, tokenizer, report = load_model(config_for(minilm, pooling="model"), ("no", "yes"), SINGLE)
    assert isinstance(model, AutoModelForSequenceClassification._model_mapping[type(model.config)])
    assert set(report.new) == {"classifier.weight", "classifier.bias"}
    assert len(report.groups.of_role("block")) == 6
    assert report.groups.owner("bert.pooler.dense.weight").role == "neck"
    assert tokenizer.model_max_length <= 512


def test_a_model_of_another_kind_is_told_before_the_data_are_read(image_model: str, tmp_path: Path) -> None:
    """Reading may take long: these data cannot be read at all, and it is the model that is told."""
    (tmp_path / "train.csv").write_text("nothing that fits\n")
    settings = {"model": image_model, "dataset": str(tmp_path / "train.csv"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match="is a model of type resnet, which does not support text_classification"):
        finetune(task="text_classification", **settings)


def test_weights_shared_without_a_word_are_refused() -> None:
    """CoaT of timm uses one convolution in several blocks, and `save_pretrained` would refuse the result."""
    with pytest.raises(UserError, match="would refuse the result"):
        load_model(
            config_for("timm:coat_tiny", "image_classification", method=MethodSpec("scratch")), ("a", "b"), SINGLE
        )


def test_dependence_on_padding_is_noted(tmp_path: Path, minilm: str) -> None:
    """FNet takes no attention mask, which is found by trying; BERT's kind is not accused of it."""
    config = FNetConfig(hidden_size=32, num_hidden_layers=2, intermediate_size=48, vocab_size=30522)
    FNetForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    _, _, report = load_model(config_for(tmp_path), ("a", "b"), SINGLE)
    assert any("padded" in note for note in report.notes)
    _, _, report = load_model(config_for(minilm), ("a", "b"), SINGLE)
    assert not any("padded" in note for note in report.notes)


def test_trap_a_longest_text_of_minus_one_is_none(tmp_path: Path, minilm: str) -> None:
    """XLNet's positions are relative, and its config says -1: the tokenizer cuts at what tasks read, not at -1."""
    config = XLNetConfig(d_model=32, n_layer=3, n_head=2, d_inner=48, vocab_size=30522)
    assert config.max_position_embeddings == -1
    XLNetModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm, model_max_length=-1).save_pretrained(tmp_path)
    _, tokenizer, _ = load_model(config_for(tmp_path, max_length=1000), ("a", "b"), SINGLE)
    assert tokenizer.model_max_length > 1000
    task, rows = get_task("text_classification"), Dataset.from_dict({"text": ["good " * 600]})
    assert len(task.encode(rows, tokenizer, config_for(tmp_path), False)[0]["input_ids"]) == 512


def test_images_that_are_read_otherwise_than_as_pixels_are_refused(tmp_path: Path) -> None:
    """ImageGPT reads the colours of pixels as tokens, which ended in a traceback when training began."""
    config = ImageGPTConfig(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=64)
    ImageGPTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"does not read images as pixel_values alone \(.*input_ids"):
        load_model(config_for(tmp_path, "image_classification"), ("a", "b"), SINGLE)


def test_timm_says_how_images_are_prepared_where_the_folder_does_not(tmp_path: Path) -> None:
    """`pipeline` reads that from the config, so it is saved there."""
    TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_resnet")).save_pretrained(tmp_path)
    assert "pretrained_cfg" not in json.loads((tmp_path / "config.json").read_text())
    model, processor, _ = load_model(config_for(tmp_path, "image_classification"), ("a", "b"), SINGLE)
    assert model.config.pretrained_cfg["input_size"] == processor.data_config["input_size"] == (3, 160, 160)


def test_one_number_from_a_model_of_several_classes(text_model: str, tmp_path: Path) -> None:
    """A config that says which kind of classes it has may not have one label; its kind is replaced first."""
    shutil.copytree(text_model, tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"problem_type": SINGLE}))
    model, _, _ = load_model(config_for(tmp_path / "model", "text_regression"), ("score",), "regression")
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
