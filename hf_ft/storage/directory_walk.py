"""Listing the files below a folder, with each real folder read once, however many symbolic links lead to it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from hf_ft.errors import UserError, shorten


@dataclass
class Found:
    """The files below a folder and the links that were skipped, as relative paths with `/`.

    Args:
        files: The files, sorted.
        repeated: Links to folders that are read elsewhere, or that contain the folder itself.
        broken: Links whose target does not exist.
    """

    files: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return a sentence for each kind of link that was skipped."""
        notes = []
        if self.repeated:
            listed = shorten(map(readable, self.repeated), 5)
            notes.append(f"Symbolic links skipped, since each real folder is read once: {listed}.")
        if self.broken:
            notes.append(f"Symbolic links whose target does not exist: {shorten(map(readable, self.broken), 5)}.")
        return notes


def files_below(root: Path) -> Found:
    """Return all files below `root`, without hidden ones and `__MACOSX`.

    Links to folders are followed after all real folders of `root`, and only to folders that have not been read yet. A
    link to a folder that contains `root` is not followed, because it would include everything beside `root`.

    Raises:
        UserError: A folder cannot be read.
    """
    found, seen = Found(), set[str]()
    above = {str(parent) for parent in root.resolve().parents}
    waiting = [str(root)]
    for start in waiting:  # the list grows: links are read after the real folders
        if os.path.realpath(start) in seen | above:
            found.repeated.append(_relative(start, root))
            continue
        for folder, folders, names in os.walk(start, onerror=_refuse):
            seen.add(os.path.realpath(folder))
            shown = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            links = [name for name in shown if os.path.islink(os.path.join(folder, name))]
            waiting += [os.path.join(folder, name) for name in links]
            real = [name for name in shown if name not in links]
            folders[:] = [name for name in real if os.path.realpath(os.path.join(folder, name)) not in seen]
            for name in names:
                path = os.path.join(folder, name)
                if not name.startswith("."):
                    (found.files if os.path.exists(path) else found.broken).append(_relative(path, root))
    found.files.sort()
    return found


def _relative(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"The folder {readable(str(error.filename))} cannot be read: {error.strerror}.") from error


def readable(name: str) -> str:
    """Return a name with bytes that are not UTF-8 escaped, so that it can be printed."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_names(paths: Iterable[str]) -> None:
    """Check that names are valid UTF-8: neither a table nor a model config can store others.

    Raises:
        UserError: Some are not; lists them.
    """
    bad = [path for path in paths if any("\udc80" <= letter <= "\udcff" for letter in path)]
    if bad:
        raise UserError(
            f"{len(bad):,} of the names are not valid UTF-8: {shorten(map(readable, bad), 3)}. Rename "
            "such files and folders, for example with `convmv -f latin1 -t utf8 -r --notest FOLDER`."
        )
