"""The store of the cache: tensors per example on disk, written once and read as memory maps.

It stays our own code: Arrow has no rows of fixed shape that are read as slices without a copy, safetensors has to be
written at once, and rows are written in any order here (the longest texts come first).

A key says what decides the features (model, split, precision, preprocessing); under it each example is known by the
fingerprint of its content, whatever run, subset or split it comes in. A run builds one shard with the examples that no
shard of the key holds yet, and reads from all of them:

    ROOT/<key>/<shard>/examples.npy   fingerprints, (examples, 16) bytes
    ROOT/<key>/<shard>/offsets.npy    with ragged tensors: where each example begins in them, (examples + 1,)
    ROOT/<key>/<shard>/0.npy, ...     the tensors; a dtype that NumPy lacks (bfloat16) as unsigned integers of its bits
    ROOT/<key>/<shard>/shard.json     dtypes, shapes, counts, seconds and the SHA-256 of every file; written last

`hf_ft.feature_cache.eviction` lists and removes these folders.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hf_ft.errors import UserError
from hf_ft.feature_cache.cache_key import FINGERPRINT, key_folder_name, shard_name
from hf_ft.feature_cache.eviction import (
    KEY_FILE,
    SHARD_FILE,
    begun_folder,
    discard,
    format_size,
    remove_leftovers,
    shards,
)
from hf_ft.models import Layout
from hf_ft.storage import Damaged, opened, sealed, sha256, sync

Integers: TypeAlias = npt.NDArray[np.int64]
Fingerprints: TypeAlias = npt.NDArray[np.void]

EXAMPLES, OFFSETS = "examples.npy", "offsets.npy"
NPY_HEADER = 128
CHUNK = 2**16
"""Examples that are looked up at once: bounds the memory that this takes."""


def size_of(layouts: Sequence[Layout], count: int, total_length: int) -> int:
    """Bytes of a shard of `count` examples, of `total_length` together, but for the 1 or 2 KB of its `shard.json`."""
    sizes = [count * FINGERPRINT.itemsize]
    if any(layout.ragged for layout in layouts):
        sizes.append((count + 1) * np.dtype(np.int64).itemsize)
    for layout in layouts:
        cells = np.prod(layout.file_shape(count, total_length), dtype=object)
        sizes.append(int(cells) * layout.stored.itemsize)
    return sum(sizes) + len(sizes) * NPY_HEADER


class Unusable(UserError):
    """The disk refuses to read or to write the cache; `why` says so without naming the folder."""

    def __init__(self, folder: Path, purpose: str, error: OSError) -> None:
        self.why = f"its folder cannot be {purpose}: {error.strerror or type(error).__name__}"
        super().__init__(
            f"The feature cache cannot be {purpose} in {folder}: {error.strerror}. Give another folder with "
            "--cache_dir, make room with hf-ft cache clear, or train with --cache off."
        )


class FeatureStore:
    """The features cached under one key; writes nothing to the disk until something is built.

    `key` holds JSON values; its `describe`, else its `model` and `split`, is what `hf-ft cache list` calls it. `notes`
    says in a sentence each what was found damaged. Every file of a shard is read through and compared with its
    SHA-256 once by each store object that did not write it; a damaged shard is removed, and its examples are missing
    again. What one object has opened it can read even after another process has removed it.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]) -> None:
        self._key = json.dumps(key, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
        self._digest = key_folder_name(self._key)
        self.folder = root / self._digest
        self.notes: list[str] = []
        self._sound: dict[str, _Shard] = {}

    def missing(self, examples: npt.NDArray[Any]) -> Integers:
        """Positions of the examples that no sound shard holds, the first of each distinct one, in their order.

        `examples` are fingerprints: `(n, 16)` bytes or `(n,)` of `V16`, here and below.
        """
        wanted = _fingerprints(examples)
        absent = self._locate(wanted)[0] < 0
        if absent.any():
            absent &= _firsts(wanted)
        return np.flatnonzero(absent)

    @contextmanager
    def build(
        self, examples: npt.NDArray[Any], layouts: Sequence[Layout], lengths: Integers | None = None
    ) -> Iterator[Writer]:
        """Write a shard with these distinct examples: `put` every row once; it is there when the block has ended.

        `lengths` are those of the examples, `(n,)`, and needed with ragged layouts only. When the block raises,
        nothing is left. When another process has built the same meanwhile, its shard stays and this one goes.

        Raises:
            Unusable: the folder cannot be written to, or has too little room.
            ValueError: examples that are none or not distinct, or lengths that do not go with the layouts.
            RuntimeError: rows that were not put, or other layouts than the key's shards have.
        """
        wanted, layouts = _fingerprints(examples), tuple(layouts)
        _check(wanted, layouts, lengths)
        if any(shard.layouts != layouts for shard in self._shards()):
            raise RuntimeError(f"There are other tensors in {self.folder}: the key does not say all that decides them.")
        needed = size_of(layouts, len(wanted), 0 if lengths is None else int(lengths.sum()))
        begun, purpose = begun_folder(self.folder), f"written ({format_size(needed)})"
        started = time.perf_counter()
        try:
            with using(self.folder, purpose):
                self._mark_used()
                remove_leftovers(self.folder)
                begun.mkdir(parents=True)
                _check_room(begun, needed)
                writer = Writer(begun, wanted, layouts, lengths)
            yield writer
            with using(self.folder, purpose):
                seconds = time.perf_counter() - started
                writer.finish(self._digest, seconds)
                self._place(begun, self.folder / shard_name(wanted), layouts, seconds / len(wanted))
        finally:
            shutil.rmtree(begun, ignore_errors=True)  # it has another name when all went well

    def read(self, examples: npt.NDArray[Any]) -> Features:
        """The features of these examples, in their order; says that the key was used.

        Raises:
            RuntimeError: some are missing.
        """
        which, rows = self._locate(_fingerprints(examples))
        absent = int((which < 0).sum())
        if absent:
            raise RuntimeError(f"{absent} of {len(which)} examples are not in {self.folder}: build what is `missing`.")
        with suppress(OSError):  # a cache that cannot be written to can be read all the same
            self._mark_used()
        return Features(list(self._sound.values()), which, rows)

    def _shards(self) -> list[_Shard]:
        """The sound shards; those that have come since the last call are checked."""
        with using(self.folder, "read"):
            for folder in shards(self.folder):
                if folder.name in self._sound:
                    continue
                try:
                    self._sound[folder.name] = _verified(folder, self._digest)
                except Damaged as error:
                    if discard(folder):  # otherwise somebody else removed it while it was read
                        self.notes.append(f"a damaged part of the cache ({folder.name}: {error}) is built again")
        return list(self._sound.values())

    def _locate(self, wanted: Fingerprints) -> tuple[npt.NDArray[np.int32], Integers]:
        """The number of the shard that holds each example, or -1, and the row there."""
        which, rows = np.full(len(wanted), -1, np.int32), np.zeros(len(wanted), np.int64)
        for number, shard in enumerate(self._shards()):
            for start in range(0, len(wanted), CHUNK):
                part = slice(start, start + CHUNK)
                found = shard.find(wanted[part])
                new = (found >= 0) & (which[part] < 0)
                which[part][new], rows[part][new] = number, found[new]
        return which, rows

    def _place(self, begun: Path, target: Path, layouts: tuple[Layout, ...], each: float) -> None:
        """Give a finished shard its name, unless another process has been quicker.

        It is opened before, so that nobody who clears the cache can take it away from this process.
        """
        shard = _Shard(begun, layouts, each)
        try:
            begun.replace(target)
        except OSError:
            if not target.is_dir():
                raise
            return
        shard.folder = target
        self._sound[target.name] = shard
        sync(self.folder)

    def _mark_used(self) -> None:
        """Let the time of `key.json` be now, and its text the key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, text = self.folder / KEY_FILE, self._key.encode()
        if path.is_file() and path.read_bytes() == text:
            os.utime(path)
        else:
            path.write_bytes(text)


class Writer:
    """Writes one shard through memory maps, in any order of rows; made by `FeatureStore.build`."""

    def __init__(
        self, folder: Path, examples: Fingerprints, layouts: tuple[Layout, ...], lengths: Integers | None
    ) -> None:
        self._folder, self._layouts = folder, layouts
        self._puts = np.zeros(len(examples), np.int32)
        np.save(folder / EXAMPLES, examples.view(np.uint8).reshape(-1, FINGERPRINT.itemsize))
        total, self._offsets = 0, None
        if lengths is not None:
            self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            total = int(self._offsets[-1])
            np.save(folder / OFFSETS, self._offsets)
        self._maps = [
            _allocated(folder / f"{i}.npy", layout.stored, layout.file_shape(len(examples), total))
            for i, layout in enumerate(layouts)
        ]

    def put(self, rows: npt.ArrayLike, tensors: Sequence[torch.Tensor]) -> None:
        """Write the tensors of some rows, which are positions within the examples of the shard.

        A fixed tensor is `(rows, *shape)`, a ragged one the rows' states one after the other, `(sum of lengths,
        *shape)`.

        Raises:
            ValueError: tensors of another number, dtype or shape.
            RuntimeError: a row that was put before.
        """
        rows = np.asarray(rows, np.int64)
        total = 0
        if self._offsets is not None:
            starts, stops = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
            total = sum(stops) - sum(starts)
        expected = [(layout.torch_dtype, layout.file_shape(len(rows), total)) for layout in self._layouts]
        given = [(tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
        if given != expected:
            raise ValueError(f"These rows take tensors {expected}, not {given}.")
        np.add.at(self._puts, rows, 1)
        if (self._puts[rows] > 1).any():
            raise RuntimeError("A row was put twice.")
        for layout, target, tensor in zip(self._layouts, self._maps, tensors, strict=True):
            values = _to_numpy(tensor, layout)
            if not layout.ragged:
                target[rows] = values
                continue
            done = 0
            for start, stop in zip(starts, stops, strict=True):
                target[start:stop] = values[done : done + stop - start]
                done += stop - start

    def finish(self, key: str, seconds: float) -> None:
        """Bring all to the disk and write `shard.json`, with the seconds that it took; `build` calls it.

        Raises:
            RuntimeError: rows that were not put.
        """
        left = int((self._puts == 0).sum())
        if left:
            raise RuntimeError(f"{left} of {len(self._puts)} rows were not put.")
        for target in self._maps:
            target.flush()
        files = sorted(self._folder.iterdir())
        for path in files:
            sync(path)
        about = {
            "key": key,
            "examples": len(self._puts),
            "seconds": round(seconds, 6),
            "layouts": [asdict(layout) for layout in self._layouts],
            "files": {path.name: sha256(path) for path in files},
        }
        (self._folder / SHARD_FILE).write_bytes(sealed(about))
        sync(self._folder / SHARD_FILE)
        sync(self._folder)


class Features:
    """Random access to the features of examples, in the order asked for; made by `FeatureStore.read`.

    `lengths` are those of the examples, `(n,)`, or None when no layout is ragged. `seconds` is what building these
    examples took, whenever that was. The tensors stay on disk; what is sent to another process (a worker of a
    `DataLoader`) opens them there.
    """

    def __init__(self, shards: Sequence[_Shard], which: npt.NDArray[np.int32], rows: Integers) -> None:
        self._shards, self._which, self._rows = list(shards), which, rows
        self.layouts: tuple[Layout, ...] = shards[0].layouts if shards else ()
        counts = np.bincount(which, minlength=len(shards))
        self.seconds = float(sum(shard.each * count for shard, count in zip(shards, counts, strict=True)))
        self.lengths: Integers | None = None
        if any(layout.ragged for layout in self.layouts):
            self.lengths = np.zeros(len(rows), np.int64)
            for number, shard in enumerate(shards):
                here = which == number
                self.lengths[here] = shard.offsets[rows[here] + 1] - shard.offsets[rows[here]]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: npt.ArrayLike) -> list[torch.Tensor]:
        """The tensors of these examples in their order and in memory of their own, one per layout.

        A fixed tensor is `(rows, *shape)`, a ragged one the rows' states one after the other, `(sum of lengths,
        *shape)`.
        """
        rows = np.asarray(rows, np.int64)
        which, inside = self._which[rows], self._rows[rows]
        return [
            _to_torch((self._ragged if layout.ragged else self._fixed)(i, which, inside), layout)
            for i, layout in enumerate(self.layouts)
        ]

    def _fixed(self, i: int, which: npt.NDArray[np.int32], rows: Integers) -> npt.NDArray[Any]:
        if len(self._shards) == 1:
            return self._shards[0].tensors[i][rows]
        first = self._shards[0].tensors[i]
        taken = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for number in np.unique(which):
            here = which == number
            taken[here] = self._shards[number].tensors[i][rows[here]]
        return taken

    def _ragged(self, i: int, which: npt.NDArray[np.int32], rows: Integers) -> npt.NDArray[Any]:
        parts = [self._shards[0].tensors[i][:0]]  # for the shape when there are no rows
        for number, row in zip(which.tolist(), rows.tolist(), strict=True):
            shard = self._shards[number]
            parts.append(shard.tensors[i][shard.offsets[row] : shard.offsets[row + 1]])
        return np.concatenate(parts)


class _Shard:
    """The maps of one shard, which was verified before; `each` is the seconds that building an example took."""

    def __init__(self, folder: Path, layouts: tuple[Layout, ...], each: float) -> None:
        self.folder, self.layouts, self.each = folder, layouts, each
        self.examples: Fingerprints = _mapped(folder / EXAMPLES).view(FINGERPRINT).reshape(-1)
        self.tensors = [_mapped(folder / f"{i}.npy") for i in range(len(layouts))]
        if any(layout.ragged for layout in layouts):
            self.offsets: Integers = _mapped(folder / OFFSETS)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Shard, (self.folder, self.layouts, self.each)  # maps would be sent as all that they hold

    @cached_property
    def _order(self) -> Integers:
        return np.argsort(self.examples, kind="stable")

    def find(self, wanted: Fingerprints) -> Integers:
        """The row of each example, or -1."""
        place = np.searchsorted(self.examples, wanted, sorter=self._order)
        rows = np.take(self._order, place, mode="clip")
        rows[self.examples[rows] != wanted] = -1
        return rows


def _verified(folder: Path, key: str) -> _Shard:
    """A shard, after every file of it was compared with its checksum."""
    try:
        about = opened((folder / SHARD_FILE).read_bytes(), SHARD_FILE)
        if about["key"] != key:
            raise Damaged("it belongs to another key")
        for name, digest in about["files"].items():
            if sha256(folder / name) != digest:
                raise Damaged(f"{name} is not what was written")
        layouts = [Layout(layout["dtype"], tuple(layout["shape"]), layout["ragged"]) for layout in about["layouts"]]
        return _Shard(folder, tuple(layouts), about["seconds"] / about["examples"])
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from error


def _fingerprints(examples: npt.NDArray[Any]) -> Fingerprints:
    examples = np.ascontiguousarray(examples)
    if examples.dtype == np.uint8 and examples.ndim == 2 and examples.shape[1] == FINGERPRINT.itemsize:
        examples = examples.view(FINGERPRINT).reshape(-1)
    if examples.dtype != FINGERPRINT or examples.ndim != 1:
        raise ValueError(f"Fingerprints are (n, 16) bytes or (n,) of V16, not {examples.shape} of {examples.dtype}.")
    return examples


def _firsts(examples: Fingerprints) -> npt.NDArray[np.bool_]:
    """Whether each example is the first of its fingerprint."""
    order = np.argsort(examples, kind="stable")
    first = np.ones(len(examples), np.bool_)
    for start in range(0, len(examples), CHUNK):
        part = order[start : start + CHUNK + 1]
        first[part[1:]] = examples[part[1:]] != examples[part[:-1]]
    return first


def _check(examples: Fingerprints, layouts: tuple[Layout, ...], lengths: Integers | None) -> None:
    if not len(examples):
        raise ValueError("There are no examples to build.")
    if not _firsts(examples).all():
        raise ValueError("Each example is built once: give distinct ones, as `missing` does.")
    if any(layout.ragged for layout in layouts) != (lengths is not None):
        raise ValueError("Lengths are needed with ragged layouts, and with these only.")
    if lengths is not None and lengths.shape != examples.shape:
        raise ValueError(f"There are {len(examples)} examples, but lengths of shape {lengths.shape}.")


@contextmanager
def using(folder: Path, purpose: str) -> Iterator[None]:
    """Turn what the disk refuses (it is full, a quota, no permission) into one `Unusable`."""
    try:
        yield
    except OSError as error:
        raise Unusable(folder, purpose, error) from error


def _check_room(folder: Path, needed: int) -> None:
    """Refuse before anything is allocated, which would take the last of the room from others for a while."""
    if needed > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _allocated(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new file as a memory map, with room on the disk: without it, a disk that gets full would kill the process."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # the file system cannot
                    raise
    return array


def _mapped(path: Path) -> npt.NDArray[Any]:
    return np.load(path, mmap_mode="r").view(np.ndarray)  # indexing a `memmap` takes longer than an array


def _to_numpy(tensor: torch.Tensor, layout: Layout) -> npt.NDArray[Any]:
    return tensor.detach().cpu().view(getattr(torch, layout.stored.name)).numpy()


def _to_torch(array: npt.NDArray[Any], layout: Layout) -> torch.Tensor:
    return torch.from_numpy(array).view(layout.torch_dtype)
