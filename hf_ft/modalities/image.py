"""Images: files that Pillow reads, an image processor, batches of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, first_line
from hf_ft.modalities.base import ColumnType, FileDigests, FileInput, Modality
from hf_ft.modalities.image_batches import images_at_once
from hf_ft.modalities.image_views import MOST_VIEWS, image_views
from hf_ft.modalities.input_code import image_code

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""Extensions that Pillow reads; of an animation it reads the first picture."""
DEFAULT_SIDE = 224
"""Pixels where a model's config names no size."""

# --- Data -----------------------------------------------------------------------------------------------------------


def _holds_images(feature: Any) -> bool:
    from hf_ft.tables import holds_images

    return holds_images(feature)


def image_feature() -> Any:
    """The feature of a column of images."""
    from datasets import Image

    return Image()


def _check_image(cell: Mapping[str, Any] | None) -> FileDigests | str:
    from hf_ft.modalities.image_files import check_image

    return check_image(cell)


def _encode_image(value: Any) -> Mapping[str, Any] | None:
    from hf_ft.modalities.image_files import encode_image

    return encode_image(value)


# --- Processors -----------------------------------------------------------------------------------------------------


def load_processor(folder: str, config: PreTrainedConfig, name: str, **options: Any) -> tuple[Any, list[str]]:
    """The image processor of a source model, timm's own for a timm model, and a plain one where a folder has none.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoImageProcessor, ViTImageProcessor

    if config.model_type == "timm_wrapper":
        from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

        # Saved with the model, since `pipeline` reads from there how images are prepared.
        settings: Any = config
        settings.pretrained_cfg = getattr(config, "pretrained_cfg", None) or timm_image_settings(settings.architecture)
        return TimmWrapperImageProcessor(settings.pretrained_cfg, settings.architecture), []
    try:
        return AutoImageProcessor.from_pretrained(folder, **options), []
    except Exception as error:
        if not Path(folder).is_dir() or (Path(folder) / "preprocessor_config.json").exists():
            raise UserError(first_line(f"Cannot load the image processor of '{name}'", error)) from error
    size = getattr(config, "image_size", None) or DEFAULT_SIDE
    height, width = size if isinstance(size, list | tuple) else (size, size)
    note = f"the model has no preprocessor_config.json: images are resized to {height}x{width} and scaled to -1..1"
    return ViTImageProcessor(size={"height": height, "width": width}), [note]


def load_saved_processor(folder: str, config: PreTrainedConfig) -> Any:
    """The image processor of a result folder."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def timm_image_settings(architecture: str) -> dict[str, Any]:
    """What timm says about an architecture's images: size, mean and standard deviation."""
    import timm

    known = timm.get_pretrained_cfg(architecture)
    return known.to_dict() if known else {"input_size": (3, DEFAULT_SIDE, DEFAULT_SIDE)}


# --- Models ---------------------------------------------------------------------------------------------------------


def example_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """A random image of the size that the model's config names; None for a model that reads no images alone."""
    import inspect

    import torch

    accepted = inspect.signature(model.forward).parameters
    if "spatial_shapes" in accepted:  # flattened patches of images of any shape, as in NaFlex
        vision = getattr(model.config, "vision_config", model.config)
        side, values = 4, vision.num_channels * vision.patch_size**2
        return {
            "pixel_values": torch.rand(1, side * side, values, device=model.device, dtype=model.dtype),
            "pixel_attention_mask": torch.ones(1, side * side, dtype=torch.long, device=model.device),
            "spatial_shapes": torch.tensor([[side, side]], device=model.device),
        }
    if "pixel_values" in accepted and "input_ids" not in accepted:
        return {"pixel_values": torch.rand(1, *image_shape(model), device=model.device, dtype=model.dtype)}
    return None


def image_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Channels, height and width that a model expects."""
    config: Any = model.config
    wrapped: Any = getattr(model, "timm_model", None)
    if wrapped is not None:
        channels, height, width = wrapped.default_cfg["input_size"]
        size = getattr(getattr(wrapped, "patch_embed", None), "img_size", None) or (height, width)
        return (getattr(wrapped, "in_chans", channels), *size)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or DEFAULT_SIDE
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", 3), height, width


def at_once(processor: Any) -> int | None:
    """How many images of the size that a processor gives run at once; None where it gives images of many sizes."""
    from hf_ft.modalities.processor_size import output_side

    side = output_side(processor)
    return images_at_once(side * side) if side else None


MODALITY = Modality(
    name="image",
    plural="images",
    unit="px",
    example='"photo.jpg"',
    options=("augment", "augment_views", "image_size", "random_erasing", "mixup", "cutmix", "drop_path"),
    columns={"image": ColumnType(_holds_images, "images or paths of images")},
    method_defaults="image",
    load_processor=load_processor,
    load_saved_processor=load_saved_processor,
    example_inputs=example_inputs,
    model_inputs=frozenset({"pixel_values"}),
    views=image_views,
    most_views=MOST_VIEWS,
    files=FileInput("image", "image", EXTENSIONS, image_feature, _check_image, "CLASS/*.jpg", _encode_image),
    input_code=image_code,
    quantization="static",
    at_once=at_once,
)
