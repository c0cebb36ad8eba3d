"""What a model's config alone says against a run, before any data are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
from transformers import TimmWrapperConfig, TrainingArguments

from hf_ft import Config, UserError
from hf_ft.methods import MethodSpec
from hf_ft.models.precheck import check_model


def test_a_feature_extractor_of_timm_gets_its_classes_from_the_data(tmp_path: Path) -> None:
    """Many timm backbones state no classes at all; their depth is known all the same."""
    known = timm.get_pretrained_cfg("resnet10t").to_dict()
    config = TimmWrapperConfig(architecture="resnet10t", pretrained_cfg=known)
    told = json.loads(config.to_json_string()) | {"num_classes": 0}
    del told["label_names"]
    (tmp_path / "config.json").write_text(json.dumps(told))
    args = TrainingArguments(output_dir=str(tmp_path / "out"))

    def check(method: str) -> None:
        check_model(Config(task="image_classification", model=str(tmp_path), method=MethodSpec.parse(method)), args)

    check("last_n:1")
    with pytest.raises(UserError, match="last_n:99"):
        check("last_n:99")
