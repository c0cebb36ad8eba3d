"""Checkpoints on disk: written atomically, verified by checksums, found again for a resumed run, removed at its end.

    OUT/checkpoints/<n>-<stage>/checkpoint-<step>/   what `Trainer` writes, and `sealed.json` with checksums
    OUT/checkpoints/<n>-<stage>/whole, merged, ...   the model at the end of the stage, unless that is a checkpoint
    OUT/checkpoints/<n>-<stage>/begun.json           what was decided when the stage began
    OUT/checkpoints/<n>-<stage>/stage.json           the stage's result, written when the stage has ended
    OUT/checkpoints/<n>-<stage>/.writing/            unfinished files of a killed process

Nothing in here holds a path, so the folder of a run can be moved or renamed.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hf_ft.errors import UserError
from hf_ft.storage import (
    SEAL,
    Damaged,
    opened,
    output_folder,
    read_json,
    seal,
    sealed,
    sync,
    unsealed,
    write_atomically,
    write_json,
)

FOLDER, WRITING, KEPT = "checkpoints", ".writing", "checkpoints.kept"
REMOVED = f".local/{FOLDER}-removed"
RESULT, BEGUN = "stage.json", "begun.json"
STAGE, STEP = re.compile(r"\d+-.*"), re.compile(r"checkpoint-(\d+)")
ENDS = ("whole", "merged", "adapter")
"""Folders of the model at the end of a stage."""
WRITTEN = re.compile(
    r"(adapter|added|chat|config|generation|merges|model|optimizer|preprocessor|processor|pytorch|rng|scaler|scheduler"
    r"|special|spiece|tokenizer|trainer|training|vocab)[\w.-]*$"
)
"""Names of files that a checkpoint may have, for one whose list of files is damaged."""
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
NATIVE = ("PytorchStreamWriter", "inline_container", "unexpected pos", "os error", "I/O error")
"""Parts of the messages of torch (C++) and safetensors (Rust) when the disk refuses a write."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to resume from: its folder, that of the best one so far, and whether training was over after it."""

    folder: Path
    best: Path | None
    over: bool


@contextmanager
def writing(folder: Path, what: str = "The checkpoint", then: str = "continue with --resume") -> Iterator[None]:
    """Turn errors of the disk (full, over quota, too many files) into a `UserError`, which says what to do then."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.errno in REFUSED else None
        if reason is None and any(words in str(error) for words in NATIVE):
            reason = "the disk is full" if isinstance(error, RuntimeError) else str(error)
        if reason is None:
            raise
        raise UserError(
            f"{what} cannot be written to {folder}: {reason}. Free some space there, then {then}."
        ) from error


@contextmanager
def whole(folder: Path, about: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A folder to write to. At the end it is sealed and renamed to `folder`, which it replaces."""
    begun = begin(folder)
    with writing(folder):
        try:
            yield begun
            finish(begun, folder, about or {})
        finally:
            shutil.rmtree(begun, ignore_errors=True)  # it has another name when all went well


def begin(folder: Path) -> Path:
    """An empty temporary folder for what will be `folder`."""
    begun = folder.parent / WRITING / folder.name
    shutil.rmtree(begun, ignore_errors=True)
    with writing(folder):
        begun.mkdir(parents=True)
    return begun


def finish(begun: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """Seal a temporary folder and rename it to `folder`."""
    seal(begun, about)
    discard(folder)
    begun.replace(folder)
    sync(folder.parent)


def discard(folder: Path) -> None:
    """Remove a folder. It is renamed first, so that nobody finds half of it under its name."""
    rescue(folder, folder.parent.parent)
    hidden = folder.parent / WRITING / f"{folder.name}-removed"
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        hidden.parent.mkdir(exist_ok=True)
        folder.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def write_file(path: Path, about: Mapping[str, Any]) -> None:
    """Write a sealed JSON file atomically."""
    with writing(path):
        write_atomically(path, sealed(about).decode())


def read_file(path: Path) -> dict[str, Any] | None:
    """The content of a file by `write_file`; None if there is none.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        return opened(path.read_bytes(), path.name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error


def result_of(stage: Path, out: Path, names: Set[str], notes: list[str]) -> dict[str, Any] | None:
    """The result of a stage that has ended and whose weights are intact; None if it has to continue.

    `names` are those that a result has in this version.
    """
    try:
        found = read_file(stage / RESULT)
        if found is not None:
            if found.keys() != names:
                raise Damaged(f"{RESULT} was written by another version")
            for folder in {out / str(found["checkpoint"]), *stage.glob("adapter")}:
                unsealed(folder)
        return found
    except Damaged as error:
        notes.append(f"the end of stage '{_name(stage)}' is damaged ({error}): it continues from its checkpoints")
        (stage / RESULT).unlink(missing_ok=True)
        return None


def decided(stage: Path, notes: list[str]) -> dict[str, Any] | None:
    """What was decided when a stage began; None if it has not begun or the file is damaged."""
    try:
        return read_file(stage / BEGUN)
    except Damaged as error:
        notes.append(f"the beginning of stage '{_name(stage)}' is damaged ({error}): it starts over")
        clear(stage)
        return None


def newest(stage: Path, notes: list[str]) -> Checkpoint | None:
    """The newest intact checkpoint of a stage whose best one is intact, too; None if the stage has to start over.

    Damaged ones are removed, so that none is taken for the newest; `notes` gets the reason for each.
    """
    shutil.rmtree(stage / WRITING, ignore_errors=True)
    for folder in reversed(steps(stage)):
        try:
            about = unsealed(folder)
            best = stage / about["best"] if about["best"] else None
            if best and best != folder:
                with _named(best):
                    unsealed(best)
            return Checkpoint(folder, best, about["over"])
        except Damaged as error:
            notes.append(f"{folder.name} of stage '{_name(stage)}' is damaged ({error}): skipped")
            discard(folder)
    return None


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        raise Damaged(f"in {folder.name}, the best so far, {error}") from error


def steps(stage: Path) -> list[Path]:
    """The checkpoints of a stage, sorted by step."""
    if not stage.is_dir():
        return []
    found = {path: match for path in stage.iterdir() if (match := STEP.fullmatch(path.name)) and path.is_dir()}
    return sorted(found, key=lambda path: int(found[path].group(1)))


def clear(stage: Path) -> None:
    """Remove the checkpoints of a stage that starts over."""
    for folder in steps(stage):
        discard(folder)


def end(stage: Path, result: Mapping[str, Any], keep: bool) -> None:
    """Record that a stage has ended. From then on only the weights that its result names are needed."""
    write_file(stage / RESULT, result)
    for folder in [] if keep else steps(stage):
        if folder.name != Path(str(result["checkpoint"])).name:
            discard(folder)
    shutil.rmtree(stage / WRITING, ignore_errors=True)


def rotate(stage: Path, most: int | None, kept: Set[Path]) -> None:
    """Remove the oldest checkpoints until `most` are left, but never the newest or one of `kept`."""
    there = [folder for folder in steps(stage) if (folder / SEAL).exists()]  # others are not ours
    if not most or most < 1:
        return
    needed = {there[-1], *kept} if there else set()
    spare = [folder for folder in there if folder not in needed]
    for folder in spare[: max(0, len(there) - max(most, len(there) - len(spare)))]:
        discard(folder)


def unanchored(folder: Path) -> None:
    """Remove the path of the best checkpoint from `trainer_state.json`; the seal has its name."""
    path = folder / "trainer_state.json"
    write_json(path, read_json(path) | {"best_model_checkpoint": None})


def remove(out: Path) -> None:
    """Remove all checkpoints of a finished run, which marks it as finished."""
    rescue(out / FOLDER, out / FOLDER)
    tidy(out)
    with suppress(FileNotFoundError):
        (out / FOLDER).replace(out / REMOVED)
        tidy(out)


def tidy(out: Path) -> None:
    """Remove what an interrupted `remove` left of the checkpoints of a finished run."""
    shutil.rmtree(out / REMOVED, ignore_errors=True)


def rescue(folder: Path, place: Path) -> None:
    """Move files that are not ours out of a folder that is about to be removed, and print where they are.

    `place` is the folder `checkpoints` of the run. What is moved goes first, so that it is not lost where the process
    ends in between.
    """
    mine = _ours(folder, place)
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in found:
        name = path.relative_to(place)
        if path in mine or name.parts[1:2] == (WRITING,):
            continue
        kept = place.with_name(KEPT) / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        path.replace(output_folder.free_name(kept))
        print(f"{name} in {place.name} is your file: it was moved to {kept.parent}", flush=True)


def _ours(folder: Path, place: Path) -> set[Path]:
    """The files that we wrote below a folder: those that seals list, the seals, and the state of stages.

    Only where a run writes them: a user's copy of a checkpoint has a seal as well.
    """
    stages = [path for path in place.glob("*") if STAGE.fullmatch(path.name) and not path.is_symlink()]
    found = {stage / name for stage in stages for name in (RESULT, BEGUN)}
    found |= {path for stage in stages for name in (RESULT, BEGUN) for path in stage.glob(f".{name}.*.part")}
    for inner in (inner for stage in stages for inner in stage.iterdir()):
        if inner != folder and folder not in inner.parents:
            continue
        if (inner.name in ENDS or STEP.fullmatch(inner.name)) and (inner / SEAL).is_file() and not inner.is_symlink():
            found |= {inner / name for name in (SEAL, *_listed(inner))}
    return found


def _listed(folder: Path) -> list[str]:
    """The files that a seal lists; if it is damaged, those with usual names."""
    try:
        return list(opened((folder / SEAL).read_bytes(), SEAL)["files"])
    except (OSError, Damaged):
        return [path.name for path in folder.iterdir() if WRITTEN.match(path.name)]


def _name(stage: Path) -> str:
    return stage.name.partition("-")[2]
