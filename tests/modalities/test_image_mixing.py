"""Mixed batches: images and labels in the same shares, reproducible, and the views of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from hf_ft.modalities.image_mixing import MIXES, ImageMixing
from hf_ft.modalities.image_views import MOST_VIEWS, image_views
from hf_ft.training.data_order import SeededRows

CLASSES = 4
BOTH = {"mixup": 0.4, "cutmix": 1.0}


def stacked(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch; labels are class numbers, or rows of 0 and 1."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def flat_images(count: int = 8) -> list[dict[str, Any]]:
    """Images of one colour each, which is their number."""
    return [{"pixel_values": torch.full((3, 16, 16), float(i)), "labels": i % CLASSES} for i in range(count)]


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("several", [False, True])
def test_labels_are_mixed_in_the_shares_of_the_images(name: str, several: bool) -> None:
    """Whatever share of an image is its neighbour's, the same share of the labels is; inputs stay as they were."""
    rows = flat_images()
    before = stacked(rows)
    marks = one_hot(before["labels"], CLASSES).float()
    if several:
        marks[:, 0] = 1
        rows = [{**row, "labels": mark.tolist()} for row, mark in zip(rows, marks, strict=True)]
    torch.manual_seed(1)
    mixed = ImageMixing({name: BOTH[name]}, CLASSES, stacked)(rows)
    own, other = before["pixel_values"], before["pixel_values"].roll(1, 0)
    share = ((mixed["pixel_values"] - other) / (own - other)).mean((1, 2, 3))
    assert 0 < share[0] < 1
    expected = share[:, None] * marks + (1 - share[:, None]) * marks.roll(1, 0)
    torch.testing.assert_close(mixed["labels"], expected, rtol=1e-4, atol=1e-5)
    whole = mixed["pixel_values"] % 1 == 0
    assert whole.all() if name == "cutmix" else not whole.any()
    assert torch.equal(stacked(rows)["pixel_values"], own)


def test_mixing_depends_on_seed_epoch_and_rows_alone() -> None:
    """The same indices give the same batch, whatever ran before; another epoch, seed or order gives another."""
    rows = flat_images()

    def batch(indices: list[int], seed: int = 0) -> torch.Tensor:
        torch.rand(int(torch.randint(9, ()).item()) + 1)
        found: torch.Tensor = SeededRows(rows, seed, ImageMixing(BOTH, CLASSES, stacked)).__getitems__(indices)[
            "pixel_values"
        ]
        return found

    first = [3, 1, 4, 2]
    later = [index + len(rows) for index in first]  # of the second epoch
    assert torch.equal(batch(first), batch(first))
    for other in (batch(later), batch(first, seed=1), batch(first[::-1])):
        assert not torch.equal(batch(first), other)


def test_of_both_ways_either_is_used() -> None:
    """A batch is blended or pasted, never both."""
    rows, mix = flat_images(), ImageMixing(BOTH, CLASSES, stacked)
    torch.manual_seed(0)
    pasted = [bool((mix(rows)["pixel_values"] % 1 == 0).all()) for _ in range(12)]
    assert {*pasted} == {True, False}


def test_views_of_an_image() -> None:
    """The first is the image itself, the second its mirror image, and the others are crops in such pairs."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8))
    views = [np.asarray(view(image)) for view in image_views(MOST_VIEWS)]
    assert len(views) == MOST_VIEWS
    assert np.array_equal(views[0], np.asarray(image))
    assert all(np.array_equal(other, view[:, ::-1]) for view, other in zip(views[::2], views[1::2], strict=True))
    assert {view.shape for view in views[2:]} == {(35, 49, 3)}
    assert len({view.tobytes() for view in views}) == MOST_VIEWS
    corners = [np.asarray(image)[:35, :49], np.asarray(image)[:35, -49:], np.asarray(image)[-35:, :49]]
    assert all(np.array_equal(view, corner) for view, corner in zip(views[4::2], corners, strict=False))
    assert len(image_views(2)) == 2
