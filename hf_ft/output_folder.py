"""Output folders: which of them are ours, which files in them we wrote, and who is writing there now.

`FOLDER/.local/manifest.json` makes a folder ours. It names the kind of result and, for each file that was written,
its size and SHA-256. Nothing but these files is ever removed, replaced or published, so what a user puts into the
folder stays. A file of ours that the user has changed since is the user's too: it is moved aside, never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_ft.lookup import UserError, shorten

LOCAL = ".local"
"""The part of an output folder that is never published."""
MANIFEST = f"{LOCAL}/manifest.json"
SCHEMA = 1

Entry = dict[str, Any]
"""`size` and `sha256` of a file; `before` is the SHA-256 of what it replaced, in case the process ended in between."""


# --- Files ------------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all: under a temporary name beside it, flushed to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with begun.open("wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        begun.replace(path)
    except BaseException:
        with suppress(OSError):
            begun.unlink()
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can: a rename is safe only after that."""
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def entry_of(path: Path) -> Entry:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def is_unchanged(path: Path, entry: Entry) -> bool:
    """Whether a regular file, not a link to one, is what the manifest says of it."""
    if path.is_symlink() or not path.is_file():
        return False
    found = entry_of(path)["sha256"]
    return found in (entry["sha256"], entry.get("before"))


# --- Manifest ---------------------------------------------------------------------------------------------------------


def kind_of(folder: Path) -> str | None:
    """The kind of result that a folder was made for (`run`, `comparison`, `depth`, `ranking`); None if not by us."""
    found = _manifest(folder)
    return found["kind"] if found else None


def files_of(folder: Path) -> dict[str, Entry]:
    """The files that we wrote into a folder, by their names relative to it."""
    found = _manifest(folder)
    return dict(found["files"]) if found else {}


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(found["kind"], str) and isinstance(found["files"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if known else None


def _write_manifest(folder: Path, kind: str, files: dict[str, Entry]) -> None:
    content = {"schema_version": SCHEMA, "kind": kind, "files": dict(sorted(files.items()))}
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def mark(folder: Path, kind: str) -> None:
    """Make a folder ours, for one kind of result; the files that its manifest names already stay in it."""
    if kind_of(folder) != kind:
        _write_manifest(folder, kind, {})


def record(folder: Path, entries: dict[str, Entry]) -> None:
    """Add files to the manifest, before they are written or after."""
    found = _manifest(folder)
    kind, files = (found["kind"], found["files"]) if found else ("run", {})
    for name, entry in entries.items():
        known = files.get(name)
        replaced = known["sha256"] if known and known["sha256"] != entry["sha256"] else None
        files[name] = {**entry, **({"before": replaced} if replaced else {})}
    _write_manifest(folder, kind, files)


def record_files(folder: Path, paths: Iterable[Path]) -> None:
    """Add files that stand in the folder to its manifest."""
    record(folder, {path.relative_to(folder).as_posix(): entry_of(path) for path in paths})


# --- Writing ----------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> None:
    """Write a text file of ours into an output folder; what a user put under that name is moved aside."""
    content = text.encode("utf-8")
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _make_way(folder, name, entry)
    record(folder, {name: entry})
    write_atomically(folder / name, text)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty folder whose files take their places in the output folder at the end, if nothing was raised.

    So what a library writes is known as ours, whatever it is called, and a result is never there in half.
    """
    new = folder / LOCAL / "new"
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed; nobody else writes there
    new.mkdir(parents=True)
    try:
        yield new
        _settle(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _settle(folder: Path, new: Path) -> None:
    entries = {path.relative_to(new).as_posix(): entry_of(path) for path in sorted(new.rglob("*")) if path.is_file()}
    for name, entry in entries.items():
        _make_way(folder, name, entry)
    record(folder, entries)
    for name in entries:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (new / name).open("rb") as file:
            os.fsync(file.fileno())
        (new / name).replace(target)
    for parent in {(folder / name).parent for name in entries}:
        flush_folder(parent)


def _make_way(folder: Path, name: str, coming: Entry) -> None:
    """Move aside what stands where a file of ours is to be written, unless it is ours or the same."""
    path = folder / name
    for parent in reversed(path.relative_to(folder).parents[:-1]):  # a file, or a link out of the folder
        if os.path.lexists(folder / parent) and ((folder / parent).is_symlink() or not (folder / parent).is_dir()):
            _move_aside(folder / parent)
    if not os.path.lexists(path) or is_unchanged(path, files_of(folder).get(name, coming)):
        return
    if not is_unchanged(path, coming):
        _move_aside(path)


def _move_aside(path: Path) -> None:
    tries = (path.with_name(f"{path.name}.kept{number}") for number in ("", *(f"-{n}" for n in range(2, 1000))))
    kept = next(other for other in tries if not os.path.lexists(other))
    path.rename(kept)
    print(f"{path.name} was changed or put there by you: it is now {kept}", flush=True)


# --- Removing ---------------------------------------------------------------------------------------------------------


def remove(folder: Path, below: str = "") -> None:
    """Remove the files that we wrote into an output folder, or into one folder `below` it, and nothing else.

    One that was changed since is moved aside. Folders that are empty then go, too.
    """
    files = files_of(folder)
    mine = [name for name in files if not below or name.startswith(f"{below}/")]
    for name in mine:
        path = folder / name
        if is_unchanged(path, files[name]):
            path.unlink()
        elif os.path.lexists(path):
            _move_aside(path)
    kind = kind_of(folder)
    if kind is not None:
        _write_manifest(folder, kind, {name: entry for name, entry in files.items() if name not in mine})
    prune(folder, {(folder / name).parent for name in mine})


def prune(root: Path, folders: Iterable[Path]) -> None:
    """Remove folders that are empty, and those around them up to `root`, which stays."""
    for folder in sorted(set(folders), key=lambda path: -len(path.parts)):
        while folder != root and root in folder.parents:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            folder = folder.parent


# --- Folders that hold one thing of ours, such as a checkpoint --------------------------------------------------------

SEAL = "files.json"


def seal(folder: Path) -> None:
    """Write into a folder, all of whose files are ours, what they are: `damage` and `remove_sealed` go by that."""
    files = {
        path.relative_to(folder).as_posix(): entry_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
    write_atomically(folder / SEAL, json.dumps(files, indent=1) + "\n")


def sealed_files(folder: Path) -> dict[str, Entry] | None:
    """What `seal` wrote; None where there is nothing that can be read."""
    try:
        found = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def damage(folder: Path) -> str:
    """What is wrong with a sealed folder: a file that is missing or changed; empty where nothing is."""
    files = sealed_files(folder)
    if not files:
        return f"it is not complete (no {SEAL})"
    return next(
        (f"{name} is missing or damaged" for name, entry in files.items() if not _intact(folder, name, entry)), ""
    )


def _intact(folder: Path, name: str, entry: Entry) -> bool:
    path = folder / name
    return path.is_file() and path.stat().st_size == entry["size"] and is_unchanged(path, entry)


def remove_sealed(folder: Path) -> None:
    """Remove the files of a sealed folder, and the folder unless a user has put something into it."""
    files = sealed_files(folder)
    if files is None:
        return
    for name in (*files, SEAL):
        (folder / name).unlink(missing_ok=True)
    prune(folder.parent, {folder, *((folder / name).parent for name in files)})


# --- Lock -------------------------------------------------------------------------------------------------------------

LOCK, HOLDER = f"{LOCAL}/lock", f"{LOCAL}/holder.json"


@contextmanager
def locked(folder: Path, kind: str) -> Iterator[None]:
    """Hold an output folder for one process, and mark it as ours; only the first of several in a distributed run.

    It is a lock of the operating system's, so a process that is killed leaves none.

    Raises:
        UserError: another process writes there.
    """
    if not is_first_process():
        yield
        return
    from filelock import FileLock, Timeout

    folder = folder.expanduser()
    made = [path for path in (folder / LOCAL, *(folder / LOCAL).parents) if not path.exists()]
    (folder / LOCAL).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"The output folder {folder} is in use{_holder(folder)}. Wait until that has ended, or choose another "
            "folder."
        ) from None
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        write_atomically(folder / HOLDER, json.dumps({"pid": os.getpid(), "started": started}) + "\n")
        mark(folder, kind)
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink()
            if state_of(folder) == "nothing":  # a mistake in the data, say: leave no trace
                (folder / MANIFEST).unlink()
                (folder / LOCK).unlink()
                for path in made:
                    path.rmdir()
        lock.release()


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the first of several, as `torchrun` and MPI number them."""
    names = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def _holder(folder: Path) -> str:
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f" by process {found['pid']} since {found['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


# --- Which folder may be used -----------------------------------------------------------------------------------------


def state_of(folder: Path) -> str:
    """What an output folder holds: `nothing`, `files` (not ours), else the kind of result that was begun there."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return "nothing"
    kind = kind_of(folder)
    if kind is None:
        return "files"
    bare = {folder / name for name in (MANIFEST, LOCK, HOLDER)}
    return kind if any(path not in bare and not path.is_dir() for path in folder.rglob("*")) else "nothing"


def others_in(folder: Path) -> str:
    """The first names in a folder that is not ours, for a message."""
    return shorten(sorted(path.name for path in folder.iterdir()), 3)
