"""Image processors at another image size, with resizing and cropping in the proportions that they had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SIZES = ("size", "crop_size", "pad_size")
"""The settings of image processors of transformers that are numbers of pixels."""
TRIED = 512
"""Pixels of the square image by which the output of a processor is measured."""


def resize_processor(processor: Any, config: PreTrainedConfig, side: int, name: str) -> Any:
    """Return an image processor whose output has `side` x `side` pixels.

    What it crops stays the same share of the image: one that resizes to 256 pixels and crops 224 of them resizes to 512
    for 448, and timm's `crop_pct` is kept. A processor of that size is returned as it is.

    Args:
        config: The model's; of a timm model it holds the settings of the processor too, and is changed.
        name: What the user calls the model, for errors.

    Raises:
        UserError: The processor does not give square images of one size.
    """
    before = output_side(processor)
    if before == side:
        return processor
    if config.model_type == "timm_wrapper":
        settings: Any = config
        channels = processor.data_config["input_size"][0]
        settings.pretrained_cfg = {**settings.pretrained_cfg, "input_size": [channels, side, side]}
        resized: Any = type(processor)(settings.pretrained_cfg, settings.architecture)
    else:
        stored = processor.to_dict()
        scaled = {key: _scaled(stored[key], before, side) for key in SIZES if stored.get(key)}
        resized = type(processor).from_dict({**stored, **scaled})
    if before is None or output_side(resized) != side:
        raise UserError(
            f"--image_size {side}: the {type(processor).__name__} of '{name}' cannot be set to that size.",
            option="image_size",
            value=side,
            hint="Leave it out.",
        )
    return resized


def output_side(processor: Any) -> int | None:
    """Return the side of the square images that a processor gives for a square one; None where they are not square."""
    from PIL import Image

    pixels = processor([Image.new("RGB", (TRIED, TRIED))], return_tensors="pt")["pixel_values"][0]
    height, width = pixels.shape[-2:]
    return int(height) if height == width else None


def _scaled(sizes: Any, before: int | None, side: int) -> Any:
    """Return sizes in pixels, alone or by name, in the proportion of `side` to `before`."""
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        return round(sizes * side / before) if before else side
    return {key: _scaled(value, before, side) for key, value in sizes.items()} if isinstance(sizes, dict) else sizes
