"""PEFT adapters: where they go and which head is saved with them both come from the table of depth groups.

PEFT's own defaults go by names: its sequence classification task knows heads called `classifier` and `score` only,
so the heads of BART, T5 and XLNet are neither trained nor saved; its target names are out of date for ViT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_ft.config import Config
from hf_ft.depth_groups import DepthGroup
from hf_ft.lookup import UserError
from hf_ft.plan import Setting


def attach(
    model: PreTrainedModel, groups: Sequence[DepthGroup], settings: Sequence[Setting], config: Config
) -> PeftModel:
    """Add LoRA (https://arxiv.org/abs/2106.09685) to the adapted groups; the head trains whole and is saved.

    Raises:
        UserError: the adapted groups have no layer that LoRA fits.
    """
    adapted = {
        name
        for group, setting in zip(groups, settings, strict=True)
        if setting.mode == "adapt"
        for name in group.modules
    }
    targets = [name for name, part in model.named_modules() if _adaptable(part) and _within(name, adapted)]
    if not targets:
        raise UserError(
            f"LoRA finds no linear or convolution layer in the blocks of {type(model).__name__}. "
            "Use another method, for example last_n:2 or full."
        )
    peft_config = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        modules_to_save=trained_modules(model, groups, settings),
    )
    return get_peft_model(model, peft_config)


def _adaptable(part: nn.Module) -> bool:
    # Grouped convolutions are left out: a low-rank product cannot be merged into them.
    return isinstance(part, nn.Linear | Conv1D) or (isinstance(part, nn.Conv2d) and part.groups == 1)


def _within(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def trained_modules(model: nn.Module, groups: Sequence[DepthGroup], settings: Sequence[Setting]) -> list[str]:
    """The modules that train whole beside adapters: those of the head that have parameters."""
    return [
        name
        for group, setting in zip(groups, settings, strict=True)
        if setting.mode == "train"
        for name in group.modules
        if any(True for _ in model.get_submodule(name).parameters())
    ]


def merge(model: PeftModel) -> PreTrainedModel:
    """Fold the adapters into the weights and return the plain model.

    Raises:
        ValueError: the merged weights are not finite.
    """
    plain: Any = model.merge_and_unload(safe_merge=True)
    return plain


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Save the adapter with its head; `name_base` adds which model it belongs to."""
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template, which names the base by its local path
    name_base(folder, None, None)


def name_base(folder: Path, hub_id: str | None, commit: str | None) -> None:
    """Write the base model of a saved adapter as Hub id and commit, or as unknown when it is a local folder.

    PEFT writes the folder's path into `adapter_config.json`, and a path of this machine must not be published.
    """
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written |= {"base_model_name_or_path": hub_id, "revision": commit}
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
