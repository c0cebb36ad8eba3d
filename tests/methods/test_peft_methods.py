"""Every method of PEFT that merges: trained, merged and reloaded on the original base; every other one refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    SchedulerType,
)

from hf_ft import UserError, depth_groups, finetune
from hf_ft.environment.packages import peft_method_names, schedulers
from hf_ft.methods.defaults import PRESETS
from hf_ft.methods.method_spec import plan_method
from hf_ft.methods.peft_methods import REFUSED, check_name, check_options, configuration, mergeable
from hf_ft.methods.stages import AppliedStage, Setting
from hf_ft.models.adapters import attach, fitting, merge
from hf_ft.models.freezing import audit, snapshot

SMALL: dict[str, dict[str, Any]] = {
    "c3a": {"block_size": 16},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 100},
}
"""Options for layers of 32 and 48 units, which the usual ones are too large for."""

CONVOLUTION = {"adalora", "boft", "hira", "hra", "ia3", "loha", "lokr", "lora", "oft"}
"""The methods that take convolutions of 3x3; OFT takes only those of 1x1."""

LORA: dict[str, dict[str, Any]] = {
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, rank-stabilised": {"init_lora_weights": "pissa", "use_rslora": True, "r": 4},
    "pissa, in four iterations": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "DoRA": {"use_dora": True},
    "DoRA and pissa": {"use_dora": True, "init_lora_weights": "pissa"},
    "rank-stabilised": {"use_rslora": True},
}
REWRITE = {name for name, options in LORA.items() if str(options.get("init_lora_weights", "")).startswith(("p", "ol"))}
RUNS = {**{name: (name, SMALL.get(name, {})) for name in mergeable()}, **{k: ("lora", v) for k, v in LORA.items()}}


def test_names_and_schedules_are_those_of_the_installed_packages() -> None:
    """What is read from source is what an import gives."""
    assert set(peft_method_names()) == {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert set(schedulers()) == {kind.value for kind in SchedulerType}


def test_every_method_of_peft_is_mergeable_or_refused() -> None:
    """Found and refused are all; a new one of PEFT's is tried as soon as it is there."""
    assert set(mergeable()) | set(REFUSED) == set(peft_method_names())
    assert not set(mergeable()) & set(REFUSED)
    assert (len(mergeable()), len(REFUSED), len(RUNS)) == (33, 12, 42)
    assert set(PRESETS) <= set(mergeable())


@pytest.mark.parametrize("name", REFUSED)
def test_refused_methods_indeed_do_not_merge(name: str) -> None:
    """No layer of any kind can be adapted and merged by a method that the table refuses; and the error says why."""
    layers = {"linear": nn.Linear(32, 32), "convolution": nn.Conv2d(16, 16, 3), "embedding": nn.Embedding(8, 16)}
    try:
        fits, _ = fitting(layers, name)
    except UserError:
        fits = []
    assert fits == []
    with pytest.raises(UserError, match=rf"^peft:{name} cannot end as a plain model: it .* Choose from: adalora,"):
        check_name(name)


@pytest.mark.parametrize("name", RUNS)
def test_adapter_and_merged_model_agree(name: str, text_model: str, text_data: str, tmp_path: Path) -> None:
    """After training, the adapter on the original base gives the merged model's logits; what is frozen is untouched."""
    method, options = RUNS[name]
    out = tmp_path / "out"
    record = finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        output_dir=str(out),
        method=f"peft:{method}",
        peft_options=options,
        max_steps=3,
        learning_rate=1e-2,
        warmup_steps=0,
        per_device_train_batch_size=8,
        eval_strategy="no",
        save_strategy="no",
        load_back_proof=False,
    ).record
    (stage,) = record["stages"]
    assert stage["frozen_checked"] >= 50
    assert stage["notes"] == []
    before, after = load_file(Path(text_model) / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(after) == {f"bert.{key}" for key in before} | {"classifier.weight", "classifier.bias"}
    changed = {key for key in before if not torch.equal(before[key], after[f"bert.{key}"])}
    assert changed
    assert all(key.startswith("encoder.layer.") for key in changed)
    if method not in ("ln_tuning", "beft", "ia3", "glora", "road", "adamss"):  # these change biases too
        assert all(key.endswith("weight") and "LayerNorm" not in key for key in changed)
    merged = AutoModelForSequenceClassification.from_pretrained(out).eval()
    base = AutoModelForSequenceClassification.from_pretrained(text_model, num_labels=2)
    adapted = PeftModel.from_pretrained(base, str(out / "adapter")).eval()
    batch = AutoTokenizer.from_pretrained(out)(["a great film", "dull"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(adapted(**batch).logits, merged(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LORA)
def test_initialisations_that_rewrite_the_base_are_those_known(name: str, text_model: str) -> None:
    """PiSSA and OLoRA change the weights when attached, the others none; all keep what the model computes."""
    model, stage = prepared(text_model)
    names = stage.frozen_tensors
    before = snapshot(model, names)
    tokens = torch.arange(5, 13).unsqueeze(0)
    expected = model.eval()(input_ids=tokens).logits
    adapted = attach(model, stage, "lora", LORA[name]).eval()
    assert (snapshot(adapted, names) != before) == (name in REWRITE)
    torch.testing.assert_close(adapted(input_ids=tokens).logits, expected, atol=1e-5, rtol=1e-4)


def prepared(folder: str) -> tuple[PreTrainedModel, AppliedStage]:
    """A tiny text classifier and the stage of a method with adapters."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model, plan_method("lora", depth_groups(model), 1, 1.0).stages[0]


@pytest.fixture(scope="module")
def resnet(image_model: str) -> PreTrainedModel:
    """A tiny ResNet, whose blocks hold nothing but convolutions and BatchNorm."""
    return AutoModelForImageClassification.from_pretrained(image_model)


@pytest.mark.parametrize("name", mergeable())
def test_convolutions(name: str, resnet: PreTrainedModel) -> None:
    """Methods that take convolutions train and merge a ResNet; others say so, with those that would."""
    model = copy.deepcopy(resnet)
    groups = depth_groups(model)
    stage = plan_method(f"peft:{name}", groups, 1, 1.0).stages[0]
    options = {"oft_block_size": 8} if name == "oft" else {}
    if name not in CONVOLUTION:
        with pytest.raises(UserError, match=rf"^peft:{name} fits no layer in the blocks of ResNet.* these do: .*loha"):
            attach(model, stage, name)
        return
    names = stage.frozen_tensors
    before = snapshot(model, names)
    adapted: Any = attach(model, stage, name, options, steps=3)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    images = torch.randn(4, 3, 32, 32)
    adapted.eval()
    for _ in range(2):
        adapted(pixel_values=images, labels=torch.arange(4)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert audit(before, snapshot(adapted, names)) == len(names) >= 40
    expected = adapted(pixel_values=images).logits
    plain = merge(adapted)
    assert type(plain) is type(resnet)
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in resnet.named_parameters()]
    torch.testing.assert_close(plain(pixel_values=images).logits, expected, atol=1e-4, rtol=1e-3)


def test_methods_for_convolutions_exist() -> None:
    """The matrix above trains these and asks the others for their error."""
    assert set(mergeable()) >= CONVOLUTION


def test_trap_a_merge_that_peft_gets_wrong() -> None:
    """OFT computes padded convolutions of 3x3 otherwise than it merges them: not adapted, while 1x1 are."""
    layers = {"wide": nn.Conv2d(16, 16, 3, padding=1), "narrow": nn.Conv2d(16, 16, 1)}
    assert fitting(layers, "oft", {"oft_block_size": 8}) == (["narrow"], "PEFT merges it wrongly")
    assert fitting(layers, "lora") == (["wide", "narrow"], "")


def test_sizes_that_do_not_divide_are_answered(text_model: str) -> None:
    """PEFT's own reason, and the methods that fit."""
    model, stage = prepared(text_model)
    with pytest.raises(
        UserError, match=r"^peft:vblora fits no layer .*divisible by `vector_length` 20.* these do: adalora"
    ):
        attach(model, stage, "vblora", {"vector_length": 20})


def test_shared_weights_are_adapted_once_or_not_at_all() -> None:
    """A weight that two layers share is left alone, since merging into one would change the other."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "embedding_size": 8}
    model = AlbertForSequenceClassification(AlbertConfig(**sizes, vocab_size=50, num_hidden_layers=2))
    assert len(list(model.parameters())) > 10
    holder = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    holder["b"].weight = holder["a"].weight
    group = type("Row", (), {"name": "block 0", "role": "block", "modules": ("a", "b", "c"), "norms": ()})()
    from hf_ft.models.adapters import _candidates

    assert list(_candidates(holder, AppliedStage("lora", 1, 1.0, ((group, Setting("adapt", 1.0)),)), "lora")) == ["c"]


OPTIONS = {
    "unknown": ("loha", {"rank": 4}, r"^Unknown option of peft:loha: 'rank'\."),
    "misspelt": ("lora", {"use_dorra": True}, r"Did you mean 'use_dora'\?"),
    "ours": (
        "lora",
        {"target_modules": ["query"]},
        r"^'target_modules' of peft:lora is not supported: the depth groups",
    ),
    "refused value": (
        "adalora",
        {"orth_reg_weight": -1.0},
        r"^peft:adalora does not support these options: `orth_reg_weight`",
    ),
    "needs data": ("lora", {"init_lora_weights": "eva"}, r"^init_lora_weights 'eva' needs quantised weights or passes"),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_mistakes_in_options(mistake: str) -> None:
    """Each is answered before data or model are loaded."""
    name, options, message = OPTIONS[mistake]
    with pytest.raises(UserError, match=message):
        check_options(name, options)


def test_options_reach_peft() -> None:
    """What the user gives wins over the preset, and the training's length reaches methods with a budget."""
    assert configuration("lora", {"r": 3}, ["x"], [], 10).r == 3
    assert configuration("adalora", {}, ["x"], [], 40).total_step == 40
    assert configuration("adalora", {"tinit": 7}, ["x"], [], 40).tinit == 7
