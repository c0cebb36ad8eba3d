"""SHA-256 of files, settings and texts, for all digests in records, keys and file names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hexadecimal."""
    return bytes_digest(text.encode())


def json_digest(values: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys; other types are hashed as their `str`."""
    return text_digest(json.dumps(values, sort_keys=True, default=str))


def files_digest(paths: Iterable[Path], names: bool = False) -> str:
    """Return one SHA-256 over the digests of several files, in that order, and with `names` over their names too."""
    digest = hashlib.sha256()
    for path in paths:
        if names:
            digest.update(path.name.encode())
        digest.update(bytes.fromhex(sha256(path)))
    return digest.hexdigest()
