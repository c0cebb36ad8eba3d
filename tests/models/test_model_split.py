"""Splits that must be refused, and what one leaves behind; `test_matrix` splits every architecture at every depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, FNetConfig, FNetForSequenceClassification

from hf_ft import depth_groups
from hf_ft.methods.method_spec import plan_method
from hf_ft.methods.peft_methods import mergeable
from hf_ft.models.adapters import attach, shared_tensors
from hf_ft.models.forward_split import ForwardSplit
from hf_ft.models.head_split import HeadSplit
from hf_ft.models.model_split import UpperPart
from hf_ft.models.module_calls import CannotSplit
from hf_ft.models.split_search import find_split, split_at
from hf_ft.models.split_verification import verify
from hf_ft.models.tracing import full_precision
from tests.support.contracts import collator, rows_of, same_bits, tensors

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}


def bert(kind: type = BertForSequenceClassification) -> Any:
    """A tiny BERT with random weights."""
    torch.manual_seed(0)
    return kind(BertConfig(**SIZES, num_labels=3)).eval()


def texts(count: int = 4) -> list[dict[str, Any]]:
    """Random token ids of different lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 60, (count, 16), generator=generator)
    return rows_of({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_head_and_block_cuts() -> None:
    """With all frozen one vector an example is kept, with two of four blocks frozen the states of its tokens."""
    model = bert()
    groups = depth_groups(model)
    assert [group.name for group in groups] == [
        "stem", "block 0", "block 1", "block 2", "block 3", "neck", "head",
    ]  # fmt: skip
    head = find_split(model, groups, 6, texts(), collator(0))
    assert isinstance(head, HeadSplit)
    assert (head.layouts[0].shape, head.layouts[0].ragged) == ((32,), False)
    block = find_split(model, groups, 3, texts(), collator(0))
    assert isinstance(block, ForwardSplit)
    assert block.name == "after block 1"
    assert (block.layouts[0].shape, block.layouts[0].ragged) == ((32,), True)
    batch = collator(0)(texts())
    (states,) = block.capture(batch)
    assert states.shape == (int(batch["attention_mask"].sum()), 32)
    held = {name for name, _ in UpperPart(block).named_parameters()}
    assert held == {name for name, _ in model.named_parameters() if not name.startswith(BELOW)}
    assert len(held) == 2 * 16 + 4


BELOW = ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.")


def test_nothing_sticks_to_the_model() -> None:
    """Looking for a split changes no bit, no flag, no mode, and leaves no replaced `forward`."""
    model = bert()
    model.bert.encoder.layer[2].attention.output.dense.weight.requires_grad_(False)
    model.train()
    before, flags = tensors(model), {name: value.requires_grad for name, value in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    split = find_split(model, depth_groups(model), 3, texts(), collator(0))
    with split.installed():
        assert "forward" in vars(model.bert.encoder.layer[1])
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(same_bits(before[name], value) for name, value in tensors(model).items())
    assert flags == {name: value.requires_grad for name, value in model.named_parameters()}
    assert modes == [module.training for module in model.modules()]


def test_what_depends_on_padding_is_refused() -> None:
    """FNet takes no mask, so a text's states depend on how far it is padded; at one length it can be split."""
    torch.manual_seed(0)
    model = FNetForSequenceClassification(FNetConfig(**{k: v for k, v in SIZES.items() if "heads" not in k})).eval()
    groups = depth_groups(model)
    with pytest.raises(CannotSplit, match="depends on how far a text is padded"):
        find_split(model, groups, len(groups) - 1, texts(), collator(0))


class Peeking(BertForSequenceClassification):
    """Reads the embeddings again above the last block, through a function that hides its graph."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        output.logits = (
            output.logits + self.bert.encoder.layer[0].output.dense.bias.sum() * self.seen.mean((1, 2))[:, None]
        )
        return output

    @property
    def seen(self) -> torch.Tensor:
        return self.bert.encoder.layer[0].last.detach()


def test_wrong_cut_is_found() -> None:
    """What a lower block leaves behind for a higher one is not kept; the logits differ, and the split is refused."""
    model = bert(Peeking)
    block = model.bert.encoder.layer[0]
    forward = block.forward

    def leaving(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        block.last = output[0] if isinstance(output, tuple) else output
        return output

    block.forward = leaving
    nn.init.normal_(block.output.dense.bias)
    groups = [group for group in depth_groups(model) if group.role != "unused"]
    rows, collate = texts(), collator(0)
    with pytest.raises(CannotSplit, match=r"the logits differ|in the model's own code"):
        split_at(model, groups, 3, rows, collate)


def test_jumping_over_a_part_that_trains_is_found() -> None:
    """A split that gives the right logits but caches outputs from above it would train nothing there."""
    model = bert()
    groups = [group for group in depth_groups(model) if group.role != "unused"]
    rows, collate = texts(), collator(0)
    honest = ForwardSplit(model, groups, 3, rows, collate)
    verify(honest, rows, collate)
    jumping = ForwardSplit(model, groups, 4, rows, collate)
    jumping.lower, jumping.upper = honest.lower, honest.upper  # claims that block 2 lies above
    with pytest.raises(CannotSplit, match="other gradients"):
        verify(jumping, rows, collate)


def test_head_of_zeros_tells_nothing() -> None:
    """With weights of zero all logits agree at any split; random ones stand in while a split is tried."""
    model = bert()
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    split = find_split(model, depth_groups(model), 6, texts(), collator(0))
    assert isinstance(split, HeadSplit)
    assert split.layouts[0].shape == (32,)
    assert not model.classifier.weight.any()
    assert not model.classifier.bias.any()


def test_comparisons_are_in_full_precision() -> None:
    """What a GPU rounds convolutions to is set aside while models are compared, and back afterwards."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with full_precision():
        precision = getattr(cudnn, "conv", None)
        assert precision.fp32_precision == "ieee" if precision else not cudnn.allow_tf32
    assert (cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


@pytest.mark.parametrize("name", mergeable())
def test_adapters_above_a_split(name: str) -> None:
    """Every PEFT method in the top blocks is split and verified, or said to share tensors; the lower part is plain."""
    model = bert()
    groups = depth_groups(model)
    (stage,) = plan_method(f"peft:{name}@last_n:2", groups, 1, 1e-3, peft_options=OPTIONS.get(name)).stages
    before, batch = tensors(model), collator(0)(texts())
    adapted = attach(model, stage, name, OPTIONS.get(name))
    if shared_tensors(adapted, stage):
        assert name in SHARING
        return
    assert name not in SHARING
    assert stage.frozen_depth == 3
    split = find_split(model, groups, stage.frozen_depth, texts(), collator(0))
    assert split.name == "after block 1"
    upper = UpperPart(split)
    inside = {id(parameter) for parameter in upper.parameters()}
    assert all(id(parameter) in inside for parameter in adapted.parameters() if parameter.requires_grad)
    assert all(same_bits(before[n], value) for n, value in tensors(model).items() if n.startswith(BELOW))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
        whole = adapted.eval()(**batch).logits
        with split.installed():
            assert torch.allclose(upper(split.capture(batch), **batch).logits, whole, atol=1e-5)


OPTIONS: dict[str, dict[str, Any]] = {
    "c3a": {"block_size": 16},
    "miss": {"r": 8},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 64},
}
"""Options for layers as small as those of the test."""
SHARING = {"pvera", "randlora", "tinylora", "unilora", "vblora", "vera"}
"""PEFT methods whose adapters share tensors between layers."""
