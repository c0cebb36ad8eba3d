"""Checkpoints on the disk: written whole or not at all, found again, told when damaged, and removed.

    OUT/checkpoints/<n>-<stage>/checkpoint-<step>/   what `Trainer` writes, and `sealed.json` with checksums
    OUT/checkpoints/<n>-<stage>/whole, merged, ...   the model at the end of the stage, where that is no checkpoint
    OUT/checkpoints/<n>-<stage>/begun.json           what was decided when the stage began
    OUT/checkpoints/<n>-<stage>/stage.json           the stage's result; it is there when the stage has ended
    OUT/checkpoints/<n>-<stage>/.writing/            what a killed process had begun

Nothing in here holds a path: the folder of a run can be moved, or called by another name.
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
"""Names of files in a checkpoint, for one whose seal is damaged."""
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
NATIVE = ("PytorchStreamWriter", "inline_container", "unexpected pos", "os error", "I/O error")
"""What torch and safetensors, which write files in C++ and Rust, say when the disk refuses."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to go on from: its folder, that of the best one so far, and whether no step was to follow it."""

    folder: Path
    best: Path | None
    over: bool


@contextmanager
def writing(folder: Path, what: str = "The checkpoint") -> Iterator[None]:
    """Turn what the disk refuses (it is full, a quota, a limit on files) into one `UserError`."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.errno in REFUSED else None
        if reason is None and any(words in str(error) for words in NATIVE):
            reason = "the disk takes no more" if isinstance(error, RuntimeError) else str(error)
        if reason is None:
            raise
        raise UserError(
            f"{what} cannot be written to {folder}: {reason}. Make room there, and go on with --resume."
        ) from error


@contextmanager
def whole(folder: Path, about: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A folder to write to that gets its name when all of it is on the disk, in place of what has it before."""
    begun = begin(folder)
    with writing(folder):
        try:
            yield begun
            finish(begun, folder, about or {})
        finally:
            shutil.rmtree(begun, ignore_errors=True)  # it has another name when all went well


def begin(folder: Path) -> Path:
    """An empty folder in which to write what will be `folder`."""
    begun = folder.parent / WRITING / folder.name
    shutil.rmtree(begun, ignore_errors=True)
    with writing(folder):
        begun.mkdir(parents=True)
    return begun


def finish(begun: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """Seal what was written, and give it its name."""
    seal(begun, about)
    discard(folder)
    begun.replace(folder)
    sync(folder.parent)


def discard(folder: Path) -> None:
    """Remove a folder whose name is free at once: nobody ever finds half of it."""
    rescue(folder, folder.parent.parent)
    hidden = folder.parent / WRITING / f"{folder.name}-removed"
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        hidden.parent.mkdir(exist_ok=True)
        folder.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def write_file(path: Path, about: Mapping[str, Any]) -> None:
    """Write a sealed JSON file, whole or not at all."""
    with writing(path):
        write_atomically(path, sealed(about).decode())


def read_file(path: Path) -> dict[str, Any] | None:
    """What `write_file` was given; None where it is missing.

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
    """The result of a stage that has ended, with all its weights there; None where it has to go on.

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
        notes.append(f"the end of stage '{_name(stage)}' is damaged ({error}): the stage goes on")
        (stage / RESULT).unlink(missing_ok=True)
        return None


def decided(stage: Path, notes: list[str]) -> dict[str, Any] | None:
    """What was decided when a stage began; None where it has not, or begins anew since nobody knows."""
    try:
        return read_file(stage / BEGUN)
    except Damaged as error:
        notes.append(f"the beginning of stage '{_name(stage)}' is damaged ({error}): it begins anew")
        clear(stage)
        return None


def newest(stage: Path, notes: list[str]) -> Checkpoint | None:
    """The newest checkpoint of a stage that is whole and whose best one is; None where the stage has to begin anew.

    Later ones are removed, since nothing may take them for the newest; `notes` says of each why.
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
            notes.append(f"{folder.name} of stage '{_name(stage)}' is damaged ({error}): it is left out")
            discard(folder)
    return None


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except Damaged as error:
        raise Damaged(f"in {folder.name}, the best so far, {error}") from error


def steps(stage: Path) -> list[Path]:
    """The checkpoints of a stage by step."""
    if not stage.is_dir():
        return []
    found = {path: match for path in stage.iterdir() if (match := STEP.fullmatch(path.name)) and path.is_dir()}
    return sorted(found, key=lambda path: int(found[path].group(1)))


def clear(stage: Path) -> None:
    """Remove the checkpoints of a stage that begins anew."""
    for folder in steps(stage):
        discard(folder)


def end(stage: Path, result: Mapping[str, Any], keep: bool) -> None:
    """Write down that a stage has ended; afterwards only the weights that its result names are needed."""
    write_file(stage / RESULT, result)
    for folder in [] if keep else steps(stage):
        if folder.name != Path(str(result["checkpoint"])).name:
            discard(folder)
    shutil.rmtree(stage / WRITING, ignore_errors=True)


def rotate(stage: Path, most: int | None, best: Path | None) -> None:
    """Remove the oldest checkpoints beyond so many; never the newest, nor the best."""
    there = [folder for folder in steps(stage) if (folder / SEAL).exists()]  # others are not ours
    if not most or most < 1:
        return
    needed = {there[-1], best} if there else set()
    spare = [folder for folder in there if folder not in needed]
    for folder in spare[: max(0, len(there) - max(most, len(there) - len(spare)))]:
        discard(folder)


def unanchored(folder: Path) -> None:
    """Take the path of the best checkpoint out of `trainer_state.json`: the seal has its name."""
    path = folder / "trainer_state.json"
    write_json(path, read_json(path) | {"best_model_checkpoint": None})


def remove(out: Path) -> None:
    """Remove all checkpoints of a run that has finished; afterwards it counts as such."""
    rescue(out / FOLDER, out / FOLDER)
    tidy(out)
    with suppress(FileNotFoundError):
        (out / FOLDER).replace(out / REMOVED)
        tidy(out)


def tidy(out: Path) -> None:
    """Remove what is left of the checkpoints of a run that has finished, where `remove` was interrupted."""
    shutil.rmtree(out / REMOVED, ignore_errors=True)


def rescue(folder: Path, place: Path) -> None:
    """Move what is not ours out of a folder that is about to be removed, and say where it is.

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
        print(f"{name} in {place.name} was put there by you: it is now in {kept.parent}", flush=True)


def _ours(folder: Path, place: Path) -> set[Path]:
    """The files that we wrote below a folder: those that seals list, the seals, and those that say how stages stand.

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
    """The files that a seal lists; where it is damaged, those that are called so."""
    try:
        return list(opened((folder / SEAL).read_bytes(), SEAL)["files"])
    except (OSError, Damaged):
        return [path.name for path in folder.iterdir() if WRITTEN.match(path.name)]


def _name(stage: Path) -> str:
    return stage.name.partition("-")[2]
