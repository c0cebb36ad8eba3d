"""The table of depth groups on real architectures of several kinds, against what their sources say."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from hf_ft import UserError, depth_groups
from hf_ft.models.grouping import DepthGroups

TEXT = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 120, "num_labels": 3}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 120,
    "num_labels": 3,
}
VIT = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32, "patch_size": 8}

# class, configuration, number of blocks, first block, last block, parameters of the head
TRUTH = [
    ("Bert", TEXT | {"num_hidden_layers": 3}, 3, "bert.encoder.layer.0", "bert.encoder.layer.2", {"classifier.weight"}),
    (
        "Roberta",
        TEXT | {"num_hidden_layers": 2},
        2,
        "roberta.encoder.layer.0",
        "roberta.encoder.layer.1",
        {"classifier.dense.weight", "classifier.out_proj.weight"},
    ),
    (
        "Llama",
        TEXT | {"num_hidden_layers": 2, "pad_token_id": 0},
        2,
        "model.layers.0",
        "model.layers.1",
        {"score.weight"},
    ),
    (
        "Bart",
        SEQ2SEQ,
        5,
        "model.encoder.layers.0",
        "model.decoder.layers.2",
        {"classification_head.dense.weight", "classification_head.out_proj.weight"},
    ),
    ("ViT", VIT | {"num_hidden_layers": 3, "num_labels": 3}, 3, "vit.layers.0", "vit.layers.2", {"classifier.weight"}),
    (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic", "num_labels": 3},
        3,
        "resnet.encoder.stages.0.layers.0",
        "resnet.encoder.stages.1",
        {"classifier.1.weight"},
    ),
    (
        "ConvNext",
        {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 2, 1, 1], "num_labels": 3},
        5,
        "convnext.encoder.stages.0",
        "convnext.encoder.stages.3",
        {"classifier.weight"},
    ),
    (
        "Swin",
        {
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 2],
            "image_size": 32,
            "patch_size": 4,
            "window_size": 4,
            "num_labels": 3,
        },
        3,
        "swin.encoder.layers.0",
        "swin.encoder.layers.1.blocks.1",
        {"classifier.weight"},
    ),
]


def build(name: str, settings: dict[str, object]) -> transformers.PreTrainedModel:
    """A random model of a class, by the beginning of its name."""
    torch.manual_seed(0)
    suffix = "ForSequenceClassification" if hasattr(transformers, f"{name}ForSequenceClassification") else ""
    suffix = suffix or "ForImageClassification"
    config = getattr(transformers, f"{name}Config")(**settings)
    return getattr(transformers, name + suffix)(config).eval()


def covers_everything(model: nn.Module, groups: DepthGroups) -> bool:
    """Whether each parameter and buffer of the model is in exactly one group."""
    named = [name for group in groups for name in (*group.parameters, *group.buffers)]
    real = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    return sorted(named) == sorted(real)


@pytest.mark.parametrize(("name", "settings", "count", "first", "last", "head"), TRUTH, ids=[row[0] for row in TRUTH])
def test_anatomy_equals_the_source(
    name: str, settings: dict[str, object], count: int, first: str, last: str, head: set[str]
) -> None:
    """Blocks, their order and the head are what the model's source says, and nothing is left out."""
    model = build(name, settings)
    groups = depth_groups(model)
    blocks = groups.of_role("block")
    # A block is preceded by the stem in the table, and may own the downsampling before it.
    assert len(blocks) == count
    assert any(module.startswith(first) for module in blocks[0].modules)
    assert any(last.startswith(module) or module.startswith(last) for module in blocks[-1].modules)
    assert {name for name in groups.of_role("head")[0].parameters if name.endswith("weight")} == head
    assert groups[0].role == "stem"
    assert covers_everything(model, groups)
    assert sum(group.size for group in groups) == sum(p.numel() for p in model.parameters())


def test_truth_table_is_whole() -> None:
    """Eight architectures, image and text, convolution and attention, encoder, decoder and both."""
    assert len(TRUTH) == 8


@pytest.mark.parametrize(
    "architecture", ["resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "mobilenetv3_small_050"]
)
def test_timm_models_keep_their_head_inside(architecture: str) -> None:
    """timm's classifier lies inside the wrapped model, and is the head all the same."""
    config = transformers.TimmWrapperConfig(architecture=architecture, num_labels=7)
    model = transformers.TimmWrapperForImageClassification(config)
    groups = depth_groups(model)
    head = groups.of_role("head")[0]
    assert all(dict(model.named_parameters())[name].shape[0] == 7 for name in head.parameters)
    assert len(groups.of_role("block")) >= 8
    assert covers_everything(model, groups)


def test_anatomy_leaves_the_model_as_it_was() -> None:
    """No flag, mode, forward method or number of the model is different after tracing."""
    model = build("Bert", TEXT | {"num_hidden_layers": 2}).train()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    model.bert.encoder.layer[0].eval()
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    depth_groups(model)
    assert all(
        p.requires_grad == before[name][0] and torch.equal(p, before[name][1]) for name, p in model.named_parameters()
    )
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any("forward" in vars(module) for module in model.modules())


def test_new_parameters_join_the_head() -> None:
    """A pooler that the checkpoint lacked is random, so it must train with the head."""
    model = build("Bert", TEXT | {"num_hidden_layers": 2})
    assert depth_groups(model).owner("bert.pooler.dense.weight").role == "neck"
    groups = depth_groups(model, new=["bert.pooler.dense.weight", "bert.pooler.dense.bias"])
    assert groups.owner("bert.pooler.dense.weight").role == "head"
    assert not groups.of_role("neck")
    assert covers_everything(model, groups)


def test_unused_parts_are_said() -> None:
    """What the logits do not depend on is a group of its own, which no method trains."""
    model = build("Bert", TEXT | {"num_hidden_layers": 2})
    model.spare = nn.Linear(4, 4)
    groups = depth_groups(model)
    assert set(groups.of_role("unused")[0].parameters) == {"spare.weight", "spare.bias"}


@pytest.mark.parametrize(
    ("model", "message"),
    [(nn.Linear(2, 2), "not Linear"), (build("Bert", TEXT | {"num_hidden_layers": 1}).bert, "no head to train")],
)
def test_what_is_no_classifier_is_refused(model: nn.Module, message: str) -> None:
    """One clear error for a plain module and for a base model without a head."""
    with pytest.raises(UserError, match=message):
        depth_groups(model)  # type: ignore[arg-type]
