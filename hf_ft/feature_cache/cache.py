"""The feature cache: what frozen layers give is computed once per example, kept on disk, and read in every epoch.

A frozen group in evaluation mode is a fixed function, so nothing is lost: the cut is verified on the user's own
examples (`cutting`), features are known by all that they depend on (`feature_store`), and what is no fixed function
runs live, with the reason. The idea at a moving boundary: AutoFreeze, https://arxiv.org/abs/2102.01386.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Image
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments, default_data_collator

from hf_ft.environment import print_on_main
from hf_ft.errors import UserError
from hf_ft.feature_cache.eviction import default_root, format_size, make_room
from hf_ft.feature_cache.store import Features, FeatureStore, Unusable, size_of, using
from hf_ft.methods import PlannedStage
from hf_ft.models import CannotSplit, DepthGroups, Layout, ModelSplit, UpperPart, find_split, frozen_depth, snapshot
from hf_ft.settings import Config
from hf_ft.tables import batches, is_list, token_counts

PACKAGES = ("torch", "transformers", "timm")
"""Another version of these may compute other features."""
OF_LABELS = (
    "id2label",
    "label2id",
    "num_labels",
    "label_names",  # timm's wrapper
    "num_classes",
    "problem_type",
    "_name_or_path",
    "architectures",
    "transformers_version",
)
"""What a configuration says of labels and places, which frozen layers do not depend on."""
SAMPLE = 8
"""Examples on which a cut is tried."""
TOKENS, EXAMPLES = 512, 32
"""Most tokens, and most images, of a batch that runs through the frozen part; texts of a batch are alike in length.

On a CPU small batches are as quick, and what the allocator holds of their activations stays small however many there
are (both measured, docs/performance.md).
"""
WIDE = 16_384, 256
"""The same on other devices."""


class NotCached(Exception):
    """A stage that runs without the cache; the text says why."""


class CachedRows(torch.utils.data.Dataset[Any]):
    """Examples as what is below the cut made of them, with labels and what the upper part still reads.

    Gives whole batches to the loader (`__getitems__`); `lengths` in tokens are None where all examples are alike.
    """

    def __init__(self, features: Features, rows: Dataset, collate: Callable[..., Any], lengths: Any) -> None:
        self.features, self.rows, self.collate, self.lengths = features, rows, collate, lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        batch = self.collate(_records(self.rows[list(indices)]))
        return dict(batch) | {"features": self.features.take(indices)}


@dataclass(frozen=True)
class PrebatchedCollator:
    """The collator for `CachedRows`, which make whole batches: it leaves these as they are, and collates rows."""

    collator: Callable[[list[dict[str, Any]]], Any]

    def __call__(self, batch: Any) -> Any:
        return self.collator(batch) if isinstance(batch, list) else batch


@dataclass(frozen=True)
class CacheRequest:
    """A stage that may be cached: its model and data, and how often it reads them.

    `parts` are the encoded train split and, where it is read, validation; `collator` is the task's; `passes` counts
    epochs, also broken ones, and `evaluations` passes over validation. `read_once` finds in the split model what is
    solved in place of epochs; where it finds something, frozen layers would have run once in any case.
    """

    model: PreTrainedModel
    groups: DepthGroups
    stage: PlannedStage
    parts: Sequence[Dataset]
    processor: Any
    collator: Callable[[list[dict[str, Any]]], Any]
    config: Config
    args: TrainingArguments
    passes: float
    evaluations: float
    read_once: Callable[[ModelSplit], object] | None = None

    @property
    def reads(self) -> list[float]:
        """How often each part is read."""
        return [self.passes, self.evaluations][: len(self.parts)]

    @property
    def root(self) -> Path:
        """The folder of the cache."""
        return Path(self.config.cache_dir).expanduser() if self.config.cache_dir else default_root()

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch without labels, where the model is."""
        batch = self.collator(rows)
        return {name: value.to(self.args.device) for name, value in batch.items() if name != "labels"}


@dataclass
class CachedStage:
    """A stage's upper part and its data (no validation where the stage has none); `facts` go into `run.json`.

    Among them `seconds` is what this run spent on features, `build_seconds` what all that it reads took, whenever they
    were computed.
    """

    split: ModelSplit
    upper: UpperPart
    train: CachedRows
    validation: CachedRows | None
    facts: dict[str, Any]


def open_cache(job: CacheRequest) -> CachedStage:
    """Cut the model at the first group that trains, and compute what the cache lacks.

    Raises:
        NotCached: the stage has to run without the cache, or does better so.
        UserError: `cache` is `on` and cannot be.
    """
    try:
        return _opened(job)
    except Unusable as reason:
        if job.config.cache == "on":
            raise
        raise NotCached(f"{reason.why} (--cache_dir names another folder)") from reason
    except (NotCached, CannotSplit) as reason:  # a cut may fail on a later example, such as the first that is very long
        if job.config.cache == "on" and str(reason):
            raise UserError(
                f"--cache on: stage '{job.stage.name}' cannot use the cache: {reason}. Leave out --cache on."
            ) from reason
        raise NotCached(str(reason)) from reason


def _opened(job: CacheRequest) -> CachedStage:
    depth = frozen_depth(job.groups, job.stage.settings)
    _refuse(job, depth)
    job.model.to(job.args.device)  # type: ignore[arg-type]  # its annotation is that of a decorator
    parts = [Part.of(rows) for rows in job.parts]
    sample = parts[0].sample()
    split = find_split(job.model, job.groups, depth, sample, job.collate)
    layouts = [Layout(job.config.cache_dtype, layout.shape, layout.ragged) for layout in split.layouts]
    store = FeatureStore(job.root, _key(job, split, layouts))
    with job.args.main_process_first(desc="computing features"):
        missing = [store.missing(part.names) for part in parts]
        started = time.perf_counter()
        split.capture(job.collate(sample))
        each = (time.perf_counter() - started) / len(sample)
        solved = job.read_once is not None and job.read_once(split) is not None
        reads = [1.0 for _ in parts] if solved else job.reads
        forecast = make_forecast(job, split.name, store.folder, layouts, parts, missing, reads, each, solved)
        decide(job, forecast)
        print_on_main(forecast.line(), job.args)
        seconds, computed = [], 0
        for part in parts:
            started = time.perf_counter()
            left = store.missing(part.names)  # an example may stand in both splits
            if len(left):
                _compute(job, split, store, layouts, part, left)
            computed += len(left)
            seconds.append(round(time.perf_counter() - started, 3))
    for note in store.notes:
        print_on_main(f"cache    {note}", job.args)
    sets = [_rows(job, split, store.read(part.names), part) for part in parts]
    facts = {
        "split": split.name,
        "examples": forecast.examples,
        "computed": computed,
        "bytes": forecast.bytes,
        "seconds": sum(seconds),
        "validation_seconds": sum(seconds[1:]),
        "build_seconds": round(sum(rows.features.seconds for rows in sets), 3),
        "dtype": job.config.cache_dtype,
        "difference": split.difference,
        "notes": [*split.notes, *store.notes],
    }
    return CachedStage(split, UpperPart(split), sets[0], sets[1] if len(sets) > 1 else None, facts)


def _refuse(job: CacheRequest, depth: int) -> None:
    """Raise `NotCached` for what is known before the model is looked at; without a reason where nothing is frozen."""
    if depth == 0 or job.config.cache == "off":
        raise NotCached
    top = [group.role for group in job.groups if group.role != "unused"][depth - 1 : depth + 1]
    if top == ["stem", "block"]:
        raise NotCached  # nothing but embeddings
    if job.stage.peft:
        raise NotCached("its adapters change what the layers below the head give")
    augment = job.config.augment
    if holds_images(job.parts[0]) and augment not in (None, "none"):
        raise NotCached(
            f"augmentation '{augment}' makes other images in each epoch (--augment none lets what is frozen run once)"
        )
    if job.args.n_gpu > 1:
        raise NotCached("one process drives several GPUs (start one process for each with `accelerate launch`)")
    if job.args.neftune_noise_alpha:
        raise NotCached("neftune_noise_alpha adds other noise to the embeddings in each step")
    if job.args.torch_compile:
        raise NotCached("torch_compile compiles the whole model (--torch_compile false allows the cache)")
    if job.args.deepspeed or job.args.fsdp:
        raise NotCached("FSDP and DeepSpeed divide the model in ways of their own")


def holds_images(rows: Dataset) -> bool:
    """Whether an encoded split holds images, which are decoded when they are read."""
    return "image" in getattr(rows, "column_names", ())  # a recipe may bring rows of its own


# --- Examples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """An encoded split: its rows, the fingerprint of each `(rows, 16)`, and their lengths in tokens (None: images)."""

    rows: Dataset
    names: NDArray[np.uint8]
    lengths: NDArray[np.int64] | None

    @classmethod
    def of(cls, rows: Dataset) -> Part:
        """Fingerprint and measure the rows of a split."""
        return cls(rows, fingerprints(rows), row_lengths(rows))

    def fetch(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Some rows, as the collator takes them."""
        return _records(self.rows[[int(index) for index in indices]])

    def sample(self) -> list[dict[str, Any]]:
        """A few rows, the longest first, of lengths as different as there are but for the longest tenth."""
        if self.lengths is None:
            return self.fetch(range(min(SAMPLE // 2, len(self.rows))))
        last = len(self.rows) - 1
        places = np.linspace(0.1 * last, last, min(SAMPLE, len(self.rows))).astype(int)
        return self.fetch(np.argsort(-self.lengths, kind="stable")[places])


def _records(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def fingerprints(rows: Dataset) -> NDArray[np.uint8]:
    """16 bytes for each encoded row `(rows, 16)`: a hash of all that the model is given, or of the encoded image."""
    found = np.empty((len(rows), 16), dtype=np.uint8)
    for place, content in enumerate(encoded_images(rows) if holds_images(rows) else _inputs(rows)):
        found[place] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), dtype=np.uint8)
    return found


def encoded_images(rows: Dataset) -> Iterator[bytes]:
    """The files of a split of images, undecoded."""
    encoded = rows.with_format(None).select_columns(["image"]).cast_column("image", Image(decode=False))
    for row in encoded:
        image = row["image"]
        yield image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _inputs(rows: Dataset) -> Iterator[bytes]:
    names = sorted(name for name in rows.column_names if name != "labels")
    for batch in batches(rows.select_columns(names)):
        columns = []
        for name in names:
            cells = batch[name].combine_chunks()
            nested = is_list(rows.features[name])
            values = (pc.list_flatten(cells) if nested else cells).to_numpy(zero_copy_only=False)
            lengths = pc.list_value_length(cells).to_numpy() if nested else np.ones(len(cells), dtype=int)
            columns.append((f"{name} {values.dtype} ".encode(), values, np.append(0, np.cumsum(lengths))))
        for i in range(len(batch)):
            yield b"".join(name + values[ends[i] : ends[i + 1]].tobytes() for name, values, ends in columns)


def row_lengths(rows: Dataset | CachedRows) -> NDArray[np.int64] | None:
    """Tokens of each row; None where all are alike."""
    if isinstance(rows, CachedRows):
        return rows.lengths
    return token_counts(rows)


# --- Decision ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """What a cache costs and saves: examples in all and those to compute, bytes needed and free, seconds saved.

    `passes` is how often an example is read. Seconds are extrapolated from a few examples. Where a head is `solved`,
    features are not there to save time.
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

    def line(self, done: str = "run through what is frozen") -> str:
        """Bytes, disk and saving in one line; `done` is what examples do once."""
        if not self.computed:
            return f"cache    {self.what}: all {self.examples:,} examples are there; none {done}"
        if self.solved:
            return (
                f"cache    {self.what}: {self.computed:,} of {self.examples:,} examples {done}, once; needs "
                f"{format_size(self.bytes)} of\n         {format_size(self.free)} free"
            )
        return (
            f"cache    {self.what}: {self.computed:,} of {self.examples:,} examples {done}, once "
            f"instead of {self.passes:.3g} times\n         needs {format_size(self.bytes)} of "
            f"{format_size(self.free)} free; saves about {_spoken_time(self.seconds)}"
        )


def make_forecast(
    job: CacheRequest,
    what: str,
    folder: Path,
    layouts: Sequence[Layout],
    parts: Sequence[Part],
    missing: Sequence[NDArray[np.int64]],
    reads: Sequence[float],
    each: float,
    solved: bool = False,
) -> Forecast:
    """What keeping the `missing` rows of some parts costs, and saves at so many seconds for `each` example.

    `reads` says how often each part is read.
    """
    needed = sum(
        size_of(layouts, len(rows), 0 if part.lengths is None else int(part.lengths[rows].sum()))
        for rows, part in zip(missing, parts, strict=True)
        if len(rows)
    )
    examples, computed = sum(len(part.rows) for part in parts), sum(map(len, missing))
    whole = sum(len(part.rows) * often for part, often in zip(parts, reads, strict=True))
    with using(folder, "read"):
        free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    saved = each * (whole - computed)
    return Forecast(what, folder, examples, computed, needed, free, whole / examples, saved, solved)


def decide(job: CacheRequest, forecast: Forecast) -> None:
    """Make room for what is to be kept; raise `NotCached` where it saves nothing or does not fit."""
    needed, limit = forecast.bytes, job.config.cache_max_gb
    if forecast.seconds <= 0 and not forecast.solved and job.config.cache != "on":
        raise NotCached("it reads each example once, so nothing would be saved")
    if needed > limit * 1e9:
        raise NotCached(f"it needs {format_size(needed)}, and --cache_max_gb is {limit:g}")
    if needed > 0.95 * forecast.free:
        raise NotCached(
            f"it needs {format_size(needed)}, and its folder has {format_size(forecast.free)} free (--cache_dir names "
            "another one)"
        )
    with using(job.root, "written"):
        removed = make_room(job.root, needed, int(limit * 1e9), forecast.folder) if needed else []
    for entry in removed:
        print_on_main(
            f"cache    removed {entry.what}, {format_size(entry.size)}: --cache_max_gb is {limit:g}", job.args
        )


def _spoken_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- Key --------------------------------------------------------------------------------------------------------------


def _key(job: CacheRequest, split: ModelSplit, layouts: Sequence[Layout]) -> dict[str, Any]:
    """All that features depend on besides the example itself."""
    config: Any = split.model.config
    names = {name for group in split.lower for name in (*group.parameters, *group.buffers)}
    settings = {name: value for name, value in config.to_dict().items() if name not in OF_LABELS}
    # What a tokenizer makes of a text is part of the example's fingerprint; of an image it is not.
    prepared = job.processor.to_dict() if holds_images(job.parts[0]) else {}
    return {
        "model": getattr(config, "architecture", config.model_type),
        "split": split.name,
        "kept": split.described(),
        "weights": digest_of(snapshot(split.model, names)),
        "config": digest_of(settings),
        "attention": str(config._attn_implementation),
        "processor": digest_of(prepared),
        "precision": _precision(job.args),
        "layouts": [asdict(layout) for layout in layouts],  # tokens of texts that are all as long have another one
        "versions": {name: version(name) for name in PACKAGES},
    }


def digest_of(values: Mapping[str, Any]) -> str:
    """The SHA-256 of settings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _precision(args: TrainingArguments) -> str:
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


# --- Computing --------------------------------------------------------------------------------------------------------


def _compute(
    job: CacheRequest,
    split: ModelSplit,
    store: FeatureStore,
    layouts: Sequence[Layout],
    part: Part,
    rows: NDArray[np.int64],
) -> None:
    """Run what is below the cut on some rows, the longest first, and keep what it gives."""
    lengths = None if part.lengths is None else part.lengths[rows]
    ragged = lengths if any(layout.ragged for layout in layouts) else None
    hidden = True if job.args.disable_tqdm else None  # None shows the bar on a terminal only
    bar = tqdm(desc="Features", total=len(rows), unit="example", disable=hidden, leave=False)
    precision = _precision(job.args)
    autocast = torch.autocast(job.args.device.type, getattr(torch, precision), enabled=precision != "float32")
    with bar, autocast, store.build(part.names[rows], layouts, ragged) as writer:
        for places in _batches(len(rows), lengths, job.args.device.type):
            tensors = split.capture(job.collate(part.fetch(rows[places])))
            pairs = zip(tensors, layouts, strict=True)
            writer.put(places, [tensor.to("cpu", layout.torch_dtype) for tensor, layout in pairs])
            bar.update(len(places))


def _batches(count: int, lengths: NDArray[np.int64] | None, device: str) -> Iterator[NDArray[np.int64]]:
    """Places by batch; texts from the longest to the shortest, as many as have so many tokens together."""
    tokens, examples = (TOKENS, EXAMPLES) if device == "cpu" else WIDE
    if lengths is None:
        yield from np.array_split(np.arange(count), math.ceil(count / examples))
        return
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < count:
        size = max(1, tokens // max(1, int(lengths[order[begin]])))
        yield order[begin : begin + size]
        begin += size


def _rows(job: CacheRequest, split: ModelSplit, features: Features, part: Part) -> CachedRows:
    """The rows that training reads: features, labels, and the inputs that the upper part runs on."""
    plain = part.rows.with_format(None)
    if split.inputs:
        return CachedRows(features, plain, job.collator, part.lengths)
    return CachedRows(features, plain.select_columns(["labels"]), default_data_collator, None)
