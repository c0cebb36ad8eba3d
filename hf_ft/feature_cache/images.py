"""Images of a stage that runs live are decoded once, not in every epoch, and kept as bytes.

A photo of 12 megapixels takes 200 ms to decode and to resize. Where the crop is fixed (validation always, train without
augmentation) what is kept is what the processor has before it scales and normalises: the same bits, read in 0.3 ms.
Whether a processor can be divided there is tried on some of the images. Where crops are random, a copy is kept that is
no larger than these need: small images as they are, larger ones shrunk, as fastai's presizing does
(https://docs.fast.ai/vision.augment.html).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm
from transformers import default_data_collator

from hf_ft.environment import print_on_main
from hf_ft.feature_cache.cache import (
    CachedRows,
    CacheRequest,
    NotCached,
    Part,
    decide,
    digest_of,
    encoded_images,
    fingerprints,
    holds_images,
    make_forecast,
)
from hf_ft.feature_cache.store import Features, FeatureStore, Unusable
from hf_ft.modalities import ImageTransform, upright_rgb
from hf_ft.models import Layout

PACKAGES = ("pillow", "torchvision", "transformers")
"""Another version of these may resize in another way."""
SAMPLE, BATCH = 4, 8
LEAST = 2.0
"""Seconds that have to be saved: below that, nothing is kept."""
SLOW = 60.0
"""Seconds of decoding in a stage from which on people are told that it is not done once."""
SHARPER = 2.5
"""How much larger than what the model reads the shorter side of a copy is.

The smallest random crop (`images.RandomRegion`) is half as wide as the picture, and some processors cut a margin off.
"""

Fill = Callable[[Sequence[Image.Image]], list[torch.Tensor]]
Facts = dict[str, float]


class PreparedRows(CachedRows):
    """Images of a fixed crop, kept as bytes; gives whole batches, as the task's collator makes them."""

    def __init__(self, features: Features, rows: Dataset, processor: Any) -> None:
        super().__init__(features, rows, default_data_collator, None)
        self.processor = processor

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = super().__getitems__(indices)
        return {"pixel_values": normalised(self.processor, batch.pop("features")[0]), **batch}


class CachedImages(CachedRows):
    """Images for random crops, kept as bytes and as large as these need; gives whole batches.

    `note` says so where some were larger, and is empty where all are as they were.
    """

    def __init__(self, features: Features, rows: Dataset, processor: Any, augment: str, note: str) -> None:
        super().__init__(features, rows, default_data_collator, None)
        self.transform, self.note = ImageTransform(processor, augment), note

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = super().__getitems__(indices)
        pixels, sizes = batch.pop("features")
        cut = pixels.split(sizes.prod(1).tolist())
        images = [Image.fromarray(one.view(*size, 3).numpy()) for one, size in zip(cut, sizes.tolist(), strict=True)]
        return {"pixel_values": torch.stack(self.transform({"image": images})["pixel_values"]), **batch}


def resized(processor: Any, images: Sequence[Any]) -> torch.Tensor:
    """Upright pictures as bytes `(n, channels, height, width)`, as the processor has them before it scales them."""
    return torch.stack(list(processor(images, return_tensors="pt", do_rescale=False, do_normalize=False).pixel_values))


def normalised(processor: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the processor makes of bytes that have their size already."""
    found = processor(list(pixels), return_tensors="pt", do_resize=False, do_center_crop=False).pixel_values
    return torch.stack(list(found))


def cache_images(job: CacheRequest) -> tuple[list[Any], Facts | None]:
    """The parts of a stage that runs live, those with images from the store where that saves time.

    Beside them what was kept, for `run.json`: examples, how many were computed now, bytes, the seconds that this took,
    and `build_seconds`, what all of them took whenever that was. None where nothing was.
    """
    parts: list[Any] = list(job.parts)
    if job.config.cache == "off" or not isinstance(parts[0], Dataset) or not holds_images(parts[0]):
        return parts, None
    try:
        return _prepared(job, parts)
    except Unusable as reason:
        if job.config.cache == "on":
            raise
        print_on_main(
            f"images   are decoded in every epoch: of the cache, {reason.why} (--cache_dir names another)", job.args
        )
        return list(job.parts), None


def _prepared(job: CacheRequest, parts: list[Any]) -> tuple[list[Any], Facts | None]:
    """The parts with images from the store, where it can be used; replaces them in the list that is given."""
    facts: Facts = {}
    random = job.config.augment not in (None, "none")
    trial = _tried(job.processor, parts[0])
    fixed = [i for i in range(len(parts)) if i or not random]
    if fixed and trial.layout:
        kept = _fixed(job, [parts[i] for i in fixed], [job.reads[i] for i in fixed], trial, facts)
        for i, rows in zip(fixed, kept, strict=True):
            parts[i] = rows
    if random and trial.side:
        parts[0] = _copied(job, parts[0], trial, facts)
    if isinstance(parts[0], Dataset) and trial.decoding * len(parts[0]) * job.passes > SLOW:
        spent = trial.decoding * len(parts[0])
        print_on_main(
            f"images   decoding them takes about {spent:.0f} s in every epoch: smaller files are quicker", job.args
        )
    return parts, facts or None


# --- Trying -----------------------------------------------------------------------------------------------------------


@dataclass
class _Trial:
    """What a few images show: seconds of decoding one and of resizing it, what can be kept, the side that is read."""

    decoding: float = 0.0
    resizing: float = 0.0
    layout: Layout | None = None
    side: int = 0


def _tried(processor: Any, rows: Dataset) -> _Trial:
    """Time the steps on some images, and see whether the processor can be divided."""
    places = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int).tolist()
    plain, found, clock = rows.with_format(None), _Trial(), time.perf_counter
    started = clock()
    images = [upright_rgb(plain[place]["image"]) for place in places]
    found.decoding = (clock() - started) / len(places)
    try:
        started = clock()
        whole = torch.stack(list(processor(images, return_tensors="pt").pixel_values))
        found.resizing = (clock() - started) / len(places)
        found.side = max(whole.shape[-2:])
        pixels = resized(processor, images)
        started = clock()
        again = normalised(processor, pixels)
        found.resizing -= (clock() - started) / len(places)
        if pixels.dtype == torch.uint8 and torch.equal(again, whole):
            found.layout = Layout("uint8", tuple(pixels.shape[1:]))
    except Exception:  # it does not know these steps, which each author of a processor says in another way
        pass
    return found


# --- Keeping ----------------------------------------------------------------------------------------------------------


def _fixed(
    job: CacheRequest, rows: Sequence[Dataset], reads: Sequence[float], trial: _Trial, facts: Facts
) -> Sequence[Any]:
    """Splits with their images prepared; as they were where that does not pay. `facts` is added to."""
    assert trial.layout is not None
    parts = [Part.of(split) for split in rows]
    key = {
        "describe": f"images, {'x'.join(map(str, trial.layout.shape[1:]))}",
        "processor": digest_of(job.processor.to_dict()),
        "shape": list(trial.layout.shape),
    }
    each = trial.decoding + trial.resizing

    def fill(images: Sequence[Image.Image]) -> list[torch.Tensor]:
        return [resized(job.processor, images)]

    kept = _filled(job, key, parts, reads, each, [trial.layout], fill, facts)
    if not kept:
        return rows
    pairs = zip(kept, parts, strict=True)
    return [PreparedRows(features, _labels(part.rows), job.processor) for features, part in pairs]


def _copied(job: CacheRequest, rows: Dataset, trial: _Trial, facts: Facts) -> Any:
    """A split with copies of its images; as it was where that does not pay. `facts` is added to."""
    side = round(SHARPER * trial.side)
    whole = [Image.open(BytesIO(content)).size for content in encoded_images(rows)]
    sizes = [_shrunk_size(size, side) for size in whole]
    part = Part(rows, fingerprints(rows), np.array([width * height for width, height in sizes]))
    layouts = [Layout("uint8", (3,), ragged=True), Layout("int64", (2,))]
    key = {"describe": f"images, copies of {side} pixels", "side": side}
    reads = job.reads[:1]
    kept = _filled(job, key, [part], reads, trial.decoding, layouts, lambda images: _copies(images, side), facts)
    if not kept:
        return rows
    note = f"random crops are cut from copies of at most {side} pixels on the shorter side; --cache off cuts the files"
    note = note if sizes != whole else ""
    return CachedImages(kept[0], _labels(rows), job.processor, str(job.config.augment), note)


def _copies(images: Sequence[Image.Image], side: int) -> list[torch.Tensor]:
    """The pixels of pictures one after the other `(sum of pixels, 3)`, and their heights and widths `(n, 2)`."""
    small = [image.resize(_shrunk_size(image.size, side), Image.Resampling.LANCZOS, reducing_gap=3) for image in images]
    pixels = np.concatenate([np.asarray(image).reshape(-1, 3) for image in small])
    return [torch.from_numpy(pixels), torch.tensor([(image.height, image.width) for image in small])]


def _shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height with the shorter of them at most `side`."""
    scale = min(1.0, side / min(size))
    return round(size[0] * scale), round(size[1] * scale)


def _labels(rows: Dataset) -> Dataset:
    return rows.with_format(None).select_columns(["labels"])


def _filled(
    job: CacheRequest,
    key: Mapping[str, Any],
    parts: Sequence[Part],
    reads: Sequence[float],
    each: float,
    layouts: Sequence[Layout],
    fill: Fill,
    facts: Facts,
) -> list[Features]:
    """What `fill` makes of all images of each part, from the store; empty where it saves too little or does not fit."""
    store = FeatureStore(job.root, {**key, "versions": {name: version(name) for name in PACKAGES}})
    with job.args.main_process_first(desc="preparing images"):
        missing = [store.missing(part.names) for part in parts]
        forecast = make_forecast(job, "images", store.folder, layouts, parts, missing, reads, each)
        if forecast.computed and forecast.seconds < LEAST:
            return []
        try:
            decide(job, forecast)
        except NotCached:
            return []
        print_on_main(forecast.line("are decoded"), job.args)
        started, computed = time.perf_counter(), 0
        for part in parts:
            left = store.missing(part.names)  # an image may stand in both splits
            computed += len(left)
            if len(left):
                _build(job, store, layouts, part, left, fill)
        seconds = time.perf_counter() - started
    for note in store.notes:
        print_on_main(f"cache    {note}", job.args)
    kept = [store.read(part.names) for part in parts]
    whole = sum(features.seconds for features in kept)
    of_these = {"examples": forecast.examples, "computed": computed, "bytes": forecast.bytes}
    for name, value in {**of_these, "seconds": round(seconds, 3), "build_seconds": round(whole, 3)}.items():
        facts[name] = facts.get(name, 0) + value
    return kept


def _build(
    job: CacheRequest, store: FeatureStore, layouts: Sequence[Layout], part: Part, left: NDArray[np.int64], fill: Fill
) -> None:
    """Keep what is made of some images of a split."""
    hidden = True if job.args.disable_tqdm else None  # None shows the bar on a terminal only
    plain, lengths = part.rows.with_format(None), None if part.lengths is None else part.lengths[left]
    with (
        tqdm(desc="Images", total=len(left), unit="image", disable=hidden, leave=False) as bar,
        store.build(part.names[left], layouts, lengths) as writer,
    ):
        for begin in range(0, len(left), BATCH):
            places = np.arange(begin, min(begin + BATCH, len(left)))
            writer.put(places, fill([upright_rgb(image) for image in plain[left[places].tolist()]["image"]]))
            bar.update(len(places))
