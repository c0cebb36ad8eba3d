"""SHA-256 of files, settings and texts; every digest that lands in a record, a key or a file name is made here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_digest(content: bytes | memoryview) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def text_digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return bytes_digest(text.encode())


def json_digest(values: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys; what JSON cannot hold goes by its `str`."""
    return text_digest(json.dumps(values, sort_keys=True, default=str))


def files_digest(paths: Iterable[Path], names: bool = False) -> str:
    """One SHA-256 of several files in the order given, over their digests and, with `names`, their names."""
    digest = hashlib.sha256()
    for path in paths:
        if names:
            digest.update(path.name.encode())
        digest.update(bytes.fromhex(sha256(path)))
    return digest.hexdigest()
