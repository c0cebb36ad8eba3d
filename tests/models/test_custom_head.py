"""Heads of the caller's own: loaded back plainly, or refused with what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_ft import UserError, finetune
from hf_ft.models.head_option import check_head
from tests.training.test_extensions import trained


def zeros(inputs: int, outputs: int) -> nn.Module:
    """A linear head that begins at zero."""
    head = nn.Linear(inputs, outputs)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, 0.5)
    return head


def two_layers(inputs: int, outputs: int) -> nn.Module:
    """What no config of BERT can ask for."""
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


class Doubled(nn.Linear):
    """The parameters of a linear head, and another function."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Twice what a linear head says."""
        return 2 * super().forward(features)


@pytest.fixture
def texts(text_model: str, text_data: str) -> dict[str, Any]:
    """Settings of a run on texts."""
    return {"task": "text_classification", "model": text_model, "dataset": text_data, "method": "full"}


def test_a_module_with_the_parameters_of_the_head(texts: dict[str, Any], tmp_path: Path) -> None:
    """Its weights are where the training starts; the result loads plainly."""
    record = trained(tmp_path, texts | {"learning_rate": 1e-12}, head=zeros)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(model.classifier.bias, torch.tensor(0.5), atol=1e-4)
    assert record["extensions"] == {"head": "zeros"}


@pytest.mark.parametrize("head", [two_layers, Doubled, lambda inputs, outputs: "linear", "mlp:16"])
def test_what_would_not_load_back_is_refused(head: Any, texts: dict[str, Any], tmp_path: Path) -> None:
    """One line that says why, and nothing is trained."""
    with pytest.raises(UserError) as found:
        trained(tmp_path, texts, head=head)
    assert found.value.option == "head"
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_hidden_layer_where_the_config_has_one(image_data: str, tmp_path: Path) -> None:
    """timm's ConvNeXt: the config asks for it, all of it is the head, and the proof loads it in a fresh process."""
    settings = {"task": "image_classification", "dataset": image_data, "max_steps": 2, "augment": "none"}
    source = tmp_path / "source"
    finetune(**settings, model="timm:test_convnext", method="scratch", output_dir=source, load_back_proof=False)
    record = finetune(**settings, model=str(source), method="head", head="mlp:16", output_dir=tmp_path / "out").record
    assert record["proofs"]["load_back"]["largest_difference"] < 1e-4
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.timm_model.head.pre_logits.fc.out_features == 16
    assert AutoConfig.from_pretrained(tmp_path / "out").model_args["head_hidden_size"] == 16
    assert any("pre_logits" in name for name in record["proofs"]["only_head_new"]["new"])


@pytest.mark.parametrize("head", ["mlp", "mlp:0", "mlp:x", 3, lambda: None, nn.Linear(2, 2)])
def test_heads_that_are_none(head: Any) -> None:
    """Refused before anything is loaded."""
    with pytest.raises(UserError) as found:
        check_head(head)
    assert found.value.option == "head"
