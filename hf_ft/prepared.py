"""Images that are prepared the same way in every epoch: decoded and resized once, and kept as bytes.

A photo of 12 megapixels takes 200 ms to decode and to resize, a thousandth of that once it is kept at the size that the
model reads. So where a stage runs live, images whose crop is fixed (validation always, train without augmentation) are
kept as the processor has them before it scales and normalises, in the store of the feature cache. Whether the processor
can be divided there is tried on some of the images, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import default_data_collator

from hf_ft.cache import CachedRows, Job, Live, Part, decide, digest_of, is_image, make_forecast, tell
from hf_ft.feature_store import Features, FeatureStore, Layout
from hf_ft.images import upright_rgb

PACKAGES = ("pillow", "torchvision", "transformers")
"""Another version of these may resize in another way."""
SAMPLE, BATCH = 4, 32
LEAST = 2.0
"""Seconds that have to be saved: below that, nothing is kept."""
SLOW = 60.0
"""Seconds of decoding under random augmentation from which on people are told."""


class PreparedRows(CachedRows):
    """Images of a fixed crop, kept as bytes; gives whole batches, as the task's collator makes them."""

    def __init__(self, features: Features, rows: Dataset, processor: Any) -> None:
        super().__init__(features, rows, default_data_collator, None)
        self.processor = processor

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = super().__getitems__(indices)
        return {"pixel_values": normalised(self.processor, batch.pop("features")[0]), **batch}


def resized(processor: Any, images: Sequence[Any]) -> torch.Tensor:
    """Upright pictures as bytes `(n, channels, height, width)`, as the processor has them before it scales them."""
    return torch.stack(list(processor(images, return_tensors="pt", do_rescale=False, do_normalize=False).pixel_values))


def normalised(processor: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the processor makes of bytes that have their size already."""
    found = processor(list(pixels), return_tensors="pt", do_resize=False, do_center_crop=False).pixel_values
    return torch.stack(list(found))


def prepare(job: Job) -> list[Any]:
    """The parts of a stage that runs live, those of a fixed crop as `PreparedRows` where that saves time."""
    parts: list[Any] = list(job.parts)
    if job.config.cache == "off" or not isinstance(parts[0], Dataset) or not is_image(parts[0]):
        return parts
    random = job.config.augment not in (None, "none")
    fixed = [i for i in range(len(parts)) if i or not random]
    each, layout = _measured(job, parts[0])
    if random and each * len(parts[0]) * job.passes > SLOW:
        tell(
            f"images   decoding them takes about {each * len(parts[0]):.0f} s in every epoch, since augmentation cuts "
            "out other parts each time.\n         Smaller copies on disk are quicker; so is --augment none, with "
            "which it happens once.",
            job.args,
        )
    if layout is None or not fixed:
        return parts
    try:
        kept = _kept(job, [parts[i] for i in fixed], [job.reads[i] for i in fixed], layout, each)
    except Live:  # too little is saved, or it does not fit: they are prepared whenever they are read
        return parts
    for i, rows in zip(fixed, kept, strict=True):
        parts[i] = rows
    return parts


def _measured(job: Job, rows: Dataset) -> tuple[float, Layout | None]:
    """Seconds that keeping saves for each image, and what is kept of it; None where the processor cannot be divided."""
    places = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int).tolist()
    plain, clock = rows.with_format(None), time.perf_counter
    started = clock()
    images = [upright_rgb(plain[place]["image"]) for place in places]
    spent, layout = clock() - started, None
    try:
        started = clock()
        whole = torch.stack(list(job.processor(images, return_tensors="pt").pixel_values))
        spent += clock() - started
        pixels = resized(job.processor, images)
        started = clock()
        again = normalised(job.processor, pixels)
        spent -= clock() - started
        if pixels.dtype == torch.uint8 and torch.equal(again, whole):
            layout = Layout("uint8", tuple(pixels.shape[1:]))
    except Exception:  # it does not know these steps, which each author of a processor says in another way
        pass
    return spent / len(places), layout


def _kept(job: Job, rows: Sequence[Dataset], reads: Sequence[float], layout: Layout, each: float) -> list[PreparedRows]:
    """Splits with their images from the store, which is filled where it lacks some.

    Raises:
        Live: too little would be saved, or it does not fit.
    """
    parts = [Part.of(split) for split in rows]
    key = {
        "describe": f"images, {'x'.join(map(str, layout.shape[1:]))}",
        "processor": digest_of(job.processor.to_dict()),
        "shape": list(layout.shape),
        "versions": {name: version(name) for name in PACKAGES},
    }
    store = FeatureStore(job.root, key)
    with job.args.main_process_first(desc="preparing images"):
        missing = [store.missing(part.names) for part in parts]
        forecast = make_forecast(job, "images", store.folder, [layout], parts, missing, reads, each)
        if forecast.computed and forecast.seconds < LEAST:
            raise Live
        decide(job, forecast)
        tell(forecast.line("are decoded and resized"), job.args)
        for part in parts:
            left = store.missing(part.names)  # an image may stand in both splits
            if len(left):
                _fill(job, store, layout, part, left)
    for note in store.notes:
        tell(f"cache    {note}", job.args)
    return [
        PreparedRows(store.read(part.names), part.rows.with_format(None).select_columns(["labels"]), job.processor)
        for part in parts
    ]


def _fill(job: Job, store: FeatureStore, layout: Layout, part: Part, left: Any) -> None:
    """Prepare some images of a split and keep them."""
    hidden = True if job.args.disable_tqdm else None  # None shows the bar on a terminal only
    plain = part.rows.with_format(None)
    with (
        tqdm(desc="Images", total=len(left), unit="image", disable=hidden, leave=False) as bar,
        store.build(part.names[left], [layout]) as writer,
    ):
        for begin in range(0, len(left), BATCH):
            places = np.arange(begin, min(begin + BATCH, len(left)))
            images = [upright_rgb(image) for image in plain[left[places].tolist()]["image"]]
            writer.put(places, [resized(job.processor, images)])
            bar.update(len(places))
