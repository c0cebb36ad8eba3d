"""Output folders: their manifest of files that hf_ft wrote, and the lock of the process that writes there.

`FOLDER/.local/manifest.json` marks a folder as created by hf_ft. It records the kind of result and, for each file that
was written, its size and SHA-256. Only these files are ever removed, replaced or published, so files that a user adds
stay. A listed file that the user has edited counts as the user's: it is moved aside, never overwritten.
"""

from __future__ import annotations

import atexit
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError, shorten
from hf_ft.storage.hashing import bytes_digest, sha256
from hf_ft.storage.json_files import flush_folder, read_json, write_atomically, write_json

LOCAL = ".local"
"""The folder inside an output folder that is never published."""
MANIFEST = f"{LOCAL}/manifest.json"
SCHEMA = 1

Entry = dict[str, Any]
"""`size` and `sha256` of a file; `before` is the SHA-256 of the file it replaces, if the process ends in between."""


# --- Files ------------------------------------------------------------------------------------------------------------


def entry_of(path: Path) -> Entry:
    """Return size and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def is_unchanged(path: Path, entry: Entry) -> bool:
    """Return whether a path is a regular file, not a link, with the content that the manifest records."""
    if path.is_symlink() or not path.is_file():
        return False
    found = entry_of(path)["sha256"]
    return found in (entry["sha256"], entry.get("before"))


# --- Manifest ---------------------------------------------------------------------------------------------------------


def kind_of(folder: Path) -> str | None:
    """Return the kind of result in a folder, a key of `KINDS`; None if hf_ft did not create the folder."""
    found = _manifest(folder)
    return found["kind"] if found else None


def files_of(folder: Path) -> dict[str, Entry]:
    """Return the files that hf_ft wrote into a folder, by their names relative to it."""
    found = _manifest(folder)
    return dict(found["files"]) if found else {}


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    try:
        found = read_json(path)
        known = isinstance(found["kind"], str) and isinstance(found["files"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if known else None


def _write_manifest(folder: Path, kind: str, files: dict[str, Entry]) -> None:
    content = {"schema_version": SCHEMA, "kind": kind, "files": dict(sorted(files.items()))}
    write_json(folder / MANIFEST, content)


def mark(folder: Path, kind: str) -> None:
    """Create the manifest of a folder for one kind of result; a manifest of the same kind keeps its files."""
    if kind_of(folder) != kind:
        _write_manifest(folder, kind, {})


def record(folder: Path, entries: dict[str, Entry]) -> None:
    """Add files to the manifest, before or after they are written; do nothing in a folder without one."""
    found = _manifest(folder)
    if found is None:
        return
    kind, files = found["kind"], found["files"]
    for name, entry in entries.items():
        known = files.get(name)
        replaced = known["sha256"] if known and known["sha256"] != entry["sha256"] else None
        files[name] = {**entry, **({"before": replaced} if replaced else {})}
    _write_manifest(folder, kind, files)


def record_files(folder: Path, paths: Iterable[Path]) -> None:
    """Add files that are already in the folder to its manifest."""
    record(folder, {path.relative_to(folder).as_posix(): entry_of(path) for path in paths})


# --- Writing ----------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, content: str | bytes) -> None:
    """Write a file into an output folder and its manifest; move a user's file of that name aside."""
    content = content.encode("utf-8") if isinstance(content, str) else content
    entry = {"size": len(content), "sha256": bytes_digest(content)}
    make_way(folder, name, entry)
    record(folder, {name: entry})
    write_atomically(folder / name, content)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield an empty folder whose files move into the output folder at the end, unless the block raises.

    The manifest then lists every file that a library writes, whatever its name, and a result is complete or absent.
    """
    new = folder / LOCAL / "new"
    shutil.rmtree(new, ignore_errors=True)  # left by a killed process: this one has the lock
    new.mkdir(parents=True)
    try:
        yield new
        _settle(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        prune(folder, [new.parent])


def _settle(folder: Path, new: Path) -> None:
    entries = {path.relative_to(new).as_posix(): entry_of(path) for path in sorted(new.rglob("*")) if path.is_file()}
    for name, entry in entries.items():
        make_way(folder, name, entry)
    record(folder, entries)
    for name in entries:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (new / name).open("rb") as file:
            os.fsync(file.fileno())
        (new / name).replace(target)
    for parent in {(folder / name).parent for name in entries}:
        flush_folder(parent)


def make_way(folder: Path, name: str, coming: Entry | None = None) -> None:
    """Move aside a file at a path about to be written, unless it is listed and unchanged, or equals the new one."""
    path = folder / name
    for parent in reversed(path.relative_to(folder).parents[:-1]):  # a file, or a link out of the folder
        if os.path.lexists(folder / parent) and ((folder / parent).is_symlink() or not (folder / parent).is_dir()):
            _move_aside(folder / parent)
    known = [entry for entry in (files_of(folder).get(name), coming) if entry is not None]
    if os.path.lexists(path) and not any(is_unchanged(path, entry) for entry in known):
        _move_aside(path)


def free_name(path: Path) -> Path:
    """Return the path, with a number appended if it exists."""
    tries = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(other for other in tries if not os.path.lexists(other))


def _move_aside(path: Path) -> None:
    kept = free_name(path.with_name(f"{path.name}.kept"))
    path.rename(kept)
    print(f"{path.name} is not as hf_ft wrote it, so it was moved to {kept}", flush=True)


# --- Removing ---------------------------------------------------------------------------------------------------------


def remove(folder: Path, below: str = "") -> None:
    """Remove the files that the manifest lists, or only those in the subfolder `below`, and nothing else.

    Edited files are moved aside. Folders that become empty are removed.
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


def discard(folder: Path) -> None:
    """Remove an output folder whose files were removed, unless a user added some."""
    if state_of(folder) == "nothing":
        for name in (MANIFEST, LOCK, HOLDER):
            (folder / name).unlink(missing_ok=True)
        prune(folder.parent, [folder / LOCAL])


def prune(root: Path, folders: Iterable[Path]) -> None:
    """Remove empty folders and their empty parents, up to but not including `root`."""
    for folder in sorted(set(folders), key=lambda path: -len(path.parts)):
        while folder != root and root in folder.parents:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            folder = folder.parent


# --- Which folder may be used -----------------------------------------------------------------------------------------

KINDS = {
    "run": "a training run",
    "comparison": "a comparison",
    "search": "a depth search",
    "ranking": "a ranking",
    "export": "an export",
}
LOCK, HOLDER = f"{LOCAL}/lock", f"{LOCAL}/holder.json"


def state_of(folder: Path) -> str:
    """Return what an output folder contains: `nothing`, `files` (not written by hf_ft), or the kind of result."""
    if not folder.is_dir():
        return "nothing"
    bare = {folder / name for name in (LOCAL, MANIFEST, LOCK, HOLDER)}  # written when a process starts
    there = (path for path in folder.rglob("*") if path not in bare)
    if all(path.parent == folder / LOCAL and path.suffix == ".part" for path in there):
        return "nothing"
    return kind_of(folder) or "files"


def check_ours(folder: Path, kind: str) -> str:
    """Return the state of a folder, `nothing` or the wanted kind of result.

    Raises:
        UserError: It contains something else, which no option of hf_ft removes.
    """
    state = state_of(folder)
    if state == "files":
        found = shorten(sorted(path.name for path in folder.iterdir()), 3)
        raise UserError(
            f"The output folder {folder} holds files that hf_ft did not write ({found}), and neither --resume nor "
            "--overwrite_output_dir touches these. Choose another folder."
        )
    if state not in ("nothing", kind):
        held = KINDS.get(state, state)
        raise UserError(f"The output folder {folder} holds {held}, not {KINDS[kind]}. Choose another folder.")
    return state


def check_apart(folder: Path, source: Path, what: str) -> None:
    """Check that an output folder does not overlap the model or data it is made from, also through links.

    Raises:
        UserError: The folder is the source or lies inside it, or contains the source model.
    """
    if not source.exists():
        return
    around = [folder.resolve(), *folder.resolve().parents]
    if _same(around[0], source):
        raise UserError(f"The output folder {folder} is the {what}'s own folder. Choose another folder.")
    if any(_same(parent, source) for parent in around[1:]):
        raise UserError(f"The output folder {folder} lies inside the {what} {source}. Choose another folder.")
    if what == "model" and any(_same(parent, around[0]) for parent in source.resolve().parents):
        raise UserError(f"The output folder {folder} holds the {what} {source}. Choose another folder.")


def _same(one: Path, other: Path | str) -> bool:
    """Return whether two paths are the same file or folder, also through links, bind mounts and other spellings."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # no such file, or an invalid name
        return False


def check_new_file(path: Path, option: str, inputs: Iterable[str], overwrite: bool) -> None:
    """Check that a path can be written: it does not exist, unless `overwrite` is set, and is never an input.

    Raises:
        UserError: It exists, is a folder, or is an input.
    """
    if any(_same(path, os.path.expanduser(one)) for one in inputs):
        raise UserError(f"{option} {path} is an input itself, which is never overwritten. Choose another file.")
    if os.path.isdir(path):
        raise UserError(f"{option} {path} is a folder. Give the name of a file.")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{option} {path} exists. Choose another file, or add --overwrite to replace it.")


# --- Lock -------------------------------------------------------------------------------------------------------------

_HELD: dict[Path, ExitStack] = {}
"""Folders that this process has locked; `let_go` releases the locks that `hold` acquired."""


@contextmanager
def locked(folder: Path, kind: str) -> Iterator[None]:
    """Lock an output folder within the block and create its manifest, in the first process of a distributed run only.

    The lock is the operating system's (`filelock`), so a killed process leaves none.

    Raises:
        UserError: Another process writes there, or the folder contains something else.
    """
    if not is_first_process():
        yield
        return
    from filelock import FileLock, Timeout

    check_ours(folder, kind)
    made = [path for path in (folder / LOCAL, *(folder / LOCAL).parents) if not path.exists()]
    try:
        (folder / LOCAL).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"The output folder {folder} cannot be made: {why}. Choose another folder.") from None
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"The output folder {folder} is in use{_holder(folder)}. Wait until that has ended, or choose another "
            "folder."
        ) from None
    held = folder.resolve()
    _HELD[held] = ExitStack()
    try:
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(folder / HOLDER, {"pid": os.getpid(), "started": started})
        mark(folder, kind)
        yield
    finally:
        del _HELD[held]
        with suppress(OSError):
            (folder / HOLDER).unlink()
            if state_of(folder) == "nothing":  # for example after an error in the data: leave no trace
                (folder / MANIFEST).unlink()
                (folder / LOCK).unlink()
                for path in made or [folder / LOCAL]:
                    path.rmdir()
        lock.release()


def locked_if_ours(folder: Path, kind: str) -> AbstractContextManager[None]:
    """Lock an output folder of that kind; do nothing for any other folder, such as one with a copied record."""
    return locked(folder, kind) if kind_of(folder) == kind else nullcontext()


def hold(folder: Path, kind: str) -> None:
    """Lock an output folder like `locked`, until `let_go` or the end of the process; do nothing if it is locked."""
    if is_held(folder):
        return
    stack = ExitStack()
    stack.enter_context(locked(folder, kind))
    if is_first_process():
        _HELD[folder.resolve()] = stack
        atexit.register(let_go, folder)  # before the interpreter tears this module down


def let_go(folder: Path) -> None:
    """Release the lock that `hold` acquired; a folder that was already locked before stays locked."""
    _HELD.get(folder.resolve(), ExitStack()).close()


@contextmanager
def let_go_if_raised(folder: Path) -> Iterator[None]:
    """Release the lock of a folder if the block raises: in a notebook, the same process may use it again."""
    try:
        yield
    except BaseException:
        let_go(folder)
        raise


RANKS = (
    ("RANK", "WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
"""Environment variables of rank and world size, as set by `torchrun` and MPI."""


def is_first_process() -> bool:
    """Return whether this is the only process of a run, or the first of several.

    A rank counts only together with its world size: `RANK` alone may mean anything, for example the rank of LoRA.
    """
    for rank, size in RANKS:
        several = os.environ.get(size, "")
        if rank in os.environ and several.isdecimal() and int(several) > 1:
            return os.environ[rank] == "0"
    return True


def is_held(folder: Path) -> bool:
    """Return whether this process has locked a folder."""
    return folder.resolve() in _HELD


def _holder(folder: Path) -> str:
    """Return which process has locked a folder, else ""; wait briefly, because it is recorded after locking."""
    for _ in range(10):
        try:
            found = read_json(folder / HOLDER)
            return f" by process {found['pid']} since {found['started']}"
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.1)
    return ""
