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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
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

from hf_ft.config import Config
from hf_ft.cutting import CannotCut, Collate, Cut, Upper, find_cut, frozen_depth
from hf_ft.depth_groups import Anatomy
from hf_ft.feature_folders import default_root, make_room, spoken_size
from hf_ft.feature_store import Features, FeatureStore, Layout, size_of
from hf_ft.freezing import snapshot
from hf_ft.lookup import UserError
from hf_ft.plan import PlannedStage
from hf_ft.sources import batches

PACKAGES = ("torch", "transformers", "timm")
"""Another version of these may compute other features."""
OF_LABELS = ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures", "transformers_version")
"""What a configuration says of labels and places, which frozen layers do not depend on."""
SAMPLE = 8
"""Examples on which a cut is tried."""
TOKENS, EXAMPLES = 8192, 32
"""Most tokens, and most images, of a batch that runs through the frozen part; texts of a batch are alike in length."""


class Live(Exception):
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
        columns = self.rows[list(indices)]
        batch = dict(self.collate([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]))
        return batch | {"features": self.features.take(indices)}


def as_it_is(batch: Any) -> Any:
    """The collator for `CachedRows`, which make whole batches."""
    return batch


@dataclass
class Cached:
    """A stage's upper part and its data; `facts` say what the cache did, for `run.json`."""

    cut: Cut
    upper: Upper
    train: CachedRows
    validation: CachedRows
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """How often a stage reads its data: passes over train, and evaluations."""

    passes: float
    evaluations: float


def open_cache(
    model: PreTrainedModel,
    groups: Anatomy,
    stage: PlannedStage,
    parts: Sequence[Dataset],
    processor: Any,
    collator: Callable[[list[dict[str, Any]]], Any],
    config: Config,
    args: TrainingArguments,
    use: Use,
) -> Cached:
    """Cut the model at the first group that trains and compute what is missing in the cache.

    Args:
        parts: the encoded train and validation split.
        collator: the task's, which makes batches of encoded rows.

    Raises:
        Live: the stage has to run without a cache, or does better so.
        UserError: `cache` is `on` and cannot be.
    """
    try:
        return _opened(model, groups, stage, parts, processor, collator, config, args, use)
    except Live as reason:
        if config.cache == "on" and str(reason):
            raise UserError(f"--cache on: stage '{stage.name}' cannot use the cache, since {reason}.") from reason
        raise


def _opened(
    model: PreTrainedModel,
    groups: Anatomy,
    stage: PlannedStage,
    parts: Sequence[Dataset],
    processor: Any,
    collator: Callable[[list[dict[str, Any]]], Any],
    config: Config,
    args: TrainingArguments,
    use: Use,
) -> Cached:
    depth = frozen_depth(groups, stage.settings)
    _refuse(depth, stage, parts[0], config, args)
    model.to(args.device)
    collate = _on_device(collator, args.device)
    lengths = [row_lengths(part) for part in parts]
    rows = _sample(parts[0], lengths[0])
    try:
        cut = find_cut(model, groups, depth, rows, collate)
    except CannotCut as error:
        raise Live(str(error)) from error
    layouts = [_stored(layout, config.cache_dtype) for layout in cut.layouts]
    store = FeatureStore(_root(config), _key(cut, processor, layouts, args))
    names = [fingerprints(part) for part in parts]
    with args.main_process_first(desc="computing features"):
        missing = [store.missing(each) for each in names]
        forecast = _Forecast.of(cut, store, layouts, missing, lengths, names, rows, collate, use)
        forecast.decide(config)
        make_room(_root(config), forecast.bytes, int(config.cache_max_gb * 1e9), store.folder)
        tell(forecast.line(), args)
        started = time.perf_counter()
        for part, positions, every, length in zip(parts, missing, names, lengths, strict=True):
            still = np.intersect1d(positions, store.missing(every))  # an example may stand in both splits
            if len(still):
                _compute(cut, store, layouts, part, still, every, length, collate, args)
    for note in store.notes:
        tell(note, args)
    facts = {
        "cut": cut.name,
        "examples": sum(map(len, names)),
        "computed": int(sum(map(len, missing))),
        "bytes": forecast.bytes,
        "seconds": round(time.perf_counter() - started, 3) if forecast.computed else 0.0,
        "dtype": layouts[0].dtype,
        "difference": cut.difference,
        "notes": [*cut.notes, *store.notes],
    }
    sets = [
        _rows(cut, store.read(each), part, collator, length)
        for each, part, length in zip(names, parts, lengths, strict=True)
    ]
    return Cached(cut, Upper(cut), sets[0], sets[1], facts)


def _refuse(depth: int, stage: PlannedStage, train: Dataset, config: Config, args: TrainingArguments) -> None:
    """Raise `Live` for what is known before the model is looked at; without a reason where nothing is frozen."""
    if depth == 0 or config.cache == "off":
        raise Live
    if stage.peft:
        raise Live("its adapters change what the layers below the head give")
    if "pixel_values" not in train.column_names and config.augment not in (None, "none") and _is_image(train):
        raise Live(f"augmentation '{config.augment}' gives other images in each epoch (--augment none would allow it)")
    if args.n_gpu > 1:
        raise Live("several GPUs are driven by one process (start one for each with `accelerate launch`)")
    if args.deepspeed or args.fsdp:
        raise Live("FSDP and DeepSpeed divide the model in their own way")


def _is_image(rows: Dataset) -> bool:
    return "image" in rows.column_names


def tell(line: str, args: TrainingArguments) -> None:
    """Print a line on the main process."""
    if line and args.should_save:
        tqdm.write(line)


# --- Decision ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Forecast:
    """What a cache will cost and save; seconds are extrapolated from a few examples."""

    cut: str
    folder: Path
    examples: int
    computed: int
    bytes: int
    free: int
    passes: float
    seconds: float

    @classmethod
    def of(
        cls,
        cut: Cut,
        store: FeatureStore,
        layouts: Sequence[Layout],
        missing: Sequence[NDArray[np.int64]],
        lengths: Sequence[Any],
        names: Sequence[NDArray[Any]],
        rows: list[dict[str, Any]],
        collate: Collate,
        use: Use,
    ) -> _Forecast:
        started = time.perf_counter()
        cut.capture(collate(rows))
        each = (time.perf_counter() - started) / len(rows)
        needed = sum(
            size_of(layouts, len(rows), 0 if length is None else int(length[rows].sum()))
            for rows, length in zip(missing, lengths, strict=True)
            if len(rows)
        )
        counts, computed = [len(part) for part in names], sum(map(len, missing))
        live = counts[0] * use.passes + counts[1] * use.evaluations
        there = next(folder for folder in (store.folder, *store.folder.parents) if folder.exists())
        return cls(
            cut.name,
            store.folder.parent,
            sum(counts),
            computed,
            needed,
            shutil.disk_usage(there).free,
            live / sum(counts),
            each * (live - computed),
        )

    def decide(self, config: Config) -> None:
        """Raise `Live` where the cache saves nothing or does not fit."""
        if self.seconds <= 0 and config.cache != "on":
            raise Live("each example is read once or less")
        if self.bytes > config.cache_max_gb * 1e9:
            raise Live(f"{spoken_size(self.bytes)} are needed, and --cache_max_gb allows {config.cache_max_gb:g} GB")
        if self.bytes > 0.95 * self.free:
            raise Live(
                f"{spoken_size(self.bytes)} are needed, and {self.folder} has {spoken_size(self.free)} free (another "
                "folder: --cache_dir)"
            )

    def line(self) -> str:
        """Bytes, disk and saving in one line."""
        if not self.computed:
            return f"cache    {self.cut}: all {self.examples:,} examples are there; the frozen part does not run"
        return (
            f"cache    {self.cut}: {self.computed:,} examples run through the frozen part once, not "
            f"{self.passes:.3g} times; needs {spoken_size(self.bytes)} of {spoken_size(self.free)} free, saves about "
            f"{_spoken_time(self.seconds)}"
        )


def _spoken_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _root(config: Config) -> Path:
    return Path(config.cache_dir).expanduser() if config.cache_dir else default_root()


def _stored(layout: Layout, dtype: str) -> Layout:
    """The layout on disk: floating tensors in the dtype that the user chose."""
    return Layout(dtype, layout.shape, layout.ragged)


# --- Key --------------------------------------------------------------------------------------------------------------


def _key(cut: Cut, processor: Any, layouts: Sequence[Layout], args: TrainingArguments) -> dict[str, Any]:
    """All that features depend on besides the example itself."""
    names = {name for group in cut.below for name in (*group.parameters, *group.buffers)}
    weights = json.dumps(snapshot(cut.model, names), sort_keys=True)
    settings = {name: value for name, value in cut.model.config.to_dict().items() if name not in OF_LABELS}
    prepared = processor.to_dict() if hasattr(processor, "image_mean") else {}
    return {
        "model": getattr(cut.model.config, "architecture", cut.model.config.model_type),
        "cut": cut.name,
        "kept": [str(part) for part in cut.described()],
        "weights": hashlib.sha256(weights.encode()).hexdigest(),
        "config": hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
        "attention": str(cut.model.config._attn_implementation),
        "processor": hashlib.sha256(json.dumps(prepared, sort_keys=True, default=str).encode()).hexdigest(),
        "precision": _precision(args),
        "dtype": [layout.dtype for layout in layouts],
        "versions": {name: version(name) for name in PACKAGES},
    }


def _precision(args: TrainingArguments) -> str:
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def _autocast(args: TrainingArguments) -> AbstractContextManager[Any]:
    """The precision in which the stage itself would run the frozen part."""
    kind = _precision(args)
    return nullcontext() if kind == "float32" else torch.autocast(args.device.type, getattr(torch, kind))


def fingerprints(rows: Dataset) -> NDArray[np.uint8]:
    """16 bytes for each encoded row `(rows, 16)`: a hash of all that the model is given, or of the encoded image."""
    found = np.empty((len(rows), 16), dtype=np.uint8)
    contents = _images(rows) if _is_image(rows) else _inputs(rows)
    for place, content in enumerate(contents):
        found[place] = np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), dtype=np.uint8)
    return found


def _images(rows: Dataset) -> Iterator[bytes]:
    encoded = rows.with_format(None).select_columns(["image"]).cast_column("image", Image(decode=False))
    for row in encoded:
        image = row["image"]
        yield image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _inputs(rows: Dataset) -> Iterator[bytes]:
    names = sorted(name for name in rows.column_names if name != "labels")
    for batch in batches(rows.select_columns(names)):
        columns = []
        for name in names:
            lists = batch[name].combine_chunks()
            values, ends = pc.list_flatten(lists).to_numpy(zero_copy_only=False), np.cumsum(pc.list_value_length(lists).to_numpy())
            columns.append((name.encode(), values, ends))
        for i in range(len(batch)):
            yield b"".join(name + values[ends[i - 1] if i else 0 : ends[i]].tobytes() for name, values, ends in columns)


def row_lengths(rows: Dataset | CachedRows) -> NDArray[np.int64] | None:
    """Tokens of each row; None where all are alike."""
    if isinstance(rows, CachedRows):
        return rows.lengths
    if "input_ids" not in rows.column_names:
        return None
    return np.concatenate(
        [pc.list_value_length(batch["input_ids"]).to_numpy() for batch in batches(rows.select_columns(["input_ids"]))]
    ).astype(np.int64)


# --- Computing --------------------------------------------------------------------------------------------------------


def _on_device(collator: Callable[[list[dict[str, Any]]], Any], device: torch.device) -> Collate:
    """Batches without labels, on the model's device."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in collator(rows).items() if name != "labels"}

    return collate


def _fetch(rows: Dataset, indices: Sequence[int]) -> list[dict[str, Any]]:
    columns = rows[[int(index) for index in indices]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _sample(rows: Dataset, lengths: NDArray[np.int64] | None) -> list[dict[str, Any]]:
    """A few rows, the longest first, of lengths as different as there are but for the longest tenth."""
    count = min(SAMPLE, len(rows))
    if lengths is None:
        return _fetch(rows, range(min(count, 4)))
    order = np.argsort(-lengths, kind="stable")
    return _fetch(rows, order[np.linspace(0.1 * (len(rows) - 1), len(rows) - 1, count).astype(int)])


def _compute(
    cut: Cut,
    store: FeatureStore,
    layouts: Sequence[Layout],
    rows: Dataset,
    positions: NDArray[np.int64],
    names: NDArray[np.uint8],
    lengths: NDArray[np.int64] | None,
    collate: Collate,
    args: TrainingArguments,
) -> None:
    """Run what is below the cut on the rows at `positions`, the longest first, and keep what it gives."""
    own = None if lengths is None else lengths[positions]
    ragged = own if any(layout.ragged for layout in layouts) else None
    bar = tqdm(desc="Features", total=len(positions), unit="example", disable=True if args.disable_tqdm else None, leave=False)
    with bar, store.build(names[positions], layouts, ragged) as writer, _autocast(args):
        for part in _batches(len(positions), own):
            tensors = cut.capture(collate(_fetch(rows, positions[part])))
            writer.put(part, [tensor.cpu().to(layout.torch_dtype) for tensor, layout in zip(tensors, layouts, strict=True)])
            bar.update(len(part))


def _batches(count: int, lengths: NDArray[np.int64] | None) -> Iterator[NDArray[np.int64]]:
    if lengths is None:
        yield from np.array_split(np.arange(count), math.ceil(count / EXAMPLES))
        return
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    while begin < count:
        size = max(1, TOKENS // max(1, int(lengths[order[begin]])))
        yield order[begin : begin + size]
        begin += size


def _rows(
    cut: Cut, features: Features, rows: Dataset, collator: Callable[..., Any], lengths: NDArray[np.int64] | None
) -> CachedRows:
    """The rows that training reads: features, labels, and the inputs that the upper part runs on."""
    plain = rows.with_format(None)
    if cut.inputs:
        return CachedRows(features, plain, collator, lengths)
    return CachedRows(features, plain.select_columns(["labels"]), default_data_collator, None)
