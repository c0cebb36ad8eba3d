"""Files and folders with checksums, whose damage is detected when they are read.

Files that are written under a temporary name, flushed to disk (fsync) and renamed last are complete or absent, whenever
the process or the machine stops. Checksums detect later changes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_ft.storage.hashing import sha256, text_digest
from hf_ft.storage.json_files import flush_folder

SEAL = "sealed.json"
"""The file of a sealed folder that lists the checksums of all others."""


class Damaged(Exception):
    """A file is missing or differs from what was written."""


def sealed(about: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file that begins with the checksum of the rest.

    Does not use `json_text`, because the checksum depends on the exact text.
    """
    digest = text_digest(json.dumps(about))
    return json.dumps({"sha256": digest, **about}, indent=1).encode()


def opened(content: bytes, name: str) -> dict[str, Any]:
    """Return the value that `sealed` was called with.

    Args:
        content: The content of the file.
        name: The name of the file, for the error.

    Raises:
        Damaged: The content is not what `sealed` returned.
    """
    try:
        about = json.loads(content)
        del about["sha256"]
        if sealed(about) == content:
            return dict(about)
    except (ValueError, TypeError, KeyError):
        pass
    raise Damaged(f"{name} is not what was written")


def sync(path: Path) -> None:
    """Flush a file to disk, or the entries of a folder where the system supports it."""
    if path.is_dir():
        flush_folder(path)
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Flush all files of a folder to disk, and write their checksums with `about` into `sealed.json`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    for path in files:
        sync(path)
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / SEAL).write_bytes(sealed({**about, "files": digests}))
    for path in (folder / SEAL, *(inner for inner in folder.rglob("*") if inner.is_dir()), folder):
        sync(path)


def unsealed(folder: Path) -> dict[str, Any]:
    """Return the `about` of a sealed folder, after comparing every file with its checksum.

    Raises:
        Damaged: Files are missing or differ from what was written.
    """
    try:
        about = opened((folder / SEAL).read_bytes(), SEAL)
        for name, digest in about.pop("files").items():
            if sha256(folder / name) != digest:
                raise Damaged(f"{name} is not what was written")
    except OSError as error:
        name = Path(str(error.filename)).relative_to(folder) if error.filename else "a file"
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise Damaged("it is incomplete" if str(name) == SEAL else f"{name} {what}") from error
    return about
