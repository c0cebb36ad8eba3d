"""Frozen means frozen: parameters, BatchNorm statistics and dropout, in anybody's Trainer; and the audit notices."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from hf_ft import UserError, depth_groups, freeze, param_groups
from hf_ft.methods.method_spec import plan_method
from hf_ft.models.freezing import FreezeViolation, audit, snapshot


class Noise(torch.utils.data.Dataset):
    """Random images with random labels."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict[str, Any]:
        torch.manual_seed(i)
        return {"pixel_values": torch.randn(3, 32, 32), "labels": i % 5}


def trained(model: PreTrainedModel, folder: Path, **settings: Any) -> Trainer:
    """Four steps of a plain Trainer with an evaluation between."""
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=8,
        eval_strategy="steps",
        eval_steps=2,
        learning_rate=0.1,
        report_to="none",
        **settings,
    )
    trainer = Trainer(model=model, args=args, train_dataset=Noise(), eval_dataset=Noise())
    trainer.train()
    return trainer


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_trap_frozen_batchnorm_moves_in_plain_trainer(image_model: str, tmp_path: Path) -> None:
    """The trap itself, so that the next test cannot pass for want of it."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    for parameter in model.resnet.parameters():
        parameter.requires_grad_(False)
    before = tensors(model)
    trained(model, tmp_path)
    moved = [
        name
        for name, tensor in model.state_dict().items()
        if "resnet." in name and not torch.equal(tensor, before[name])
    ]
    assert len(moved) >= 10
    assert all("running" in name or "num_batches" in name for name in moved)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "activation checkpointing"])
@pytest.mark.parametrize(
    "method", ["head", "last_n:2", "first_n:2", "bitfit", "norms", "train:*stages.1*.weight", "gradual"]
)
def test_freeze_holds_in_plain_trainer(image_model: str, tmp_path: Path, method: str, checkpointing: bool) -> None:
    """With `freeze`, somebody's own Trainer changes nothing frozen, and everything that trains, and no more."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    groups = depth_groups(model)
    handle = freeze(model, method, groups)
    before = tensors(model)
    frozen = plan_method(method, groups, 1, 1.0).stages[0].frozen_tensors
    trainer = trained(model, tmp_path, gradient_checkpointing=checkpointing and model.supports_gradient_checkpointing)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not changed & frozen
    assert len(frozen) >= 15
    assert changed >= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    in_optimizer = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in model.parameters() if p.requires_grad}
    handle.remove()
    model.train()
    assert all(module.training for module in model.modules())


PARTS = {
    "bitfit": lambda name: name.endswith("bias"),
    "norms": lambda name: "normalization" in name,
    "train:*.convolution.weight": lambda name: name.endswith("convolution.weight"),
}
"""Method -> which parameters below the head it trains."""


@pytest.mark.parametrize("method", PARTS)
def test_parts_train_and_no_statistic_moves(image_model: str, tmp_path: Path, method: str) -> None:
    """Trap: BatchNorm under partial tuning. Exactly the chosen parameters and the head change, and no buffer."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    groups = depth_groups(model)
    freeze(model, method, groups)
    before = tensors(model)
    trained(model, tmp_path)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    head = set(groups.of_role("head")[0].parameters)
    chosen = {name for name, _ in model.named_parameters() if PARTS[method](name)}
    assert changed == chosen | head
    assert len(chosen) >= 10
    frozen = plan_method(method, groups, 1, 1.0).stages[0].frozen_tensors
    assert len([name for name in frozen if "running" in name]) >= 20
    assert changed | frozen == set(before)
    assert not changed & frozen


def test_a_pattern_that_takes_a_whole_group_trains_it_whole(image_model: str, tmp_path: Path) -> None:
    """All parameters of a block by name are the block: its running statistics move, those of others do not."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    freeze(model, "train:*stages.0*")
    before = tensors(model)
    trained(model, tmp_path)
    moved = {
        name
        for name, tensor in model.state_dict().items()
        if "running" in name and not torch.equal(tensor, before[name])
    }
    assert len(moved) >= 4
    assert all("stages.0" in name for name in moved)


def test_dropout_stays_live_where_a_part_trains() -> None:
    """Two forward passes in training mode differ under `bitfit`, as dropout belongs to groups that train in part."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=50)
    model = BertForSequenceClassification(config)
    freeze(model, "bitfit")
    model.train()
    tokens = torch.arange(1, 9).unsqueeze(0)
    first, second = (model.bert(input_ids=tokens).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)
    assert all(p.requires_grad == (n.endswith("bias") or "classifier" in n) for n, p in model.named_parameters())


@pytest.mark.parametrize("method", ["lora", "peft:loha"])
def test_freeze_refuses_adapters(image_model: str, method: str) -> None:
    """Adapters are attached by training or by PEFT itself, and `freeze` says so instead of freezing anything."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    with pytest.raises(UserError, match=rf"freeze\(\) attaches no adapters, which method '{method}' has"):
        freeze(model, method)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_param_groups_follow_what_freeze_lets_train(image_model: str) -> None:
    """Under `norms` the optimizer gets the normalisation layers, without decay, and the head."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    freeze(model, "norms")
    groups = param_groups(model, "norms", learning_rate=1.0, head_lr_multiplier=3.0, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert {name for name in found if "normalization" not in name} == {"classifier.1.weight", "classifier.1.bias"}
    assert len(found) >= 20
    assert all(value == (1.0, 0.0) for name, value in found.items() if "normalization" in name)
    assert found["classifier.1.weight"] == (3.0, 0.1)


def test_frozen_dropout_is_silent_and_trained_dropout_is_not() -> None:
    """Two forward passes in training mode differ only through the part that trains."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, vocab_size=50)
    model = BertForSequenceClassification(config)
    tokens = torch.arange(1, 9).unsqueeze(0)
    states: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
    for i, layer in enumerate(model.bert.encoder.layer):
        layer.register_forward_hook(lambda _m, _a, output, i=i: states[i].append(output.detach().clone()))
    handle = freeze(model, "last_n:1")
    for seen in states.values():
        seen.clear()  # `freeze` itself traces the model once
    model.train()
    for _ in range(2):
        model(input_ids=tokens)
    assert torch.equal(*states[1])
    assert not torch.equal(*states[2])
    handle.remove()
    model.train()
    states[1].clear()
    for _ in range(2):
        model(input_ids=tokens)
    assert not torch.equal(*states[1])


def test_frozen_model_can_be_pickled_and_saved(image_model: str, tmp_path: Path) -> None:
    """What holds the mode does not get in the way of copies, workers or saving."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    freeze(model, "head")
    copy = pickle.loads(pickle.dumps(model))
    copy.train()
    copy(torch.zeros(2, 3, 32, 32))
    assert not any(module.training for module in copy.resnet.encoder.modules())
    model.save_pretrained(tmp_path)
    assert AutoModelForImageClassification.from_pretrained(tmp_path)


PLANTED = {
    "a weight": lambda model: model.resnet.embedder.embedder.convolution.weight.data.add_(1e-6),
    "a buffer": lambda model: model.resnet.embedder.embedder.normalization.running_mean.add_(1e-6),
    "a count of batches": lambda model: model.resnet.embedder.embedder.normalization.num_batches_tracked.add_(1),
    "the sign of a zero": lambda model: model.resnet.embedder.embedder.normalization.bias.data.neg_(),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_audit_catches_a_planted_violation(image_model: str, planted: str) -> None:
    """The smallest change of one frozen tensor is noticed and named; no change is not."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    groups = depth_groups(model)
    names = plan_method("head", groups, 1, 1.0).stages[0].frozen_tensors
    before = snapshot(model, names)
    assert audit(before, snapshot(model, names)) == len(names) >= 40
    with torch.no_grad():
        PLANTED[planted](model)
    with pytest.raises(FreezeViolation, match=r"1 of \d+ frozen tensors changed.*resnet\.embedder"):
        audit(before, snapshot(model, names))


def test_audit_catches_a_lost_tensor(image_model: str) -> None:
    """A frozen tensor that is not there any more counts as changed."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    before = snapshot(model, {"resnet.embedder.embedder.convolution.weight"})
    with pytest.raises(FreezeViolation):
        audit(before, {})


def test_a_snapshot_copies_no_tensor() -> None:
    """The digest of a large embedding is taken of its own memory, and is that of its bytes."""
    model = nn.Embedding(2**16, 32)  # 8 MiB
    tracemalloc.start()
    try:
        digests = snapshot(model, {"weight"})
        most = tracemalloc.get_traced_memory()[1]
        content = model.weight.detach().numpy().tobytes()
        copied = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert digests == {"weight": hashlib.sha256(content).hexdigest()}
    assert most < 2**20 < 2**23 <= copied, "what is traced holds Python's copies"


def test_param_groups_rates_and_decay(image_model: str) -> None:
    """Trap: weight decay on norms. Rates follow the depth; no normalisation layer and no bias decays."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    groups = param_groups(model, "full", learning_rate=1.0, head_lr_multiplier=10, layer_decay=0.5, weight_decay=0.1)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    named = {name: rate[id(p)] for name, p in model.named_parameters()}
    assert named["classifier.1.weight"] == (10.0, 0.1)
    assert named["resnet.encoder.stages.2.layers.1.layer.0.convolution.weight"] == (1.0, 0.1)
    assert named["resnet.encoder.stages.2.layers.0.layer.0.convolution.weight"] == (0.5, 0.1)
    assert named["resnet.embedder.embedder.convolution.weight"] == (0.5**4, 0.1)
    assert all(decay == 0 for name, (_, decay) in named.items() if "normalization" in name or name.endswith("bias"))
    assert sum(decay == 0 for _, decay in named.values()) >= 20


def test_freeze_refuses_too_many_blocks(image_model: str) -> None:
    """The error says how many there are."""
    model = AutoModelForImageClassification.from_pretrained(image_model)
    with pytest.raises(UserError, match=r"more blocks than the model has \(4\)"):
        freeze(model, "last_n:5")
