"""Saving a model of timm so that both `transformers` and timm itself load it.

What `transformers` (5.24) saves, timm (1.0.31) cannot always read: names keep the prefix of the wrapper unless the
checkpoint came without it, `model_args` is null, and `pretrained_cfg` points to the files of the source.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_ft.storage import read_json

OF_SOURCE = {
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag", "custom_load"),
    *("num_classes", "label_offset", "label_names", "label_descriptions"),
}
"""Keys of `pretrained_cfg` on the weights and classes that a model started from."""


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save a model as `save_pretrained` does; a model of timm in timm's layout.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` then gives the same logits, and so does `hf_hub:ME/NAME`
    for what is published.
    """
    if getattr(model, "timm_model", None) is None:
        model.save_pretrained(folder)
        return
    prefix = f"{model.base_model_prefix}."
    model.save_pretrained(
        folder, state_dict={name.removeprefix(prefix): tensor for name, tensor in model.state_dict().items()}
    )
    path = folder / "config.json"
    config = timm_config(read_json(path))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def timm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a `config.json` of `transformers` as timm reads it too."""
    from timm.models import PretrainedCfg

    known = {item.name for item in dataclasses.fields(PretrainedCfg)} - OF_SOURCE
    images = {key: value for key, value in (config.get("pretrained_cfg") or {}).items() if key in known}
    kept = {key: value for key, value in config.items() if key != "model_args" or value is not None}
    return {**kept, "pretrained_cfg": images}
