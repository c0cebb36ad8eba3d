"""Paths that a user names: whether they are local, exist, or can be made; checked before anything is imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hf_ft.errors import UserError, nearest
from hf_ft.storage import check_apart, check_ours, is_first_process

LONGEST_NAME = 255
"""Bytes in the longest name of a file; asking for a longer one is an error to the system, not a no."""


def is_local(name: str) -> bool:
    """Whether a model or dataset name means something on this disk rather than on the Hub."""
    return os.path.exists(os.path.expanduser(name)) or (
        name.startswith(("/", "./", "../", "~"))
        or name.count("/") > 1
        or name.endswith((".csv", ".tsv", ".json", ".jsonl", ".parquet"))
    )


def check_path(name: str, kind: str) -> None:
    """Check that a local path exists; names of the Hub pass.

    Raises:
        UserError: it does not, with its nearest sibling.
    """
    path = Path(name).expanduser()
    impossible = "\0" in name or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts)
    if os.path.exists(path) or not (impossible or is_local(name)):
        return
    siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    near = nearest(path.name, siblings)
    parent = "" if os.path.isdir(path.parent) else f" ({_short(str(path.parent))} does not exist either)"
    others = "a Hub id, a folder or a file" if kind in ("model", "dataset") else "one"
    raise UserError(
        f"No such {kind}: {_short(name)}{parent}.",
        option=kind,
        value=name,
        hint=(f"Did you mean {path.parent / near}? " if near else "") + f"Use {others} that exists.",
    )


def check_place(output_dir: str, model: str = "", dataset: str = "") -> None:
    """Check that an output folder can be made, and that results would not mix with what they are made from.

    Raises:
        UserError: it cannot, or it is (in) the folder of the model or the dataset.
    """
    path = Path(output_dir).expanduser()
    if why := not_made(path.absolute()):
        raise UserError(
            f"No output folder {_short(output_dir)} can be made: {why}.",
            option="output_dir",
            value=output_dir,
            hint="Choose another folder.",
        )
    for kind, source in (("model", model), ("dataset", dataset)):
        if source:
            check_apart(path, Path(source).expanduser(), kind)


def check_output_dir(output_dir: str, model: str, dataset: str, replace: bool, resume: object) -> None:
    """Check an output folder: ours, and empty unless a run in it is to be resumed or replaced.

    Raises:
        UserError: it is not.
    """
    check_place(output_dir, model, dataset)
    path = Path(output_dir).expanduser()
    if not is_first_process() or check_ours(path, "run") == "nothing" or resume or replace:
        return  # the first process of several may have begun by now
    what = "a finished run" if (path / "run.json").exists() else "an interrupted run"
    raise UserError(
        f"The output folder {output_dir} already holds {what}.",
        option="output_dir",
        value=output_dir,
        hint="Choose another folder, continue an interrupted run with --resume, or replace it with "
        "--overwrite_output_dir.",
    )


def not_made(path: Path) -> str:
    """Why no folder or file of that name can be made or written to, empty where it can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8, which tokenizers refuse to write to"
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        return f"{there} is {'a file' if there.exists() else 'a link to nothing'}"
    try:
        tempfile.TemporaryFile(dir=there).close()  # root may write anywhere, but not into /proc
        longest = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST_NAME  # not on Windows
    except OSError:
        return f"{there} cannot be written to"
    long = [part for part in path.parts if len(os.fsencode(part)) > longest]
    if long or "\0" in str(path):
        return f"'{_short(long[0])}' has more than {longest} bytes" if long else "its name holds a null byte"
    return ""


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:60]}..."
