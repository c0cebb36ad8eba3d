"""Whether a stage uses the cache: what rules it out, what it costs, what it saves."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_ft.environment import print_on_main
from hf_ft.feature_cache.cache_request import CacheRequest
from hf_ft.feature_cache.eviction import format_size, make_room
from hf_ft.feature_cache.examples import EncodedSplit
from hf_ft.feature_cache.feature_files import size_of, using
from hf_ft.models import Layout
from hf_ft.tables import file_column

FULLEST = 0.95
"""Share of the free disk space that the cache may take."""


class NotCached(Exception):
    """A stage runs uncached; the text says why, and is empty where nothing is frozen that would be worth caching."""


def check_cacheable(request: CacheRequest, depth: int) -> None:
    """Raise `NotCached` for every reason that is known before the model is split.

    All of them make the frozen layers something else than a fixed function of the example.
    """
    args = request.args
    if depth == 0 or request.settings.cache == "off":
        raise NotCached
    roles = [group.role for group in request.groups if group.role != "unused"]
    if roles[depth - 1 : depth + 1] == ["stem", "block"]:
        raise NotCached  # only the embeddings are frozen, which are as cheap as reading from the disk
    if reason := request.uncacheable or request.unsplittable:
        raise NotCached(reason)
    if request.mixes:
        raise NotCached(f"its images are mixed in another way in each epoch ({' and '.join(request.mixes)})")
    if request.augments and not request.views and file_column(request.datasets[0]):
        named = f"augmentation '{request.augment}'", "augment none"
        what, off = named if request.augment not in (None, "none") else ("random erasing", "random_erasing 0")
        raise NotCached(
            f"{what} changes the images from epoch to epoch (--{off} or --augment_views 4 allows the cache)"
        )
    if args.n_gpu > 1:
        raise NotCached("one process drives several GPUs (start one process for each with `accelerate launch`)")
    if args.neftune_noise_alpha:
        raise NotCached("neftune_noise_alpha adds other noise to the embeddings in each step")
    if args.deepspeed or args.fsdp:
        raise NotCached("FSDP and DeepSpeed shard the model in their own way")


@dataclass(frozen=True)
class Forecast:
    """What a cache costs and saves.

    Args:
        what: where the model is split, or `images`.
        examples: examples in all; `computed` of them are not cached yet.
        bytes: disk space of the missing ones; `free` is what the disk has.
        passes: how often an example is read, on average.
        seconds: time saved, extrapolated from a few examples.
        solved: the head is solved from the features, which are therefore needed whatever they save.
    """

    what: str
    folder: Path
    examples: int
    computed: int
    bytes: int
    free: int
    passes: float
    seconds: float
    solved: bool = False

    def line(self, done: str = "run through the frozen layers", skipped: str = "the frozen layers are skipped") -> str:
        """Examples, disk space and saving in one line; `done` is what a missing example does, once."""
        if not self.computed:
            return f"cache    {self.what}: all {self.examples:,} examples are cached; {skipped}"
        counts = f"cache    {self.what}: {self.computed:,} of {self.examples:,} examples {done}, once"
        if self.solved:
            return f"{counts}; needs {format_size(self.bytes)} of\n         {format_size(self.free)} free"
        return (
            f"{counts} instead of {self.passes:.3g} times\n         needs {format_size(self.bytes)} of "
            f"{format_size(self.free)} free; saves about {_format_time(self.seconds)}"
        )


def forecast(
    what: str,
    folder: Path,
    layouts: Sequence[Layout],
    splits: Sequence[EncodedSplit],
    missing: Sequence[NDArray[np.int64]],
    reads: Sequence[float],
    seconds_each: float,
    solved: bool = False,
) -> Forecast:
    """What caching the `missing` rows of some splits costs and saves.

    Args:
        reads: how often each split is read.
        seconds_each: time that the cached computation takes for one example.
    """
    needed = sum(
        size_of(layouts, len(rows), 0 if split.lengths is None else int(split.lengths[rows].sum()))
        for rows, split in zip(missing, splits, strict=True)
        if len(rows)
    )
    examples, computed = sum(len(split.rows) for split in splits), sum(map(len, missing))
    total_reads = sum(len(split.rows) * often for split, often in zip(splits, reads, strict=True))
    with using(folder, "read"):
        free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    saved = seconds_each * (total_reads - computed)
    return Forecast(what, folder, examples, computed, needed, free, total_reads / examples, saved, solved)


def admit(request: CacheRequest, expected: Forecast) -> None:
    """Make room for the missing examples.

    Raises:
        NotCached: caching saves no time, or does not fit.
    """
    needed, limit = expected.bytes, request.settings.cache_max_gb
    needed_anyway = expected.solved or request.views or request.settings.cache == "on"
    if expected.seconds <= 0 and not needed_anyway:
        raise NotCached("it reads each example once, so nothing would be saved")
    if needed > limit * 1e9:
        raise NotCached(f"it needs {format_size(needed)}, and --cache_max_gb is {limit:g}")
    if needed > FULLEST * expected.free:
        raise NotCached(
            f"it needs {format_size(needed)}, and its folder has {format_size(expected.free)} free (--cache_dir names "
            "another one)"
        )
    with using(request.root, "written"):
        removed = make_room(request.root, needed, int(limit * 1e9), expected.folder) if needed else []
    for entry in removed:
        line = f"cache    removed {entry.what}, {format_size(entry.size)}: --cache_max_gb is {limit:g}"
        print_on_main(line, request.args)


def _format_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
