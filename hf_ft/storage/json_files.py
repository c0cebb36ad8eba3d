"""Reading and atomic writing of text and JSON files.

A file is written under a temporary name beside its own, flushed to disk and renamed when it is complete. A process that
is killed at any moment leaves the old file or the new one, never a partial one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or not UTF-8.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, laid out as `json_text` does."""
    write_atomically(path, json_text(content))


def json_text(content: Any) -> str:
    """Return a value as JSON text: one key per line, non-ASCII characters unescaped, a newline at the end.

    Bytes of file names that are not UTF-8 (lone surrogates) become JSON escapes, so that the file itself is UTF-8.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_json(content: Any) -> Any:
    """Return a value as a round trip through JSON does: tuples become lists, unsupported types become text."""
    return json.loads(json.dumps(content, default=str))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all, text in UTF-8; create missing folders.

    Raises:
        OSError: The file cannot be written. The temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, where the system supports it: a rename is durable only after that."""
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
