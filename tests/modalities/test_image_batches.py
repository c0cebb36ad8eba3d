"""How many images run at once: by their pixels."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from hf_ft.modalities import get_modality, images_at_once


@pytest.mark.parametrize(("side", "images"), [(32, 64), (64, 64), (128, 49), (224, 16), (384, 5), (1024, 4)])
def test_images_at_once(side: int, images: int) -> None:
    """Small images run by dozens; a large one never runs quite alone."""
    assert images_at_once(side * side) == images


def test_the_size_is_that_of_the_processor(image_model: str) -> None:
    """Texts have lengths instead."""
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor.from_pretrained(image_model)
    side = processor([Image.new("RGB", (99, 50))], return_tensors="pt")["pixel_values"].shape[-1]
    assert get_modality("image").at_once(processor) == images_at_once(side * side)
    assert get_modality("text").at_once(object()) is None
