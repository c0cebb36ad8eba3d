"""Opening the cache for a stage: split the model, compute the features that are missing, read all of them.

A frozen group in evaluation mode is a fixed function, so its outputs may be computed once instead of in every epoch
without changing any result. The model split is verified on the user's own examples first. The idea of caching at a
moving boundary comes from AutoFreeze, https://arxiv.org/abs/2102.01386.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import default_data_collator

from hf_ft.autotune import USUAL, Variant, Work, applied
from hf_ft.data import choose_readers, read_ahead
from hf_ft.environment import MEMORY, memory_ran_out, phase, print_on_main, progress
from hf_ft.errors import UserError
from hf_ft.feature_cache.cache_key import feature_key, fingerprints, precision_of
from hf_ft.feature_cache.cache_request import CacheRequest
from hf_ft.feature_cache.encoding import check_labels, check_repeatable, encoding_of, transform_of
from hf_ft.feature_cache.examples import EncodedSplit
from hf_ft.feature_cache.feature_files import Features, FeatureStore, Unusable
from hf_ft.feature_cache.function_identity import Unidentifiable
from hf_ft.feature_cache.policy import Forecast, NotCached, admit, check_cacheable, forecast
from hf_ft.feature_cache.rows import CachedRows
from hf_ft.feature_cache.summaries import Collector, SummaryStore
from hf_ft.feature_cache.views import FixedViews
from hf_ft.modalities import filled_batches, images_at_once, longest_first
from hf_ft.models import CannotSplit, Layout, ModelSplit, UpperPart, find_split

TOKENS, EXAMPLES = 512, 32
"""Most tokens (of texts, which have similar lengths) and most examples of a batch through the frozen layers, on a CPU;
images count by their pixels.

Larger batches are no faster there, and the allocator would hold on to their activations (both measured,
docs/performance.md).
"""
WIDE_TOKENS, WIDE_EXAMPLES = 16_384, 256
"""The same on other devices."""
SMALL = 2**16
"""Most bytes of one example's features that are cached although the run reads them once."""


@dataclass
class CachedStage:
    """The upper part of a split model and what it trains on; `validation` is None where the stage does not evaluate.

    `facts` go into `run.json`. Among them, `seconds` is what this run spent on features, and `build_seconds` what all
    the features that it reads took, whenever they were computed.
    """

    split: ModelSplit
    upper: UpperPart
    train: CachedRows
    validation: CachedRows | None
    facts: dict[str, Any]
    request: CacheRequest
    store: FeatureStore
    key: dict[str, Any]
    variant: Variant

    def summaries_of(self, encoded: Dataset) -> list[torch.Tensor] | None:
        """The summaries of rows that the request names, `(rows, width)` each; None if some are not cached."""
        store = self._summaries()
        return store.read(self._fingerprints(encoded)) if store else None

    def keep_summaries(self, encoded: Dataset, tensors: Sequence[torch.Tensor]) -> None:
        """Cache summaries of rows that come from a pass of their own, if the request names any."""
        if store := self._summaries():
            store.write(self._fingerprints(encoded), tensors)

    def _summaries(self) -> SummaryStore | None:
        summary = self.request.summary
        return SummaryStore(self.request.root, self.key, summary.name) if summary else None

    def _fingerprints(self, encoded: Dataset) -> NDArray[np.uint8]:
        return fingerprints(encoded, encoding_of(encoded, self.request))

    def rows_of(self, encoded: Dataset) -> CachedRows | None:
        """Other rows of the same data with their features, as the model is now, in float32.

        Features that are not cached are computed and cached if they are small: the pass costs no more than one that is
        not cached, and the next run with the same frozen layers is spared it.

        Returns:
            The rows; None if the features would not be those of the model in float32 (it has other weights by now, or
            they are cached in lower precision), or if they are missing and not small or not admitted.
        """
        request = dataclasses.replace(self.request, datasets=(encoded,), views=0, summary=None)
        layouts = [Layout("float32", layout.shape, layout.ragged) for layout in self.split.layouts]
        exact = precision_of(request.args) == "float32" and request.settings.cache_dtype == "float32"
        exact = exact and request.args.device.type != "cuda"  # where they may be computed with TF32
        if not exact or feature_key(request, self.split, layouts) != self.key:
            return None
        try:
            part = EncodedSplit.of(encoded, encoding_of(encoded, request))
            missing = self.store.missing(part.fingerprints)
            if len(missing):
                reads = [2.0]  # now and in another run
                expected = forecast(self.split.name, self.store.folder, layouts, [part], [missing], reads, 1.0)
                if expected.bytes > SMALL * len(missing):
                    return None
                admit(request, expected)
                with applied(self.split.model, self.variant):
                    _compute(request, self.split, self.store, layouts, part, missing)
            return _rows(request, self.split, self.store.read(part.fingerprints), part)
        except (NotCached, CannotSplit, Unidentifiable, Unusable):
            return None


@phase("features")
def open_cache(request: CacheRequest) -> CachedStage:
    """Split the model at the first group that trains, and compute the features that the cache lacks.

    Raises:
        NotCached: the stage has to run uncached, or is faster so.
        UserError: the setting `cache` is `on`, and the stage cannot use it.
    """
    # Views that are fixed are another training than live augmentation, so they are no matter of speed alone.
    required = "--cache on" if request.settings.cache == "on" else "--augment_views" if request.views else ""
    try:
        return _open(request)
    except Unusable as reason:
        if required:
            raise
        raise NotCached(f"{reason.why} (--cache_dir names another folder)") from reason
    # A split may fail as late as on the first very long example.
    except (NotCached, CannotSplit, Unidentifiable) as reason:
        if required and str(reason):
            raise UserError(
                f"{required}: stage '{request.stage.name}' cannot use the cache: {reason}. Leave out {required}."
            ) from reason
        raise NotCached(str(reason)) from reason


def _open(request: CacheRequest) -> CachedStage:
    depth = request.stage.frozen_depth
    check_cacheable(request, depth)
    request.model.to(request.args.device)  # type: ignore[arg-type]  # its annotation is that of a decorator
    splits = [_encoded_split(request, number) for number in range(len(request.datasets))]
    sample = splits[0].sample()
    check_repeatable(request, splits[0], sample)
    split = find_split(request.model, request.groups, depth, sample, request.collate)
    if not split.inputs:
        check_labels(request, sample)
    layouts = [Layout(request.settings.cache_dtype, layout.shape, layout.ragged) for layout in split.layouts]
    # Of several processes the first one writes; the others wait here and then find everything.
    with request.args.main_process_first(desc="computing features"):
        variant, store = _store(request, split, layouts, splits)
        expected = _expected(request, split, store, layouts, splits, sample)
        admit(request, expected)
        print_on_main(expected.line(), request.args)
        if request.views:
            images = f"{request.views} fixed views of each of {len(request.datasets[0]):,} training images"
            print_on_main(f"views    {images}", request.args)
        seconds, computed = [], 0
        for part in splits:
            started = time.perf_counter()
            missing = store.missing(part.fingerprints)  # asked again: the first split may have had the same examples
            if len(missing):
                with applied(split.model, variant):
                    _compute(request, split, store, layouts, part, missing)
            computed += len(missing)
            seconds.append(round(time.perf_counter() - started, 3))
    for note in store.notes:
        print_on_main(f"cache    {note}", request.args)
    rows = [_rows(request, split, store.read(part.fingerprints), part) for part in splits]
    facts = {
        "split": split.name,
        "examples": expected.examples,
        "computed": computed,
        "bytes": expected.bytes,
        "seconds": sum(seconds),
        "validation_seconds": sum(seconds[1:]),
        "build_seconds": round(sum(part.features.seconds for part in rows), 3),
        "dtype": request.settings.cache_dtype,
        "difference": split.difference,
        "notes": [*split.notes, *store.notes],
    }
    if request.views:
        facts["views"] = request.views
    validation, key = rows[1] if len(rows) > 1 else None, feature_key(request, split, layouts)
    return CachedStage(split, UpperPart(split), rows[0], validation, facts, request, store, key, variant)


def _encoded_split(request: CacheRequest, number: int) -> EncodedSplit:
    """One of the datasets with the fingerprints of its rows; the training split in its fixed views, if it has any."""
    rows = request.datasets[number]
    encoding = encoding_of(rows, request)
    if number == 0 and request.views:
        return EncodedSplit.of_views(rows, request.views, request.data_seed, encoding)
    return EncodedSplit.of(rows, encoding)


def _store(
    request: CacheRequest, split: ModelSplit, layouts: Sequence[Layout], splits: Sequence[EncodedSplit]
) -> tuple[Variant, FeatureStore]:
    """The form in which the frozen layers run, and where their outputs are: those of another form differ by rounding.

    What is cached in the usual form is read whatever would be faster.
    """
    key = feature_key(request, split, layouts)
    usual = FeatureStore(request.root, key)
    missing = [(part, rows) for part in splits if len(rows := usual.missing(part.fingerprints))]
    read_once = max(request.reads) <= 1 and request.find_linear_head is None and request.settings.cache != "on"
    if not missing or request.tuner is None or read_once:
        return USUAL, usual
    part, rows = missing[0]
    device, precision = request.args.device, precision_of(request.args)

    def step(batch: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        with _autocast(request):
            return split.capture(dict(batch))

    work = Work(
        what="features",
        model=split.model,
        batch=lambda size: request.collate(part.fetch(rows[:size])),
        step=step,
        examples=sum(len(rows) for _, rows in missing),
        batch_size=min(len(rows), _examples_at_once(request, part)),
        device=device,
        precision=precision,
    )
    variant = request.tuner.choose(work)
    return variant, FeatureStore(request.root, {**key, **variant.changes()}) if variant.changes() else usual


def _autocast(request: CacheRequest) -> torch.autocast:
    """The precision in which the frozen layers run."""
    precision = precision_of(request.args)
    return torch.autocast(request.args.device.type, getattr(torch, precision), enabled=precision != "float32")


def _expected(
    request: CacheRequest,
    split: ModelSplit,
    store: FeatureStore,
    layouts: Sequence[Layout],
    splits: Sequence[EncodedSplit],
    sample: list[dict[str, Any]],
) -> Forecast:
    """What this cache costs and saves; the time of one example is measured on the sample."""
    missing = [store.missing(part.fingerprints) for part in splits]
    started = time.perf_counter()
    split.capture(request.collate(sample))
    each = (time.perf_counter() - started) / len(sample)
    solved = request.find_linear_head is not None and request.find_linear_head(split) is not None
    reads = [1.0 for _ in splits] if solved else list(request.reads)
    if request.views and not solved:
        reads[0] /= request.views
    return forecast(split.name, store.folder, layouts, splits, missing, reads, each, solved)


def _compute(
    request: CacheRequest,
    split: ModelSplit,
    store: FeatureStore,
    layouts: Sequence[Layout],
    part: EncodedSplit,
    rows: NDArray[np.int64],
) -> None:
    """Run the lower part of a split model on some rows, the longest first, and store what it returns."""
    lengths = None if part.lengths is None else part.lengths[rows]
    ragged = lengths if any(layout.ragged for layout in layouts) else None
    bar = progress("Features", len(rows), "examples", shown=not request.args.disable_tqdm)
    summaries = None
    if request.summary is not None:
        summaries = SummaryStore(request.root, feature_key(request, split, layouts), request.summary.name)
    collector = Collector(request.summary, summaries, rows, part.fingerprints)
    building = store.build(part.fingerprints[rows], layouts, ragged)
    with bar as advance, _autocast(request), collector.watching() as taking, building as writer:
        batches = list(_batches(len(rows), lengths, request, part))
        run = _InParts(request, split, layouts, lambda places, batch: taking(rows[places], batch))
        read = functools.partial(_read, request, part, rows)
        loaded = read_ahead(read, batches, _workers(request, part, len(rows)), request.args.device.type == "cuda")
        for places, batch in zip(batches, loaded, strict=True):
            for piece, tensors in run.outputs(places, batch, read):
                writer.put(piece, tensors)
            advance(len(places))
    collector.keep()


def _read(request: CacheRequest, part: EncodedSplit, rows: NDArray[np.int64], places: NDArray[np.int64]) -> Any:
    """A batch of some rows, still on the CPU: it may be read by a worker process."""
    return request.collator(part.fetch(rows[places]))


def _workers(request: CacheRequest, part: EncodedSplit, rows: int) -> int:
    """How many processes read the rows: none where they are tokens in memory, or as the user says."""
    if "dataloader_num_workers" in request.settings.explicit:
        return request.args.dataloader_num_workers
    read = (lambda places: request.collator(part.fetch(places))) if transform_of(part.rows) else None
    found = choose_readers(read, rows, 1, EXAMPLES, request.args)
    if found.workers:
        print_on_main(f"reading  by {found.workers} worker processes: {found.reason}", request.args)
    return found.workers


class _InParts:
    """Runs the lower part of a split model; once memory has run out, on parts of each batch.

    Args:
        taking: A context around each pass, which gets the places of its rows and its batch.
    """

    def __init__(
        self,
        request: CacheRequest,
        split: ModelSplit,
        layouts: Sequence[Layout],
        taking: Callable[[NDArray[np.int64], Any], AbstractContextManager[None]],
    ) -> None:
        self.request, self.split, self.layouts, self.taking, self.parts = request, split, layouts, taking, 1

    def outputs(
        self, places: NDArray[np.int64], batch: Any, read: Callable[[NDArray[np.int64]], Any]
    ) -> list[tuple[NDArray[np.int64], list[torch.Tensor]]]:
        """The outputs for a batch, on the CPU, each with the places of its rows; parts of it are read again."""
        before = self.parts
        while True:
            try:
                pieces = [piece for piece in np.array_split(places, self.parts) if len(piece)]
                found = [(piece, self._run(piece, batch if self.parts == 1 else read(piece))) for piece in pieces]
            except RuntimeError as error:
                if self.parts >= len(places) or not memory_ran_out(error):
                    raise
            else:
                if self.parts > before:
                    said = MEMORY.format("computing features", len(places), len(pieces[0]))
                    print_on_main(said, self.request.args)
                return found
            self.parts *= 2

    def _run(self, places: NDArray[np.int64], batch: Any) -> list[torch.Tensor]:
        with self.taking(places, batch):
            outputs = self.split.capture(self.request.on_device(batch))
        pairs = zip(outputs, self.layouts, strict=True)
        return [tensor.to("cpu", layout.torch_dtype) for tensor, layout in pairs]


def _batches(
    count: int, lengths: NDArray[np.int64] | None, request: CacheRequest, part: EncodedSplit
) -> Iterator[NDArray[np.int64]]:
    """The positions of each batch: images in order, texts from the longest to the shortest, filled up by tokens."""
    if lengths is None:
        yield from np.array_split(np.arange(count), math.ceil(count / _examples_at_once(request, part)))
        return
    tokens = TOKENS if request.args.device.type == "cpu" else WIDE_TOKENS
    yield from filled_batches(lengths, longest_first(lengths), tokens)


def _examples_at_once(request: CacheRequest, part: EncodedSplit) -> int:
    """How many examples without a length, such as images, make up a batch."""
    if request.args.device.type != "cpu":
        return WIDE_EXAMPLES
    one = request.collate(part.fetch(np.arange(1)))
    sizes = [math.prod(value.shape[-2:]) for value in one.values() if torch.is_tensor(value) and value.ndim >= 4]
    return images_at_once(max(sizes)) if sizes else EXAMPLES


def _rows(request: CacheRequest, split: ModelSplit, features: Features, part: EncodedSplit) -> CachedRows:
    """The rows that training reads: features, labels, and the inputs that the upper part still takes."""
    if isinstance(part.rows, FixedViews):
        return part.rows.cached(features)
    plain = part.rows.with_format(None)
    if split.inputs:
        rows = part.rows if transform_of(part.rows) else plain
        return CachedRows(features, rows, request.collator, part.lengths)
    return CachedRows(features, plain.select_columns(["labels"]), default_data_collator, None)
