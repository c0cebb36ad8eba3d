"""Models for another image size: position embeddings are resampled, and all else stays as it is in the checkpoint.

Vision transformers have an embedding for each patch of an image of one size. `transformers` can interpolate them in
each forward pass (`interpolate_pos_encoding=True`), which a plain `pipeline` does not do; here its own function, or
timm's, computes them once, and the config says the new size. So the result is a plain model for larger images.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from hf_ft.errors import UserError, first_line
from hf_ft.modalities import image_shape
from hf_ft.models.loading_output import silent_loading

STEP, TRIES = 32, 12
"""Sizes that are tried as an alternative: multiples of the patch size, or of this, and how many on each side."""
SPECIAL = 3
"""Rows of a BEiT's table of relative positions that belong to the class token, at its end."""
PREFIX = 4
"""Most rows of a table of absolute positions that belong to other tokens than patches, at its beginning."""


@dataclass(frozen=True)
class ImageSize:
    """What another image size changed in a model.

    Attributes:
        size: Pixels of a side.
        checkpoint: The same in the checkpoint.
        resampled: The tensors that were resampled from those of the checkpoint.
        unchanged: How many tensors are bit-identical to the checkpoint.
    """

    size: int
    checkpoint: int
    resampled: tuple[str, ...]
    unchanged: int

    def note(self) -> str:
        """One sentence for the user."""
        names = (
            f"{len(self.resampled)} resampled ({', '.join(self.resampled[:2])}{', ...' * (len(self.resampled) > 2)})"
        )
        changed = names if self.resampled else "none depends on the size"
        return (
            f"images of {self.size} pixels in place of {self.checkpoint}; tensors: {changed}, {self.unchanged:,} "
            "bit-identical to the checkpoint"
        )


class CannotResize(Exception):
    """The model does not take images of that size; the text says why."""


def sized_config(config: PreTrainedConfig, size: int) -> PreTrainedConfig:
    """Return a copy of a config whose models expect images of `size` pixels, as far as it has a setting for that."""
    found: Any = copy.deepcopy(config)
    if config.model_type == "timm_wrapper":
        if _reads_img_size(found, size):
            found.model_args = {**(found.model_args or {}), "img_size": size}
        return found
    vision = getattr(found, "vision_config", found)
    own = getattr(vision, "image_size", None)
    if own is not None:
        vision.image_size = type(own)([size] * len(own)) if isinstance(own, list | tuple) else size
    return found


def _reads_img_size(config: Any, size: int) -> bool:
    """Whether the constructor of a timm architecture takes `img_size`; those of most convolution networks do not."""
    import timm

    try:
        with torch.device("meta"), torch.random.fork_rng():
            timm.create_model(config.architecture, **{**(config.model_args or {}), "img_size": size})
    except TypeError as error:
        return "img_size" not in str(error)
    except Exception:  # it knows the word, and refuses this size or the meta device: that is seen later
        return True
    return True


def with_image_size(model: PreTrainedModel, size: int) -> tuple[PreTrainedModel, ImageSize | None]:
    """Return a model for images of `size` pixels, and what is new in it; the model itself where it has that size.

    Raises:
        CannotResize: A tensor that is no position embedding depends on the size.
    """
    _, height, width = image_shape(model)
    if (height, width) == (size, size):
        return model, None
    if height != width:
        raise CannotResize(f"it is made for images of {width}x{height} pixels, which are not square")
    before = dict(model.state_dict())
    with silent_loading(), torch.random.fork_rng(), no_init_weights(), next(model.parameters()).device:
        resized = type(model)(sized_config(model.config, size))
    wanted = dict(resized.state_dict())
    other = [name for name, value in wanted.items() if value.shape != before[name].shape]
    learned = {name for name, _ in resized.named_parameters()}
    # Buffers follow from the config, such as an index of relative positions: the new model has computed them.
    computed = {name: wanted[name] for name in other if name not in learned}
    found = _resampled(model, resized, {name: wanted[name].shape for name in other if name in learned}, size)
    resized.load_state_dict(before | computed | found)
    resized.train(model.training)
    unchanged = [name for name in before if name not in other]
    if resized.device.type != "meta":
        now = resized.state_dict()
        wrong = [name for name in unchanged if not torch.equal(now[name], before[name])]
        if wrong:
            raise RuntimeError(f"Another image size changed tensors that do not depend on it: {wrong[:3]}")
    return resized, ImageSize(size, height, tuple(sorted(other)), len(unchanged))


# --- Resampling -------------------------------------------------------------------------------------------------------


def _resampled(
    model: PreTrainedModel, resized: PreTrainedModel, shapes: dict[str, torch.Size], size: int
) -> dict[str, torch.Tensor]:
    """Return the parameters of a model in other shapes, resampled by transformers or by timm."""
    if not shapes:
        return {}
    if getattr(model, "timm_model", None) is not None:
        found = _by_timm(model, resized, shapes, size)
    else:
        found = {name: _by_transformers(model, name, shape, size) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            raise CannotResize(f"its tensor {name} depends on the image size and is no position embedding")
    return {name: found[name].detach() for name in shapes}


def _by_timm(
    model: PreTrainedModel, resized: PreTrainedModel, shapes: dict[str, torch.Size], size: int
) -> dict[str, torch.Tensor]:
    """Return the tensors of a timm model as timm's own functions resample them; this changes `model`.

    Some architectures have `set_input_size`, others do it in the function that adapts a checkpoint, and what neither
    resamples is a plain table of positions or none.
    """
    wrapped: Any = model.timm_model
    before = image_shape(model)[1]
    tables = {name: model.get_parameter(name) for name in shapes if "pos_embed" in name and len(shapes[name]) in (3, 4)}
    adapt = getattr(sys.modules[type(wrapped).__module__], "checkpoint_filter_fn", None)
    if hasattr(wrapped, "set_input_size"):
        wrapped.set_input_size(img_size=(size, size))
        found = wrapped.state_dict()
    elif adapt is not None:
        found = adapt(dict(wrapped.state_dict()), resized.timm_model)
    else:
        found = {}
    found = {f"timm_model.{name}": value for name, value in found.items()}
    for name, value in tables.items():
        if name not in found or found[name].shape != shapes[name]:
            found[name] = _absolute(value, shapes[name], before, size)
    return found


def _by_transformers(model: PreTrainedModel, name: str, shape: torch.Size, size: int) -> torch.Tensor:
    """Return one parameter in another shape, by the model's own `interpolate_pos_encoding` where it fits.

    Raises:
        CannotResize: It is no table of positions.
    """
    value = model.get_parameter(name)
    if name.endswith("relative_position_bias_table"):
        return _relative(value, shape)
    if "pos" not in name or value.ndim not in (2, 3):
        raise CannotResize(f"its tensor {name} depends on the image size and is no position embedding")
    owner = name.rpartition(".")[0]
    for module in (
        model.get_submodule(owner),
        model.get_submodule(owner.rpartition(".")[0]),
    ):  # or of an `nn.Embedding`
        method = getattr(module, "interpolate_pos_encoding", None)
        if method is not None and list(inspect.signature(method).parameters) == ["embeddings", "height", "width"]:
            found = _interpolated(method, value.new_empty(1, shape[-2], shape[-1]), size)
            if found is not None and found.numel() == shape.numel():
                return found.reshape(shape)
    return _absolute(value, shape, image_shape(model)[1], size)


def _interpolated(method: Callable[..., torch.Tensor], like: torch.Tensor, size: int) -> torch.Tensor | None:
    """Return what a method answers for embeddings of that shape; None where its arguments mean something else."""
    try:
        with torch.no_grad():
            return method(like, size, size)
    except RuntimeError:  # PVT's takes the size in patches
        return None


def _absolute(value: torch.Tensor, shape: torch.Size, before: int, size: int) -> torch.Tensor:
    """Return absolute positions, `(1, positions, d)`, `(positions, d)` or `(1, h, w, d)`, in another shape, by timm."""
    from timm.layers.pos_embed import resample_abs_pos_embed, resample_abs_pos_embed_nhwc

    if value.ndim == 4:
        return resample_abs_pos_embed_nhwc(value.detach(), list(shape[1:3]))
    old, new = value.shape[-2], shape[-2]
    for prefix in range(PREFIX):
        a, b = math.isqrt(max(0, old - prefix)), math.isqrt(max(0, new - prefix))
        if a * a == old - prefix and b * b == new - prefix and abs(a * size / before - b) < 1:
            table = value.detach().reshape(1, old, -1)
            return resample_abs_pos_embed(table, [b, b], [a, a], num_prefix_tokens=prefix).reshape(shape)
    raise CannotResize(f"its table of {old} positions is none of a square image")


def _relative(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return a BEiT's table of relative positions in another shape, as its forward pass interpolates it."""
    old, new = value.shape[0] - SPECIAL, shape[0] - SPECIAL
    a, b = math.isqrt(max(0, old)), math.isqrt(max(0, new))
    if a * a != old or b * b != new:
        raise CannotResize("its table of relative positions is none of a square image")
    table = value.detach()
    grid = table[:old].reshape(1, a, a, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(b, b), mode="bilinear")
    return torch.cat([grid.permute(0, 2, 3, 1).reshape(new, -1), table[old:]])


# --- The check before training ----------------------------------------------------------------------------------------


def check_image_size(
    build: Callable[[PreTrainedConfig], PreTrainedModel], config: PreTrainedConfig, size: int, name: str
) -> None:
    """Check on a model without memory for weights (the `meta` device) that it takes images of `size` pixels.

    Args:
        build: Returns a model of a config.
        config: The model's.
        name: What the user calls the model.

    Raises:
        UserError: It does not; names the nearest sizes that it takes.
    """
    try:
        own = image_shape(_on_meta(build, config))[1]
        multiple = patch_multiple(_on_meta(build, config))
    except Exception:  # an architecture that cannot be built so is tried when its weights are loaded
        return
    why = _refusal(build, config, size, multiple)
    if not why or (size != own and _refusal(build, config, own, multiple)):
        return
    step = multiple if multiple > 1 else STEP
    first = size // step * step
    below = [n for n in range(first, 0, -step) if n < size][:TRIES]
    above = range(first + step, first + step * (TRIES + 1), step)
    fitting = [
        next((n for n in sizes if n == own or not _refusal(build, config, n, multiple)), None)
        for sizes in (below, above)
    ]
    nearest = [str(n) for n in fitting if n is not None] or [str(own)]
    raise UserError(
        f"--image_size {size}: '{name}', made for {own} pixels, cannot take it: {why}.",
        option="image_size",
        value=size,
        hint=f"The nearest that it takes: {' and '.join(nearest)}.",
    )


def patch_multiple(model: PreTrainedModel) -> int:
    """Return the side of the patches that a model divides an image into, 1 where it does not."""
    wrapped: Any = getattr(model, "timm_model", None)
    config: Any = getattr(model.config, "vision_config", model.config)
    patch = getattr(getattr(wrapped, "patch_embed", None), "patch_size", None) if wrapped is not None else None
    patch = patch if wrapped is not None else getattr(config, "patch_size", None)
    patch = patch[0] if isinstance(patch, list | tuple) and patch else patch
    return patch if isinstance(patch, int) and patch > 0 else 1


def _on_meta(build: Callable[[PreTrainedConfig], PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with silent_loading(), torch.device("meta"), torch.random.fork_rng(), no_init_weights():
        return build(copy.deepcopy(config)).eval()


def _refusal(
    build: Callable[[PreTrainedConfig], PreTrainedModel], config: PreTrainedConfig, size: int, multiple: int
) -> str:
    """Return why a model does not take images of `size` pixels, from a forward pass without memory; "" if it does."""
    if size % multiple:
        return f"its patches have {multiple}x{multiple} pixels, so the size must be a multiple of {multiple}"
    try:
        model, _ = with_image_size(_on_meta(build, config), size)
        with torch.no_grad():
            model(torch.rand(1, image_shape(model)[0], size, size, device="meta"))
    except CannotResize as reason:
        return str(reason)
    except Exception as error:  # architectures raise different errors for images that are too small or do not divide
        return first_line(f"its forward pass fails for images of {size} pixels", error).rstrip(".")
    return ""
