"""Scale and shift of logits in the last layer: exact where a head can hold them, refused where it cannot."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    PreTrainedModel,
)

from hf_ft.models.head_affine import affine_of_head, why_no_affine
from hf_ft.models.tracing import example_inputs
from tests.support.contracts import logits, same_bits, tensors

SHIFT = np.array([0.5, -1.0, 2.0])
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}


class Normalised(BertForSequenceClassification):
    """A head that answers with cosines: the scale of its weight changes nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        found.logits = torch.nn.functional.normalize(found.logits, dim=-1)
        return found


def bert(kind: type[PreTrainedModel] = BertForSequenceClassification) -> PreTrainedModel:
    torch.manual_seed(0)
    return kind(BertConfig(vocab_size=64, **TINY)).eval()


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=1, n_head=2, num_labels=3, pad_token_id=0, bos_token_id=1, eos_token_id=1
    )
    return GPT2ForSequenceClassification(config).eval()


def levit() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LevitConfig(hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 2], depths=[1, 1, 1], num_labels=3)
    return LevitForImageClassificationWithTeacher(config).eval()


@pytest.mark.parametrize("build", [bert, levit])
def test_logits_are_scaled_and_shifted(build: Any) -> None:
    """Of two heads whose mean is the answer too, and nothing else changes."""
    model = build()
    inputs = example_inputs(model)
    before, held = logits(model, inputs), tensors(model)
    assert why_no_affine(model, shifted=True) == ""
    assert all(same_bits(held[name], tensor) for name, tensor in tensors(model).items()), "the trial leaves no trace"
    affine = affine_of_head(model, 0.25, SHIFT)
    affine.fold(model)
    assert torch.allclose(logits(model, inputs), before * 0.25 + torch.as_tensor(SHIFT).float(), atol=1e-5)
    changed = {name for name, tensor in tensors(model).items() if not same_bits(held[name], tensor)}
    assert changed == affine.tensors


def test_a_head_without_a_bias_holds_a_scale_alone() -> None:
    model = gpt2()
    inputs = example_inputs(model)
    before = logits(model, inputs)
    assert why_no_affine(model, shifted=False) == ""
    assert "no bias" in why_no_affine(model, shifted=True)
    affine_of_head(model, 3.0, None).fold(model)
    assert torch.allclose(logits(model, inputs), before * 3, atol=1e-4)


@pytest.mark.parametrize("kind", [Normalised, BertForTokenClassification])
def test_heads_that_cannot_hold_it_are_refused(kind: type[PreTrainedModel]) -> None:
    model = bert(kind)
    held = tensors(model)
    for shifted in (False, True):
        assert "linear last layer" in why_no_affine(model, shifted)
    assert all(same_bits(held[name], tensor) for name, tensor in tensors(model).items())


def test_the_head_of_an_adapter(tmp_path: Path) -> None:
    """The adapter on the unchanged base model answers as the merged model does."""
    from peft import PeftModel

    from hf_ft.models import adapters, depth_groups
    from tests.support.contracts import stages

    base = bert()
    inputs = example_inputs(base)
    (stage,) = stages("lora", depth_groups(base))
    adapted = adapters.attach(copy.deepcopy(base), stage)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                tensor.add_(0.1)
    adapters.save_adapter(adapted, tmp_path)
    merged = adapters.merge(adapted)
    affine = affine_of_head(merged, 0.5, SHIFT)
    affine.fold(merged)
    affine.fold_adapter(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    assert torch.allclose(logits(loaded, inputs), logits(merged, inputs), atol=1e-5)
    (tmp_path / "adapter_model.safetensors").unlink()
    from safetensors.torch import save_file

    save_file({"base_model.model.other": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RuntimeError, match="lacks"):
        affine.fold_adapter(tmp_path)
