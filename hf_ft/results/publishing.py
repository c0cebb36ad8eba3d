"""Publishing a result folder: which files may leave the machine, and the checks before.

Only files that the run wrote are published, unchanged; other files in the folder stay. Only cards may be edited, since
they are meant to be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hf_ft.errors import UserError, shorten
from hf_ft.records import RunRecord, read_record
from hf_ft.results.secrets import find_leaks
from hf_ft.storage import files_of, is_unchanged, kind_of, read_json

CARDS = ("README.md", "adapter/README.md")
"""Files that may be edited and are published as they are now."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REQUIRED = ("run.json", "config.json")


def publishable(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of a result folder that may be published, and those that stay local, relative to the folder.

    Figures and cards that were removed since the run are skipped.

    Raises:
        UserError: The folder contains no finished run.
    """
    if not (folder / "run.json").exists():
        raise UserError(f"{folder} holds no finished run (no run.json in it). Give the --output_dir of a training run.")
    if kind_of(folder) != "run":
        raise UserError(
            f"{folder} has no manifest of a training run (.local/manifest.json), so which files belong to it is not "
            "known. Give the --output_dir of a training run, as it was written."
        )
    mine = {Path(name) for name in files_of(folder) if not name.startswith(".")}
    gone = {name for name in mine if _may_be_gone(name) and not os.path.lexists(folder / name)}
    every = {path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    return sorted(mine - gone), sorted(every - mine)


def _may_be_gone(name: Path) -> bool:
    return name.parts[0] == "figures" or name.as_posix() in CARDS


def problems(folder: Path, files: list[Path]) -> list[str]:
    """Return the problems of files to be published; empty if all are as the run wrote them."""
    names, known = {name.as_posix() for name in files}, files_of(folder)
    found = [f"{name} is missing" for name in REQUIRED if name not in names]
    for name in sorted(names):
        path = folder / name
        links = [part for part in (path, *path.relative_to(folder).parents[:-1]) if (folder / part).is_symlink()]
        if not os.path.lexists(path):
            found.append(f"{name} is missing")
        elif links or not path.is_file():
            found.append(f"{name} is a link or no file")
        elif name not in CARDS and not is_unchanged(path, known[name]):
            found.append(f"{name} is not as the run wrote it")
    return found or [*_of_record(folder), *_of_weights(folder, names)]


def _of_record(folder: Path) -> Iterator[str]:
    try:
        read_record(folder, RunRecord)
    except UserError as error:
        yield f"run.json is not valid ({error.problem.rstrip('.')})"


def _of_weights(folder: Path, names: set[str]) -> Iterator[str]:
    """Yield the problems of the weights: missing, unreadable, or different from the index."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, set[str]] = {}
    for name in sorted(name for name in names if name.endswith(".safetensors")):
        try:
            with safe_open(folder / name, "np") as file:
                tensors[name] = set(file.keys())
        except (SafetensorError, OSError) as error:
            yield f"{name} cannot be read ({error})"
            return
    if INDEX not in names:
        if not tensors.get(WEIGHTS):
            yield f"{WEIGHTS} is missing or holds no weights"
        return
    listed: dict[str, str] = read_json(folder / INDEX)["weight_map"]
    for name in sorted(set(listed.values())):
        if tensors.get(name) != {tensor for tensor, file in listed.items() if file == name}:
            yield f"{name} is missing or does not hold what {INDEX} says"


def check_repo_id(repo_id: str) -> None:
    """Check that a name is valid for a repository on the Hub.

    Raises:
        UserError: It is not; says why.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in `__all__`

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo_id '{repo_id}' cannot be a repository: {error} Give NAME or USER/NAME.") from None


def push(folder: Path, repo_id: str, private: bool = False, dry_run: bool = False) -> list[str]:
    """Publish the files of a finished run on the Hub, and nothing else.

    Args:
        folder: The result folder.
        repo_id: `NAME` or `USER/NAME`; created if it does not exist.
        private: Whether a new repository is private.
        dry_run: Run all checks without publishing.

    Returns:
        The lines to print.

    Raises:
        UserError: The run is not finished, files were changed or contain secrets or local paths, the name is invalid,
            or the Hub refuses the upload.
    """
    check_repo_id(repo_id)
    files, local = publishable(folder)
    if wrong := problems(folder, files):
        raise UserError(
            f"Nothing was published: {shorten(wrong)}. Only what the run wrote is published. Restore it, or train "
            "again."
        )
    _check_leaks(folder, files)
    known = files_of(folder)
    cards = [name for name in files if name.as_posix() in CARDS]  # all others are unchanged
    edited = [name for name in cards if not is_unchanged(folder / name, known[name.as_posix()])]
    total = sum((folder / name).stat().st_size for name in files)
    lines = [f"To {repo_id} ({'private' if private else 'public'}): {len(files)} files, {total / 1e6:.1f} MB"]
    lines += [
        f"  {name}  {(folder / name).stat().st_size:,} bytes{', edited since the run' * (name in edited)}"
        for name in files
    ]
    lines += [f"Not published: {shorten(local, 8)}"] if local else []
    if dry_run:
        return [*lines, "Dry run: nothing was published."]
    return [*lines, f"Published: {_upload(folder, repo_id, private, files)}"]


def _check_leaks(folder: Path, files: list[Path]) -> None:
    """Check that files contain no secrets or local paths; only cards may be edited to remove them.

    Raises:
        UserError: Some do; names file and kind of each match and the fix.
    """
    cards = [name for name in files if name.as_posix() in CARDS]
    if fixed := find_leaks(folder, [name for name in files if name not in cards]):
        raise UserError(
            f"Nothing was published: {shorten(fixed)}. Only cards may be edited. Names of classes and columns come "
            "from the data: rename them there and train again. What a tokenizer holds came with the model: train from "
            "one without it; or if it is a false alarm, upload the folder yourself, with `hf upload REPO FOLDER "
            "--exclude '.local/*'`, which checks nothing."
        )
    if hits := find_leaks(folder, cards):
        raise UserError(f"Nothing was published: {shorten(hits)}. Remove these from the cards first.")


def _upload(folder: Path, repo_id: str, private: bool, files: list[Path]) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # Each file by its exact name: patterns of `upload_folder` would match similar names too.
        added = [CommitOperationAdd(path_in_repo=name.as_posix(), path_or_fileobj=folder / name) for name in files]
        commit = api.create_commit(repo_id, added, commit_message="Model trained with hf_ft")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"The Hub did not take it: {reason} Log in with `hf auth login`, and check --repo_id."
        ) from error
    return str(commit)
