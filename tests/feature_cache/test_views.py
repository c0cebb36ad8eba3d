"""Fixed views of augmented images: the same in every run, read in turns, and trained from features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, ViTImageProcessor, pipeline

from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.environment import random_numbers_of
from hf_ft.feature_cache.cache_key import fingerprints
from hf_ft.feature_cache.views import CachedViews, FixedViews
from hf_ft.modalities import ImageTransform
from hf_ft.settings.merge import build
from hf_ft.training.data_order import SeededRows
from tests.support.interruption import interrupted_after


def encoded(count: int = 5, augment: str = "basic") -> Dataset:
    """Noisy images as the task encodes them."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(count)]
    rows = Dataset.from_dict({"image": images, "labels": list(range(count))})
    return rows.with_transform(ImageTransform(ViTImageProcessor(size={"height": 16, "width": 16}), augment, 0.3))


# --- Views of images ------------------------------------------------------------------------------------------------


def test_a_view_depends_on_seed_row_and_number_alone() -> None:
    """It is what the transform gives with these random numbers, whatever is read before, beside or after it."""
    rows = encoded()
    views = FixedViews(rows, 3, seed=7)
    assert len(views) == 15
    whole = views[list(range(15))]
    assert whole["labels"] == [row for row in range(5) for _ in range(3)]
    state = torch.get_rng_state()
    alone = [views[[place]]["pixel_values"][0] for place in reversed(range(15))][::-1]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(whole["pixel_values"], alone, strict=True))
    with random_numbers_of([7, 2, 1]):
        expected = rows[[2]]["pixel_values"][0]
    assert torch.equal(alone[2 * 3 + 1], expected)
    assert len({one.numpy().tobytes() for one in alone}) == 15
    others = FixedViews(rows, 3, seed=8)[list(range(15))]["pixel_values"]
    assert not any(torch.equal(one, other) for one, other in zip(alone, others, strict=True))


def test_each_image_is_decoded_once_for_all_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring places are views of one image."""
    views, read = FixedViews(encoded(), 4, seed=0), list[int]()

    class Plain:
        """Counts what is read."""

        def __init__(self, rows: Dataset) -> None:
            self.rows = rows

        def __getitem__(self, row: int) -> Any:
            read.append(row)
            return self.rows[row]

    monkeypatch.setattr(views, "plain", Plain(views.plain))
    _ = views[list(range(2, 12))]
    assert read == [0, 1, 2]


def test_fingerprints_tell_views_apart() -> None:
    """Every view has its own, more views share those of fewer, and seed, row and augmentation count."""
    rows = encoded()
    of_images = fingerprints(rows, "one")
    found = FixedViews(rows, 3, 7).fingerprints(of_images)
    assert found.shape == (15, 16)
    assert len({one.tobytes() for one in found}) == 15
    more = FixedViews(rows, 4, 7).fingerprints(of_images)
    assert np.array_equal(more.reshape(5, 4, 16)[:, :3], found.reshape(5, 3, 16))
    for other in (
        FixedViews(rows, 3, 8).fingerprints(of_images),
        FixedViews(rows, 3, 7).fingerprints(fingerprints(rows, "two")),
    ):
        assert not {one.tobytes() for one in other} & {one.tobytes() for one in found}


class Numbered:
    """Features that are the numbers of their rows."""

    def take(self, places: Sequence[int]) -> list[torch.Tensor]:
        """Them."""
        return [torch.tensor(list(places))]


def test_epochs_cycle_through_the_views() -> None:
    """Each cycle reads every view once, in an order that depends on cycle and seed; all rows of an epoch alike."""
    rows = Dataset.from_dict({"labels": [5, 6, 7]})
    views = CachedViews(Numbered(), rows, 4, seed=3)  # type: ignore[arg-type]
    orders = [[views.view_in(4 * cycle + place) for place in range(4)] for cycle in range(8)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(map(tuple, orders))) > 2
    others = CachedViews(Numbered(), rows, 4, seed=4)  # type: ignore[arg-type]
    assert orders != [[others.view_in(4 * cycle + place) for place in range(4)] for cycle in range(8)]
    seeded = SeededRows(views, 3, lambda batch: batch)
    assert len(seeded) == 3
    for epoch in range(6):
        batch = seeded.__getitems__([3 * epoch + row for row in (2, 0, 1)])
        assert batch["labels"].tolist() == [7, 5, 6]
        view = views.view_in(epoch)
        assert batch["features"][0].tolist() == [2 * 4 + view, view, 4 + view]
    assert views.every.rows["labels"][:] == [5] * 4 + [6] * 4 + [7] * 4


# --- Runs -----------------------------------------------------------------------------------------------------------


def train(model: str, data: str, out: Path, **settings: Any) -> dict[str, Any]:
    """The record of a short run with augmented images."""
    usual = {"task": "image_classification", "method": "head", "head_solver": "sgd", "augment": "basic", "seed": 1}
    usual |= {"num_train_epochs": 4, "per_device_train_batch_size": 8, "load_back_proof": False, "augment_views": 2}
    usual |= {"early_stopping_patience": 0, "cache_dir": str(out.parent / "cache")}
    return finetune(**{**usual, "model": model, "dataset": data, "output_dir": str(out), **settings}).record


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a finished run."""
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("method", ["head", "norms@last_n:1"])
def test_training_reads_features_of_the_views(
    method: str, image_model: str, image_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is that of training live on the very same views, and the frozen layers ran once for each of them."""
    record = train(image_model, image_data, tmp_path / "views", method=method)
    cache = record["stages"][0]["cache"]
    images = record["data"]["sizes"]
    assert (cache["views"], cache["computed"]) == (2, 2 * images["train"] + images["validation"])
    again = train(image_model, image_data, tmp_path / "again", method=method)
    assert again["stages"][0]["cache"]["computed"] == 0

    # The same views, without the cache: the transform draws the random numbers of the view that the epoch reads.
    order = CachedViews(Numbered(), Dataset.from_dict({"labels": [0]}), 2, seed=1)  # type: ignore[arg-type]
    inner = SeededRows.__getitems__

    def fixed(self: SeededRows, indices: Sequence[int]) -> Any:
        if not isinstance(self.rows, Dataset):
            return inner(self, indices)
        count, cells = len(self.rows), []
        for index in indices:
            with random_numbers_of([1, index % count, order.view_in(index // count)]):
                cells.append(self.rows[index % count])
        return self.collate(cells)

    monkeypatch.setattr(SeededRows, "__getitems__", fixed)
    live = train(image_model, image_data, tmp_path / "live", method=method, cache="off", augment_views=None)
    assert live["stages"][0]["cache"] is None
    one, other = weights(tmp_path / "views"), weights(tmp_path / "live")
    assert all(float((one[name] - other[name]).abs().max()) <= 1e-4 for name in one)
    start = AutoModelForImageClassification.from_pretrained(image_model).state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one if one[name].shape == start[name].shape)
    assert (moved > 1e-3) == (method != "head")


def test_a_resumed_run_reads_the_same_views(image_model: str, image_data: str, tmp_path: Path) -> None:
    """Interrupted in its third epoch, it ends with the tensors of an uninterrupted run."""
    settings = {"method": "last_n:1", "augment_views": 3}
    train(image_model, image_data, tmp_path / "whole", **settings)
    with interrupted_after(13):
        train(image_model, image_data, tmp_path / "torn", **settings)
    record = train(image_model, image_data, tmp_path / "torn", resume_from_checkpoint=True, **settings)
    assert record["stages"][0]["cache"]["computed"] == 0
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "torn")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_no_more_views_than_epochs(image_model: str, image_data: str, tmp_path: Path) -> None:
    """Training by steps reads one view in each epoch; what it caches does not depend on what a cache would save."""
    few = train(image_model, image_data, tmp_path / "few", augment_views=9, num_train_epochs=2)
    assert few["stages"][0]["cache"]["views"] == 2
    one = train(image_model, image_data, tmp_path / "one", augment_views=1, num_train_epochs=1, eval_strategy="no")
    assert one["stages"][0]["cache"]["views"] == 1
    assert one["stages"][0]["cache"]["computed"] == 0  # the first view of each image is the same


def test_a_head_is_solved_on_all_views(image_model: str, image_data: str, tmp_path: Path) -> None:
    """Every view is a row of its own for the solver, so more views make another head; no step is needed."""
    settings = {"head_solver": "exact", "num_train_epochs": None, "early_stopping_patience": None}
    found = {
        views: train(image_model, image_data, tmp_path / f"{views}", augment_views=views, **settings)
        for views in (1, 3)
    }
    for views, record in found.items():
        (stage,) = record["stages"]
        assert stage["solver"] is not None
        assert (stage["steps"], stage["cache"]["views"]) == (0, views)
        assert not [note for note in stage["notes"] if "plain images" in note]
    one, three = (weights(tmp_path / str(views)) for views in (1, 3))
    assert not torch.allclose(one["classifier.1.weight"], three["classifier.1.weight"], atol=1e-4)


def test_stages_without_frozen_blocks_augment_anew(
    image_model: str, image_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `lp_ft` the head is solved on the views, and the second stage says that it does not use them."""
    settings = {"method": "lp_ft", "head_solver": None, "num_train_epochs": 2}
    head, full = train(image_model, image_data, tmp_path / "out", **settings)["stages"]
    assert head["cache"]["views"] == 2
    assert head["solver"]
    assert full["cache"] is None
    assert "views    not used in stage 'full'" in capsys.readouterr().out


def test_views_from_the_command_line(image_model: str, image_data: str, tmp_path: Path) -> None:
    """`hf-ft train --augment_views 2` on files: recorded, proved to load back, and loaded by a plain `pipeline`."""
    words = f"train --task image_classification --model {image_model} --dataset {image_data} --method last_n:1"
    own = f"--augment basic --augment_views 2 --num_train_epochs 3 --cache_dir {tmp_path / 'cache'}"
    assert main([*words.split(), *own.split(), "--output_dir", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["settings"]["augment_views"] == 2
    assert record["stages"][0]["cache"]["views"] == 2
    assert record["proofs"]["load_back"]["passed"]
    assert "augment_views 2" in (tmp_path / "out/README.md").read_text()
    answer = pipeline("image-classification", model=str(tmp_path / "out"))(Image.new("RGB", (20, 20), "red"))
    assert {one["label"] for one in answer} == set(record["data"]["labels"])


# --- Mistakes -------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no augmentation": ({"method": "head", "augment_views": 4}, "needs an augmentation"),
    "none": ({"augment": "none", "augment_views": 4}, "needs an augmentation"),
    "no view": ({"augment_views": 0}, "at least 1"),
    "too many": ({"augment_views": 1001}, "at most 1,000"),
    "a word": ({"augment_views": "four"}, "four"),
    "mixed images": ({"augment_views": 4, "mixup": 0.2}, "--mixup mixes images"),
    "no cache": ({"augment_views": 4, "cache": "off"}, "--cache off rules out"),
    "nothing frozen": ({"augment_views": 4, "method": "full"}, "method 'full' freezes none"),
    "adapters everywhere": ({"augment_views": 4, "method": "lora"}, "such as head or lora@last_n:2"),
    "texts": ({"augment_views": 4, "task": "text_classification"}, "whose inputs are"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case: str, image_model: str, image_data: str, tmp_path: Path) -> None:
    """Each is one line about the option, before anything heavy is imported."""
    settings, reason = MISTAKES[case]
    usual = {"task": "image_classification", "model": image_model, "dataset": image_data, "method": "last_n:1"}
    with pytest.raises(UserError, match=reason) as error:
        build(("the test", {**usual, "output_dir": str(tmp_path / "out"), **settings}))
    assert error.value.option == "augment_views"
    assert "\n" not in str(error.value)


def test_a_transform_of_the_caller_has_no_views(image_model: str, image_data: str, tmp_path: Path) -> None:
    """Nobody knows that it gives the same image again; nothing is trained."""
    with pytest.raises(UserError, match="augment_views") as error:
        train(image_model, image_data, tmp_path / "out", transform=lambda image: image)
    assert error.value.option == "augment_views"
    assert not (tmp_path / "out/run.json").exists()
