"""The image cache: images of a stage that runs uncached are decoded once instead of in every epoch.

A photo of 12 megapixels takes 200 ms to decode and resize. With a fixed crop (validation always, training without
augmentation) the cache stores the processor's output before it rescales and normalises: the same bits, read in 0.3 ms.
Whether the processor can be split at that point is tested on a few images. With random crops it stores the decoded
image, shrunk to the size that random crops need, like fastai's presizing (https://docs.fast.ai/vision.augment.html).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import Compose, ToTensor
from torchvision.transforms.functional import pil_to_tensor
from transformers import default_data_collator

from hf_ft.data import in_threads
from hf_ft.environment import print_on_main, progress
from hf_ft.errors import first_line
from hf_ft.feature_cache.cache_key import encoded_files, fingerprints, image_key
from hf_ft.feature_cache.cache_request import CacheRequest
from hf_ft.feature_cache.encoding import is_built_in, transform_of
from hf_ft.feature_cache.examples import EncodedSplit
from hf_ft.feature_cache.feature_files import Features, FeatureStore, Unusable
from hf_ft.feature_cache.policy import NotCached, admit, forecast
from hf_ft.feature_cache.rows import CachedRows
from hf_ft.modalities import ImageTransform, upright_rgb
from hf_ft.models import Layout
from hf_ft.storage import json_digest
from hf_ft.tables import image_column

SAMPLE, BATCH = 4, 8
LEAST = 2.0
"""Minimum number of seconds that an image cache must save to be built."""
SLOW = 60.0
"""Decoding time of a stage in seconds, over all epochs, above which it is reported."""
SHARPER = 2.5
"""The shorter side of a cached image, as a multiple of the model's input size.

The smallest random crop (`modalities.RandomRegion`) is half as wide as the image, and some processors crop a margin.
"""

Fill = Callable[[Sequence[Image.Image]], list[torch.Tensor]]
Facts = dict[str, float]


class ResizedImages(CachedRows):
    """Images with a fixed crop, cached as the bytes that the processor returns before it rescales them."""

    def __init__(self, features: Features, rows: Dataset, processor: Any) -> None:
        super().__init__(features, rows, default_data_collator, None)
        self.processor = processor

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = super().__getitems__(indices)
        return {"pixel_values": torch.stack(normalised(self.processor, batch.pop("features")[0])), **batch}


class CachedImages(CachedRows):
    """Decoded images for random crops, shrunk to the size that these need; `note` is empty if none was shrunk."""

    def __init__(self, features: Features, rows: Dataset, transform: ImageTransform, note: str) -> None:
        super().__init__(features, rows, default_data_collator, None)
        self.transform, self.note = transform, note

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = super().__getitems__(indices)
        pixels, sizes = batch.pop("features")
        each = pixels.split(sizes.prod(1).tolist())
        images = [Image.fromarray(one.view(*size, 3).numpy()) for one, size in zip(each, sizes.tolist(), strict=True)]
        return {"pixel_values": torch.stack(self.transform({"image": images})["pixel_values"]), **batch}


RESIZE_ALONE = {"do_rescale": False, "do_normalize": False}
RESCALE_ALONE = {"do_resize": False, "do_center_crop": False}
"""The options of a processor for the two steps that it is split into."""


def resized(processor: Any, images: Sequence[Any]) -> list[torch.Tensor]:
    """Return upright images as the processor resizes and crops them, as bytes `(channels, height, width)`."""
    if split := _timm_steps(processor):
        return [pil_to_tensor(split[0](image)) for image in images]
    return list(processor(images, return_tensors="pt", **RESIZE_ALONE).pixel_values)


def normalised(processor: Any, pixels: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the processor's output for bytes that already have their final size."""
    if split := _timm_steps(processor):
        return [split[1](image.float().div(255)) for image in pixels]  # scaled as `ToTensor` does
    return list(processor(list(pixels), return_tensors="pt", **RESCALE_ALONE).pixel_values)


def _timm_steps(processor: Any) -> tuple[Compose, Compose] | None:
    """The steps of a processor of timm, which has no options, before and after it makes a tensor of an image."""
    steps = getattr(getattr(processor, "val_transforms", None), "transforms", [])
    for i, step in enumerate(steps):
        if isinstance(step, ToTensor):
            return Compose(steps[:i]), Compose(steps[i + 1 :])
    return None


def cache_images(request: CacheRequest) -> tuple[list[Any], Facts | None]:
    """Return the datasets of a stage that runs uncached, with cached images where that saves time.

    Returns:
        The datasets, and the facts for `run.json`: `examples`, how many were `computed` now, `bytes`, the `seconds`
        that this took, and `build_seconds`, the time for all of them, in this run or earlier ones. The facts are None
        if no image cache is used.
    """
    datasets: list[Any] = list(request.datasets)
    if request.settings.cache == "off" or not isinstance(datasets[0], Dataset) or not image_column(datasets[0]):
        return datasets, None
    try:
        return _cached(request, datasets)
    except Unusable as reason:
        if request.settings.cache == "on":
            raise
        line = f"images   are decoded in every epoch: of the cache, {reason.why} (--cache_dir names another)"
        print_on_main(line, request.args)
        return list(request.datasets), None


def _cached(request: CacheRequest, datasets: list[Any]) -> tuple[list[Any], Facts | None]:
    """Replace datasets in the list by cached ones, where that is possible and saves time."""
    facts: Facts = {}
    usable = [i for i in range(len(datasets)) if _is_replaceable(request, i)]
    if not usable:
        return datasets, None
    measured = _measure(request.processor, datasets[0])
    fixed = [i for i in usable if i or not request.augments]
    if measured.refused:
        line = f"images   are resized in every epoch, since the processor cannot resize alone: {measured.refused}"
        print_on_main(line, request.args)
    if fixed and measured.layout:
        reads = [request.reads[i] for i in fixed]
        found = _resize_once(request, [datasets[i] for i in fixed], reads, measured, facts)
        for i, rows in zip(fixed, found, strict=True):
            datasets[i] = rows
    if request.augments and measured.side and 0 in usable:
        datasets[0] = _decode_once(request, datasets[0], measured, facts)
    seconds = measured.decoding * len(datasets[0])
    if isinstance(datasets[0], Dataset) and seconds * request.passes > SLOW:
        line = f"images   decoding them takes about {seconds:.0f} s in every epoch: smaller files are faster"
        print_on_main(line, request.args)
    return datasets, facts or None


def _is_replaceable(request: CacheRequest, number: int) -> bool:
    """Return whether cached images give the same batches as the split; print the reason if not."""
    built_in = is_built_in(request.datasets[number], request.processor)
    usual = request.collator is default_data_collator and built_in
    reason = "" if usual else "the task encodes or collates them in its own way"
    if number == 0 and request.uncacheable:
        reason = request.uncacheable
    if reason and number == 0:
        print_on_main(f"images   of the training split are decoded in every epoch: {reason}", request.args)
    return not reason


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass
class _Measured:
    """Measurements on a few images.

    Args:
        decoding: Seconds to decode one image.
        resizing: Seconds to resize and crop one image.
        layout: The layout of the processor's output before rescaling; None if the processor cannot be split there.
        side: The longer side of the model's input, in pixels.
        refused: Why the processor does not run in these steps; empty if it does.
    """

    decoding: float = 0.0
    resizing: float = 0.0
    layout: Layout | None = None
    side: int = 0
    refused: str = ""


def _measure(processor: Any, rows: Dataset) -> _Measured:
    """Time the steps on a few images, and test whether the processor can be split before rescaling."""
    places = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int).tolist()
    plain, found, clock = rows.with_format(None), _Measured(), time.perf_counter
    started = clock()
    images = [upright_rgb(plain[place]["image"]) for place in places]
    found.decoding = (clock() - started) / len(places)
    started = clock()
    whole = _tried(processor, lambda: processor(images, return_tensors="pt").pixel_values, found)
    if whole is None:
        return found
    found.resizing = (clock() - started) / len(places)
    found.side = max(whole.shape[-2:])
    pixels = _tried(processor, lambda: resized(processor, images), found)
    if pixels is None:
        return found
    started = clock()
    again = _tried(processor, lambda: normalised(processor, pixels), found)
    if again is None:
        return found
    found.resizing -= (clock() - started) / len(places)
    if pixels.dtype == torch.uint8 and torch.equal(again, whole):
        found.layout = Layout("uint8", tuple(pixels.shape[1:]))
    return found


def _tried(processor: Any, run: Callable[[], Iterable[torch.Tensor]], found: _Measured) -> torch.Tensor | None:
    """Return what a processor makes of images; None if it refuses them or a step, with the reason in `found`."""
    try:
        pixels = list(run())
    except Exception as error:  # processors raise different errors for what they refuse
        found.refused = first_line(type(processor).__name__, error)
        return None
    if len({image.shape for image in pixels}) > 1:
        found.refused = f"{type(processor).__name__}: images of different sizes."
        return None
    return torch.stack(pixels)


# --- Caching ----------------------------------------------------------------------------------------------------------


def _resize_once(
    request: CacheRequest, datasets: Sequence[Dataset], reads: Sequence[float], measured: _Measured, facts: Facts
) -> Sequence[Any]:
    """Return datasets with cached resized images, unchanged where that saves no time; add to `facts`."""
    assert measured.layout is not None
    splits = [EncodedSplit.of(rows) for rows in datasets]
    shape = measured.layout.shape
    name = f"images, {'x'.join(map(str, shape[1:]))}"
    key = image_key(name, processor=json_digest(request.processor.to_dict()), shape=list(shape))
    each = measured.decoding + measured.resizing

    def fill(images: Sequence[Image.Image]) -> list[torch.Tensor]:
        return [torch.stack(resized(request.processor, images))]

    found = _filled(request, key, splits, reads, each, [measured.layout], fill, facts)
    if not found:
        return datasets
    pairs = zip(found, splits, strict=True)
    return [ResizedImages(features, _labels(split.rows), request.processor) for features, split in pairs]


def _decode_once(request: CacheRequest, rows: Dataset, measured: _Measured, facts: Facts) -> Any:
    """Return a dataset with cached shrunk images, unchanged where that saves no time; add to `facts`."""
    side = round(SHARPER * measured.side)
    whole = [Image.open(BytesIO(content)).size for content in encoded_files(rows, "image")]
    sizes = [_shrunk_size(size, side) for size in whole]
    split = EncodedSplit(rows, fingerprints(rows), np.array([width * height for width, height in sizes]))
    layouts = [Layout("uint8", (3,), ragged=True), Layout("int64", (2,))]
    key = image_key(f"images, copies of {side} pixels", side=side)

    def fill(images: Sequence[Image.Image]) -> list[torch.Tensor]:
        return _shrunk(images, side)

    found = _filled(request, key, [split], request.reads[:1], measured.decoding, layouts, fill, facts)
    if not found:
        return rows
    note = (
        f"random crops come from cached images of at most {side} pixels on the shorter side; --cache off reads the "
        "full files"
    )
    return CachedImages(found[0], _labels(rows), transform_of(rows), note if sizes != whole else "")


def _shrunk(images: Sequence[Image.Image], side: int) -> list[torch.Tensor]:
    """Return the pixels of shrunk images one after the other, `(sum of pixels, 3)`, and their sizes, `(n, 2)`."""
    small = [image.resize(_shrunk_size(image.size, side), Image.Resampling.LANCZOS, reducing_gap=3) for image in images]
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image in small])
    return [torch.from_numpy(pixels), torch.tensor([(image.height, image.width) for image in small])]


def _shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height scaled so that the shorter is at most `side`."""
    scale = min(1.0, side / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def _labels(rows: Dataset) -> Dataset:
    return rows.with_format(None).select_columns(["labels"])


def _filled(
    request: CacheRequest,
    key: Mapping[str, Any],
    splits: Sequence[EncodedSplit],
    reads: Sequence[float],
    seconds_each: float,
    layouts: Sequence[Layout],
    fill: Fill,
    facts: Facts,
) -> list[Features]:
    """Store the output of `fill` for all images of each split; empty if that saves too little or does not fit."""
    store = FeatureStore(request.root, key)
    with request.args.main_process_first(desc="preparing images"):
        missing = [store.missing(split.fingerprints) for split in splits]
        expected = forecast("images", store.folder, layouts, splits, missing, reads, seconds_each)
        if expected.computed and expected.seconds < LEAST:
            return []
        try:
            admit(request, expected)
        except NotCached:
            return []
        print_on_main(expected.line("are decoded", "none is decoded again"), request.args)
        started, computed = time.perf_counter(), 0
        for split in splits:
            left = store.missing(split.fingerprints)  # again: an earlier split may contain the same images
            computed += len(left)
            if len(left):
                _build(request, store, layouts, split, left, fill)
        seconds = time.perf_counter() - started
    for note in store.notes:
        print_on_main(f"cache    {note}", request.args)
    found = [store.read(split.fingerprints) for split in splits]
    whole = sum(features.seconds for features in found)
    counts = {"examples": expected.examples, "computed": computed, "bytes": expected.bytes}
    for name, value in {**counts, "seconds": round(seconds, 3), "build_seconds": round(whole, 3)}.items():
        facts[name] = facts.get(name, 0) + value
    return found


def _build(
    request: CacheRequest,
    store: FeatureStore,
    layouts: Sequence[Layout],
    split: EncodedSplit,
    left: NDArray[np.int64],
    fill: Fill,
) -> None:
    """Store the output of `fill` for the images `left` of a split."""
    assert isinstance(split.rows, Dataset)  # only features have fixed views
    plain, lengths = split.rows.with_format(None), None if split.lengths is None else split.lengths[left]
    with (
        progress("Images", len(left), "images", shown=not request.args.disable_tqdm) as advance,
        store.build(split.fingerprints[left], layouts, lengths) as writer,
    ):
        batches = [np.arange(begin, min(begin + BATCH, len(left))) for begin in range(0, len(left), BATCH)]

        def filled(places: NDArray[np.int64]) -> list[torch.Tensor]:
            return fill([upright_rgb(image) for image in plain[left[places].tolist()]["image"]])

        for places, tensors in zip(batches, in_threads(filled, batches), strict=True):
            writer.put(places, tensors)
            advance(len(places))
