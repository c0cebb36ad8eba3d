"""The list of source models: its facts against the architectures themselves, and how it is printed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import timm
import torch
import transformers
from transformers import AutoModel

from hf_ft import UserError
from hf_ft.cli.app import main
from hf_ft.environment.builtin_models import INSTALL, PACKAGED, packaged_model
from hf_ft.models.catalog import SIZES, Source, catalog, sources_for
from hf_ft.models.model_config import find_config
from hf_ft.tasks.registry import get_task, task_names

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
DEBERTA: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "microsoft/swin-tiny-patch4-window7-224": ("SwinConfig", {}),
    "facebook/dinov2-small": ("Dinov2Config", {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518}),
    "facebook/dinov2-base": ("Dinov2Config", {"image_size": 518}),
    "facebook/dinov2-large": (
        "Dinov2Config",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518},
    ),
    "google/vit-base-patch16-224-in21k": ("ViTConfig", {}),
    "sentence-transformers/all-MiniLM-L6-v2": (
        "BertConfig",
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    ),
    "distilbert/distilbert-base-uncased": ("DistilBertConfig", {}),
    "distilbert/distilbert-base-multilingual-cased": ("DistilBertConfig", {"vocab_size": 119547}),
    "google-bert/bert-base-uncased": ("BertConfig", {}),
    "google-bert/bert-large-uncased": ("BertConfig", LARGE),
    "FacebookAI/roberta-base": ("RobertaConfig", ROBERTA),
    "FacebookAI/roberta-large": ("RobertaConfig", {**ROBERTA, **LARGE}),
    "FacebookAI/xlm-roberta-base": ("XLMRobertaConfig", {**ROBERTA, "vocab_size": 250002}),
    "microsoft/deberta-v3-small": ("DebertaV2Config", {**DEBERTA, "num_hidden_layers": 6}),
    "microsoft/deberta-v3-base": ("DebertaV2Config", DEBERTA),
    "microsoft/deberta-v3-large": ("DebertaV2Config", {**DEBERTA, **LARGE}),
    "microsoft/mdeberta-v3-base": ("DebertaV2Config", {**DEBERTA, "vocab_size": 251000}),
    "answerdotai/ModernBERT-base": ("ModernBertConfig", {}),
    "answerdotai/ModernBERT-large": (
        "ModernBertConfig",
        {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 2624},
    ),
    "jhu-clsp/mmBERT-base": ("ModernBertConfig", {"vocab_size": 256000}),
    "jhu-clsp/mmBERT-small": (
        "ModernBertConfig",
        {"vocab_size": 256000, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1152},
    ),
    "Alibaba-NLP/gte-modernbert-base": ("ModernBertConfig", {}),
    "BAAI/bge-small-en-v1.5": ("BertConfig", {"hidden_size": 384, "intermediate_size": 1536}),
    "BAAI/bge-base-en-v1.5": ("BertConfig", {}),
    "intfloat/e5-base-v2": ("BertConfig", {}),
    "intfloat/multilingual-e5-base": ("XLMRobertaConfig", {**ROBERTA, "vocab_size": 250002}),
    "microsoft/deberta-v3-xsmall": (
        "DebertaV2Config",
        {**DEBERTA, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    ),
    "EuroBERT/EuroBERT-210m": (
        "EuroBertConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
        },
    ),
}
"""What the configuration files on the Hub say of sizes, where it is not the default of the class."""


def sizes(source: Source) -> tuple[float, float]:
    """Million parameters of the architecture below its head, and of its table of tokens, on no device."""
    with torch.device("meta"):
        packaged = packaged_model(source.name)
        if source.name.startswith("timm/") or (packaged and packaged.architecture):
            architecture = packaged.architecture if packaged else source.name.removeprefix("timm/").partition(".")[0]
            model: Any = timm.create_model(architecture, num_classes=0)
        elif packaged:
            model = AutoModel.from_config(find_config(source.name))
        else:
            kind, options = CONFIGURATIONS[source.name]
            model = AutoModel.from_config(getattr(transformers, kind)(**options))
    table = model.get_input_embeddings().weight.numel() if source.modality == "text" else 0
    return sum(value.numel() for value in model.parameters()) / 1e6, table / 1e6


@pytest.mark.parametrize("source", catalog(), ids=lambda source: source.name)
def test_parameters_are_those_of_the_architecture(source: Source) -> None:
    """To the digit that is printed, but for a pooler that some classifiers leave out."""
    parameters, embeddings = sizes(source)
    assert source.parameters == pytest.approx(parameters, rel=0.01, abs=0.051)
    assert source.embeddings == pytest.approx(embeddings, rel=0.01)


def test_the_list_has_what_people_start_from() -> None:
    """Every modality has a choice in every size, and each model stands there once; licences with limits are known."""
    names = [source.name for source in catalog()]
    assert len(names) == len(set(names)) >= 40
    families = (
        "resnet",
        "vit",
        "dinov2",
        "dinov3",
        "siglip",
        "eva02",
        "convnext",
        "convnextv2",
        "swin",
        "efficientnet",
    )
    for family in (*families, "mobilenetv4", "builtin:"):
        assert any(family in source.name for source in sources_for("image_classification")), family
    texts = ("bert-base-u", "distilbert", "roberta", "deberta-v3", "MiniLM", "ModernBERT", "multilingual", "mmBERT")
    for family in (*texts, "EuroBERT", "intfloat/e5", "bge", "gte", "builtin:"):
        assert any(family in source.name for source in sources_for("text_classification")), family
    assert {source.licence for source in catalog()} == {"apache-2.0", "mit", "dinov3-license", "cc-by-nc-4.0"}
    for source in catalog():
        assert ("commercial" in source.remark) == (source.licence == "cc-by-nc-4.0")
    for task in task_names():
        for size in SIZES:
            found = sources_for(task, size)
            assert found
            assert {source.modality for source in found} == {get_task(task).modality.name}
            assert {source.size for source in found} == {size}


def test_timm_knows_the_weights_that_are_named() -> None:
    """A tag behind the architecture names weights that exist, and their licence is what the list says."""
    named = [source for source in catalog() if source.name.startswith("timm/")]
    assert len(named) >= 20
    for source in named:
        known = timm.get_pretrained_cfg(source.name.removeprefix("timm/"))
        assert known is not None, source.name
        assert known.has_weights
        assert known.input_size[-1] == source.reads
        assert (known.license or "apache-2.0") == source.licence


def test_packaged_models_are_told_as_they_are() -> None:
    """The list says of a built-in model what its package says, and how to install it."""
    named = {source.name: source for source in catalog() if source.name.startswith("builtin:")}
    assert named
    for name, source in named.items():
        packaged = PACKAGED[name.partition(":")[2]]
        assert (source.licence, source.gated) == (packaged.licence, False)
        assert INSTALL in source.remark


def test_gated_models_are_marked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in the list is gated today, and the command says so; a gated model is named."""
    assert not any(source.gated for source in catalog())
    main(["models", "--size", "small"])
    assert "none of these" in capsys.readouterr().out
    gated = dataclasses.replace(catalog()[0], name="meta/gated", gated=True)
    monkeypatch.setattr("hf_ft.models.sources_for", lambda task, size: [gated])
    main(["models"])
    printed = capsys.readouterr().out
    assert "apache-2.0, gated" in printed
    assert "a token: meta/gated." in printed


def test_the_command_prints_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    """All in 80 columns, or those of a task and size, also as JSON."""
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert all(source.name in printed for source in catalog())
    assert main(["models", "--task", "text_regression", "--size", "small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == [source.name for source in sources_for("text_regression", "small")]
    assert {entry["size"] for entry in found} == {"small"}
    assert main(["models", "--size", "huge"]) == 2
    assert "Unknown size 'huge'. Choose from: small, base, large." in capsys.readouterr().err
    with pytest.raises(UserError, match="Unknown task 'text'"):
        sources_for("text")
