"""Files that say themselves whether they are whole: on the disk before they get their name, with checksums inside.

What is written under another name, brought to the disk (fsync) and renamed last is there as a whole or not at all,
whenever the process or the machine stops. What happens to it later, a checksum shows.
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
"""The file of a sealed folder that lists all others."""


class Damaged(Exception):
    """A file is not what was written; says which and how."""


def sealed(about: Mapping[str, Any]) -> bytes:
    """Return the text of a JSON file that begins with the checksum of the rest.

    Laid out here, not by `json_text`: the checksum covers this exact text.
    """
    digest = text_digest(json.dumps(about))
    return json.dumps({"sha256": digest, **about}, indent=1).encode()


def opened(content: bytes, name: str) -> dict[str, Any]:
    """Return what `sealed` was called with.

    Raises:
        Damaged: any other text than it makes; `name` is that of the file.
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
    """Bring a file to the disk, or the names in a folder where the system can do that."""
    if path.is_dir():
        flush_folder(path)
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def seal(folder: Path, about: Mapping[str, Any]) -> None:
    """Bring all files of a folder to the disk, and write beside them what they are: their checksums, and `about`."""
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
        Damaged: files are missing or are not what was written.
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
