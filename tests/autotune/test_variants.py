"""A model runs in another form with the same values, and is afterwards as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_ft.autotune.variants import USUAL, Variant, applied, variants_of

CPU = torch.device("cpu")


def strides(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The strides of all tensors of a model."""
    return {name: tensor.stride() for name, tensor in model.state_dict().items()}


def test_channels_last_changes_strides_alone(image_model: str) -> None:
    """Values stay, convolutions return their output channels last, and all strides come back."""
    model = AutoModelForImageClassification.from_pretrained(image_model).eval()
    before, laid = {name: one.clone() for name, one in model.state_dict().items()}, strides(model)
    parameters = [id(one) for one in model.parameters()]
    pixels = torch.randn(2, 3, 32, 32)
    usual = model(pixel_values=pixels).logits
    seen: list[torch.Tensor] = []
    inner = next(one for one in reversed(list(model.modules())) if isinstance(one, nn.Conv2d))
    handle = inner.register_forward_hook(lambda _, __, output: seen.append(output))
    with applied(model, Variant("channels_last")):
        assert strides(model) != laid
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        found = model(pixel_values=pixels).logits
    handle.remove()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(usual, found, atol=1e-5)
    assert strides(model) == laid
    assert [id(one) for one in model.parameters()] == parameters
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_attention_is_switched_and_switched_back(text_model: str) -> None:
    """The implementation is that of the variant within the block alone, also where the block raises."""
    model = AutoModelForSequenceClassification.from_pretrained(text_model)
    inside = ""

    def work() -> None:
        nonlocal inside
        with applied(model, Variant(attention="eager")):
            inside = model.config._attn_implementation
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert (inside, model.config._attn_implementation) == ("eager", "sdpa")


def test_only_convolutions_are_tried_channels_last(image_model: str, text_model: str) -> None:
    """A network of convolutions has two forms; a text model and a single convolution have one."""
    images = AutoModelForImageClassification.from_pretrained(image_model)
    assert variants_of(images, CPU, "float32") == [USUAL, Variant("channels_last")]
    texts = AutoModelForSequenceClassification.from_pretrained(text_model)
    assert variants_of(texts, CPU, "bfloat16") == [USUAL]
    assert variants_of(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU()), CPU, "float32") == [USUAL]


def test_flash_attention_is_tried_on_a_gpu_in_half_precision(text_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed, and not in float32."""
    model, flash = (
        AutoModelForSequenceClassification.from_pretrained(text_model),
        Variant(attention="flash_attention_2"),
    )
    gpu = torch.device("cuda")
    monkeypatch.setattr("hf_ft.autotune.variants.is_flash_attn_2_available", lambda: False)
    assert variants_of(model, gpu, "bfloat16") == [USUAL]
    monkeypatch.setattr("hf_ft.autotune.variants.is_flash_attn_2_available", lambda: True)
    assert variants_of(model, gpu, "bfloat16") == [USUAL, flash]
    assert variants_of(model, gpu, "float32") == [USUAL]
