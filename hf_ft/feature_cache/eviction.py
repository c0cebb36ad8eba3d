"""The folders of the feature cache: where they are, how large they are, and which are removed for new ones.

`ROOT/<key>/key.json` is the key as readable JSON; its modification time is when the features were last used. Beside it
are the shards that `store` writes and reads, and hidden folders with shards that are being written. Only folders with
such names are removed, so a wrong folder given as the cache loses nothing.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ft.settings import CacheSettings
from hf_ft.storage import read_json

KEY_FILE, SHARD_FILE = "key.json", "shard.json"
DIGEST = re.compile(r"[0-9a-f]{32}")
"""The name of a key's folder, and of a shard's."""
BEGUN = re.compile(r"\.building-(?P<host>.*)-(?P<pid>\d+)-[0-9a-f]{8}")
"""The name of a shard that is being written, and by whom."""
ABANDONED = 7 * 86400
"""Seconds after which a shard begun on another machine, whose processes cannot be seen from here, counts as left."""


@dataclass(frozen=True)
class Entry:
    """What is cached under one key: `size` bytes in all, `unfinished` of them in shards that were never finished."""

    folder: Path
    what: str
    examples: int
    size: int
    unfinished: int
    used: float
    """Seconds since the epoch."""


def default_root() -> Path:
    """The folder of the cache unless `--cache_dir` names one: `HF_FT_CACHE`, else one in the home of Hugging Face."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_FT_CACHE") or Path(HF_HOME) / "hf_ft" / "features").expanduser()


def cache_root(settings: CacheSettings) -> Path:
    """The folder of the cache: that of `--cache_dir`, else `default_root`."""
    return Path(settings.cache_dir).expanduser() if settings.cache_dir else default_root()


def cache_entries(root: Path) -> list[Entry]:
    """The entries of a cache, the least recently used first; checksums are not verified, so this is fast."""
    found = []
    for folder in _named(root, DIGEST):
        with suppress(FileNotFoundError):  # another process may be removing it
            found.append(_entry(folder))
    return sorted(found, key=lambda entry: entry.used)


def _entry(folder: Path) -> Entry:
    used = (folder / KEY_FILE).stat().st_mtime
    return Entry(
        folder=folder,
        what=_spoken(folder),
        examples=sum(_read(shard / SHARD_FILE).get("examples", 0) for shard in shards(folder)),
        size=_size(folder),
        unfinished=sum(map(_size, _named(folder, BEGUN))),
        used=used,
    )


def _spoken(folder: Path) -> str:
    """The name of a key for users: its `describe`, else its model and split, else its digest."""
    key = _read(folder / KEY_FILE)
    parts = [str(key[name]) for name in ("model", "split") if name in key]
    return " ".join(str(key.get("describe") or ", ".join(parts)).split()) or folder.name


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none that can be read."""
    with suppress(FileNotFoundError, ValueError):
        content = read_json(path)
        return content if isinstance(content, dict) else {}
    return {}


def make_room(root: Path, needed: int, limit: int, keep: Path) -> list[Entry]:
    """Remove the least recently used keys until the cache and `needed` more bytes stay within `limit`.

    `keep`, the folder of the key that needs them, stays. Returns what was removed: nothing when all of it would not
    be enough.
    """
    present = cache_entries(root)
    excess = sum(entry.size for entry in present) + needed - limit
    others = [entry for entry in present if entry.folder.name != keep.name]
    if sum(entry.size for entry in others) < excess:
        return []
    removed = []
    for entry in others:
        if excess <= 0:
            break
        excess -= _remove(entry.folder)
        removed.append(entry)
    return removed


def clear_cache(root: Path, unused_for: float = 0.0) -> int:
    """Remove what was last used at least so many seconds ago; the bytes that were freed.

    A shard that a living process is writing stays, here and in `make_room`.
    """
    now = time.time()
    return sum(
        _remove(entry.folder) for entry in cache_entries(root) if unused_for == 0 or now - entry.used >= unused_for
    )


def _remove(folder: Path) -> int:
    """Remove a key but for what is being written under it; the bytes that were freed."""
    before = _size(folder)
    for shard in shards(folder):
        discard(shard)
    remove_leftovers(folder)
    if not _named(folder, BEGUN):
        (folder / KEY_FILE).unlink(missing_ok=True)
        with suppress(OSError):  # something in it is not ours
            folder.rmdir()
    return before - _size(folder)


def shards(folder: Path) -> list[Path]:
    """The folders of a key's shards, by name."""
    return _named(folder, DIGEST)


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The folders in a folder whose whole name fits; none where there is no such folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir())
    return []


def begun_folder(folder: Path) -> Path:
    """A new hidden name for a shard that this process begins under a key."""
    return folder / f".building-{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes began under a key; what living ones began stays."""
    for begun in _named(folder, BEGUN):
        with suppress(FileNotFoundError):  # another process may have been quicker
            if not _being_written(begun):
                shutil.rmtree(begun)


def _being_written(begun: Path) -> bool:
    match = BEGUN.fullmatch(begun.name)
    assert match is not None
    if match["host"] != platform.node():
        return time.time() - begun.stat().st_mtime < ABANDONED
    try:
        os.kill(int(match["pid"]), 0)  # sends no signal: only checks whether the process exists
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, but belongs to another user
        return True
    return True


def discard(shard: Path) -> bool:
    """Remove a shard, whose name is free at once and for good; whether it was there."""
    hidden = begun_folder(shard.parent)
    try:
        shard.rename(hidden)
    except FileNotFoundError:
        return False
    shutil.rmtree(hidden)
    return True


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process may be removing it
                yield os.lstat(os.path.join(inside, name)).st_size


def format_size(size: int) -> str:
    """A number of bytes in words: 3.2 GiB."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} bytes"
