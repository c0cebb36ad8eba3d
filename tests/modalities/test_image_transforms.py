"""Any picture becomes upright RGB, and training and inference prepare it with the model's own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from hf_ft.modalities.augmentation import AUGMENTATIONS, augmentation
from hf_ft.modalities.image_transforms import ImageTransform, upright_rgb

RED, WHITE = (200, 30, 40), (255, 255, 255)


def palette_with_hole() -> Image.Image:
    """A palette image whose first entry is transparent, over black."""
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, *RED])
    image.info["transparency"] = 0
    return image


MODES = {
    "RGB": (lambda: Image.new("RGB", (4, 4), RED), RED),
    "grey": (lambda: Image.new("L", (4, 4), 90), (90, 90, 90)),
    "one bit": (lambda: Image.new("1", (4, 4), 1), WHITE),
    "grey with alpha": (lambda: Image.new("LA", (4, 4), (90, 0)), WHITE),
    "palette": (lambda: Image.new("RGB", (4, 4), RED).quantize(4), RED),
    "palette with transparency": (palette_with_hole, WHITE),
    "opaque RGBA": (lambda: Image.new("RGBA", (4, 4), (*RED, 255)), RED),
    "transparent RGBA": (lambda: Image.new("RGBA", (4, 4), (*RED, 0)), WHITE),
    "CMYK": (lambda: Image.new("RGB", (4, 4), RED).convert("CMYK"), RED),
    "16-bit grey": (lambda: Image.fromarray(np.full((4, 4), 90 * 257, dtype=np.uint16)), (90, 90, 90)),
}


@pytest.mark.parametrize("mode", MODES)
def test_any_mode_becomes_rgb(mode: str) -> None:
    """Colours stay, transparency becomes white, 16 bits become 8."""
    make, colour = MODES[mode]
    image = upright_rgb(make())
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[0, 0].astype(int) - colour).max() <= 2


def test_modes_are_counted() -> None:
    """Ten kinds of pictures."""
    assert len(MODES) == 10


def test_rotated_photo_stands_upright(tmp_path: Path) -> None:
    """A camera's EXIF orientation is applied: 6 means that the top is at the right."""
    image = Image.new("RGB", (6, 4), WHITE)
    image.paste(RED, (0, 0, 2, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.png", exif=exif)
    upright = upright_rgb(Image.open(tmp_path / "photo.png"))
    assert upright.size == (4, 6)
    assert upright.getpixel((0, 0)) == RED
    assert upright.getpixel((0, 5)) == WHITE


def test_inference_uses_the_processor_alone(image_model: str) -> None:
    """Without augmentation a picture becomes exactly what `pipeline` feeds the model."""
    processor = AutoImageProcessor.from_pretrained(image_model)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    batch = ImageTransform(processor, "none")({"image": [picture, picture], "labels": [1, 2]})
    expected = processor([picture], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch["pixel_values"][0], expected)
    assert batch["labels"] == [1, 2]


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_augmentation_is_random_and_seeded(name: str) -> None:
    """Two seeds differ, the same seed gives the same, and a crop is 33 % of the image or more."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    augment = augmentation(name)

    def draw(seed: int) -> list[Any]:
        torch.manual_seed(seed)
        return [np.asarray(augment(picture)) for _ in range(8)]

    first, again, other = draw(0), draw(0), draw(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(a.shape[0] * a.shape[1] >= 0.33 * 60 * 80 for a in first)


def test_random_erasing(image_model: str) -> None:
    """A rectangle of the model's input is 0 as often as asked for, seeded; without it nothing is erased."""
    processor = AutoImageProcessor.from_pretrained(image_model)
    picture = Image.fromarray(np.random.default_rng(0).integers(1, 120, (20, 30, 3), dtype=np.uint8))
    plain = ImageTransform(processor, "none")({"image": [picture]})["pixel_values"][0]

    def erased(probability: float, seed: int = 0) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        found: list[torch.Tensor] = ImageTransform(processor, "none", probability)({"image": [picture] * 40})[
            "pixel_values"
        ]
        return found

    assert all(torch.equal(one, plain) for one in erased(0.0))
    always = erased(1.0)
    for one in always:
        changed = one != plain
        assert 0 < changed.float().mean() < 0.4
        assert (one[changed] == 0).all()
    assert 0 < sum(torch.equal(one, plain) for one in erased(0.5)) < 40
    assert all(torch.equal(one, other) for one, other in zip(always, erased(1.0), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(always, erased(1.0, seed=1), strict=True))
