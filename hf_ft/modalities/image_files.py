"""Image files: read completely, with the digests by which duplicates are found."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hf_ft.errors import root_cause
from hf_ft.modalities.base import FileDigests
from hf_ft.modalities.image_transforms import upright_rgb


def encode_image(value: Any) -> dict[str, Any] | None:
    """Return an image in memory as a cell: one of Pillow, or an array of uint8, `(height, width[, 3])`; else None."""
    if not isinstance(value, Image.Image):
        pixels = np.asarray(value)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4))
        ):
            return None
        value = Image.fromarray(pixels)
    content = io.BytesIO()
    upright_rgb(value).save(content, "PNG")  # loses nothing
    return {"path": None, "bytes": content.getvalue()}


def check_image(cell: Mapping[str, Any] | None) -> FileDigests | str:
    """Decode an encoded image as training will: its digests, or why it cannot be read.

    All of it is decoded, since a header alone does not show that the rest is missing.
    """
    if cell is None:
        return "missing"
    try:
        encoded = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        with Image.open(io.BytesIO(encoded)) as opened:
            opened.load()
            image = upright_rgb(opened)
    except FileNotFoundError:
        return "a broken link" if os.path.islink(cell["path"]) else "no such file"
    except UnidentifiedImageError:  # its message is the address of an object in memory
        return "not an image" if encoded else "an empty file"
    except Exception as error:  # decoders of damaged files raise about everything
        return root_cause(error)[:100]
    pixels = hashlib.sha256(f"{image.width} {image.height} ".encode())
    pixels.update(image.tobytes())
    return FileDigests(hashlib.sha256(encoded).digest(), pixels.digest())
