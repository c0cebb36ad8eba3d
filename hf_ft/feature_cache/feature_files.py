"""The store of the feature cache: tensors per example on disk, written once and read as memory maps.

Own code, because rows are written in any order (the longest texts first) and read as slices without a copy: safetensors
writes a file in one piece, and Arrow has no rows of fixed shape that are read without a copy.

A key covers everything that determines the features (model, split, precision, preprocessing). Under a key, each example
is identified by the fingerprint of its content, so runs, subsets and splits share it. A run builds one shard with the
examples that no shard of the key contains yet, and reads from all shards:

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
"""Examples that are looked up at once, to bound the memory."""


def size_of(layouts: Sequence[Layout], count: int, total_length: int) -> int:
    """Return the size in bytes of a shard of `count` examples, `total_length` in all, without its `shard.json`."""
    sizes = [count * FINGERPRINT.itemsize]
    if any(layout.ragged for layout in layouts):
        sizes.append((count + 1) * np.dtype(np.int64).itemsize)
    for layout in layouts:
        cells = np.prod(layout.file_shape(count, total_length), dtype=object)
        sizes.append(int(cells) * layout.stored.itemsize)
    return sum(sizes) + len(sizes) * NPY_HEADER


class Unusable(UserError):
    """The cache cannot be read or written (full disk, quota, permissions); `why` omits the folder's name."""

    def __init__(self, folder: Path, purpose: str, error: OSError) -> None:
        self.why = f"its folder cannot be {purpose}: {error.strerror or type(error).__name__}"
        super().__init__(
            f"The feature cache cannot be {purpose} in {folder}: {error.strerror}. Give another folder with "
            "--cache_dir, make room with hf-ft cache clear, or train with --cache off."
        )


class FeatureStore:
    """The features cached under one key; nothing is written to disk before the first `build`.

    Each store object verifies every file of a shard that it did not write once, by its SHA-256. A damaged shard is
    removed, and its examples count as missing again. Shards that are open stay readable after another process has
    removed them.

    Args:
        root: The folder of the whole cache.
        key: JSON values. `hf-ft cache list` shows `describe`, else `model` and `split`.

    Attributes:
        folder: The folder of the key.
        notes: One sentence for each damaged shard.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]) -> None:
        self._key = json.dumps(key, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
        self._digest = key_folder_name(self._key)
        self.folder = root / self._digest
        self.notes: list[str] = []
        self._sound: dict[str, _Shard] = {}

    def missing(self, examples: npt.NDArray[Any]) -> Integers:
        """Return the positions of the examples that no intact shard contains; of equal ones, the first.

        Args:
            examples: Fingerprints, `(n, 16)` bytes or `(n,)` of `V16`, as in all methods.
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
        """Build a shard of distinct examples: `put` every row once within the block; the shard appears at its end.

        If the block raises, nothing remains. If another process has built the same shard meanwhile, that one is used.

        Args:
            examples: Distinct fingerprints.
            layouts: The layout of each tensor.
            lengths: Tokens (or pixels) of each example, `(n,)`; for ragged layouts only.

        Raises:
            Unusable: The folder is not writable or has too little space.
            ValueError: No examples, repeated examples, or lengths that do not match the layouts.
            RuntimeError: Rows are missing, or the key's shards have other layouts.
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
            shutil.rmtree(begun, ignore_errors=True)  # after success it has been renamed

    def read(self, examples: npt.NDArray[Any]) -> Features:
        """Return the features of these examples, in their order, and mark the key as used.

        Raises:
            RuntimeError: Some are missing.
        """
        which, rows = self._locate(_fingerprints(examples))
        absent = int((which < 0).sum())
        if absent:
            raise RuntimeError(f"{absent} of {len(which)} examples are not in {self.folder}: build what is `missing`.")
        with suppress(OSError):  # a read-only cache can still be read
            self._mark_used()
        return Features(list(self._sound.values()), which, rows)

    def _shards(self) -> list[_Shard]:
        """Return the intact shards; verify those that appeared since the last call."""
        with using(self.folder, "read"):
            for folder in shards(self.folder):
                if folder.name in self._sound:
                    continue
                try:
                    self._sound[folder.name] = _verified(folder, self._digest)
                except Damaged as error:
                    if discard(folder):  # otherwise another process removed it meanwhile
                        self.notes.append(f"a damaged part of the cache ({folder.name}: {error}) is built again")
        return list(self._sound.values())

    def _locate(self, wanted: Fingerprints) -> tuple[npt.NDArray[np.int32], Integers]:
        """Return for each example the number of its shard, or -1, and its row there."""
        which, rows = np.full(len(wanted), -1, np.int32), np.zeros(len(wanted), np.int64)
        for number, shard in enumerate(self._shards()):
            for start in range(0, len(wanted), CHUNK):
                part = slice(start, start + CHUNK)
                found = shard.find(wanted[part])
                new = (found >= 0) & (which[part] < 0)
                which[part][new], rows[part][new] = number, found[new]
        return which, rows

    def _place(self, begun: Path, target: Path, layouts: tuple[Layout, ...], each: float) -> None:
        """Rename a finished shard to its final name, unless another process has finished it first.

        It is opened before: should another process clear the cache now, this one can still read it.
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
        """Write `key.json`, or update its modification time, by which the least recently used key is found."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, text = self.folder / KEY_FILE, self._key.encode()
        if path.is_file() and path.read_bytes() == text:
            os.utime(path)
        else:
            path.write_bytes(text)


class Writer:
    """Writer of one shard through memory maps, rows in any order; created by `FeatureStore.build`."""

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
        """Write the tensors of some rows.

        Args:
            rows: Positions within the examples of the shard.
            tensors: One per layout: `(rows, *shape)` if fixed, `(sum of lengths, *shape)` if ragged, with the rows
                one after the other.

        Raises:
            ValueError: The tensors differ from the layouts in number, dtype or shape.
            RuntimeError: A row was put before.
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
        """Flush all files to disk and write `shard.json` with the seconds that building took; called by `build`.

        Raises:
            RuntimeError: Rows are missing.
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
    """Random access to the features of examples, in the requested order; created by `FeatureStore.read`.

    The tensors stay on disk. Pickled to another process (a worker of a `DataLoader`), the object opens them there.

    Attributes:
        layouts: The layout of each tensor.
        lengths: Tokens (or pixels) of each example, `(n,)`; None if no layout is ragged.
        seconds: The time it took to build these examples, in this run or an earlier one.
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
        """Return copies of the tensors of some examples, in their order.

        Args:
            rows: Positions within the examples.

        Returns:
            One tensor per layout: `(rows, *shape)` if fixed, `(sum of lengths, *shape)` if ragged.
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
    """The memory maps of one verified shard; `each` is the time in seconds that building one example took."""

    def __init__(self, folder: Path, layouts: tuple[Layout, ...], each: float) -> None:
        self.folder, self.layouts, self.each = folder, layouts, each
        self.examples: Fingerprints = _mapped(folder / EXAMPLES).view(FINGERPRINT).reshape(-1)
        self.tensors = [_mapped(folder / f"{i}.npy") for i in range(len(layouts))]
        if any(layout.ragged for layout in layouts):
            self.offsets: Integers = _mapped(folder / OFFSETS)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Shard, (self.folder, self.layouts, self.each)  # a pickled map would contain all its data

    @cached_property
    def _order(self) -> Integers:
        return np.argsort(self.examples, kind="stable")

    def find(self, wanted: Fingerprints) -> Integers:
        """Return the row of each example, or -1."""
        place = np.searchsorted(self.examples, wanted, sorter=self._order)
        rows = np.take(self._order, place, mode="clip")
        rows[self.examples[rows] != wanted] = -1
        return rows


def _verified(folder: Path, key: str) -> _Shard:
    """Open a shard after comparing every file with its checksum."""
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
    """Return whether each example is the first with its fingerprint."""
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
    """Raise any `OSError` within the block (disk full, quota, permissions) as `Unusable`."""
    try:
        yield
    except OSError as error:
        raise Unusable(folder, purpose, error) from error


def _check_room(folder: Path, needed: int) -> None:
    """Raise before allocating anything: a failed attempt would fill the disk for other processes for a while."""
    if needed > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _allocated(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """Create a memory-mapped file with its disk space allocated: else a full disk kills the process by a signal."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # not supported there
                    raise
    return array


def _mapped(path: Path) -> npt.NDArray[Any]:
    return np.load(path, mmap_mode="r").view(np.ndarray)  # indexing a `memmap` is slower than indexing an array


def _to_numpy(tensor: torch.Tensor, layout: Layout) -> npt.NDArray[Any]:
    return tensor.detach().cpu().view(getattr(torch, layout.stored.name)).numpy()


def _to_torch(array: npt.NDArray[Any], layout: Layout) -> torch.Tensor:
    return torch.from_numpy(array).view(layout.torch_dtype)
