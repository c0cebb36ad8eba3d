"""What may be published of a result folder: regular files that the run wrote, unchanged; only cards may be edited.

The files of a run are those of its manifest. A link, a hidden file, or a kind of file that cannot be searched for
secrets never leaves the machine, whatever the manifest says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hf_ft.errors import UserError, shorten
from hf_ft.publishing.leaks import ALLOWABLE, Find, Search, find_leaks
from hf_ft.records import RunRecord, read_record
from hf_ft.storage import files_of, is_unchanged, kind_of, read_json, sha256

CARDS = ("README.md", "adapter/README.md")
"""Files that may be edited and are published as they are now."""
KINDS = frozenset(
    {
        *(".safetensors", ".json", ".md", ".txt", ".jinja", ".yaml", ".yml", ".py", ".png", ".svg"),
        *(".model", ".spm", ".bpe", ".codes", ".tiktoken", ".vocab"),
    }
)
"""Kinds of files that can be searched for secrets; others stay local."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REQUIRED = ("run.json", "config.json")
ADAPTER, ADAPTER_REQUIRED = "adapter", ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
BASE_MODEL = frozenset({"config.json", WEIGHTS, INDEX})
"""Files that an adapter's repository must not hold: `transformers` would take it for a whole model."""


@dataclass(frozen=True)
class Item:
    """A file to publish.

    Attributes:
        name: Its path in the repository.
        path: Where it is on this machine.
        sha256: Its digest when it was searched; what is sent must have the same.
        edited: Whether a user edited it since the run: a card.
    """

    name: str
    path: Path
    size: int
    sha256: str
    edited: bool = False

    @property
    def is_card(self) -> bool:
        """Whether it is the card of the repository."""
        return self.name == "README.md"


@dataclass(frozen=True)
class Contents:
    """What a repository will hold, and what stays on this machine."""

    folder: Path
    record: RunRecord
    items: tuple[Item, ...]
    local: tuple[str, ...]
    allowed: tuple[Find, ...] = ()
    adapter: bool = False

    @property
    def size(self) -> int:
        """The sum of all sizes, in bytes."""
        return sum(item.size for item in self.items)


def read_contents(
    folder: Path, repo_id: str, adapter: bool = False, allow: Sequence[str] = (), token: str | None = None
) -> Contents:
    """Return what is to be published of a result folder, checked and searched.

    Args:
        folder: The result folder.
        repo_id: The repository, whose namespace is no secret.
        adapter: Only the adapter, as a repository of its own.
        allow: Kinds of finds that may be published, by their short names.
        token: The token that is used for the upload, which no file may hold.

    Raises:
        UserError: The run is not finished, files were changed or hold what must not leave the machine, or there is no
            adapter for a base model on the Hub.
    """
    files, local = publishable(folder)
    names = _of_adapter(folder, files) if adapter else {name.as_posix(): name.as_posix() for name in files}
    if wrong := problems(folder, [Path(name) for name in names]):
        raise UserError(
            f"Nothing was published: {shorten(wrong)}. Only what the run wrote is published. Restore it, or train "
            "again."
        )
    record = read_record(folder, RunRecord)
    public = [name.split("/")[0] for name in (repo_id, record.model.hub_id, record.data.hub_id) if name and "/" in name]
    search = Search.on_this_machine(folder, public, (token, _saved_token()))
    allowed = _checked_finds(find_leaks(folder, map(Path, names), search), allow)
    known = files_of(folder)
    items = [
        _item(name, folder / source, known[source]["sha256"])
        for source, name in sorted(names.items(), key=lambda pair: pair[1])
    ]
    rest = {name.as_posix() for name in (*files, *local)} - {*names}
    return Contents(folder, record, tuple(items), tuple(sorted(rest)), allowed, adapter)


def _item(name: str, path: Path, digest: str) -> Item:
    now = sha256(path)
    return Item(name, path, path.stat().st_size, now, now != digest)


def _saved_token() -> str | None:
    """The token that `hf auth login` stored, None where there is none."""
    from huggingface_hub import constants

    try:
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


# --- Which files ------------------------------------------------------------------------------------------------------


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
    mine = {Path(name) for name in files_of(folder) if _may_leave(PurePosixPath(name))}
    gone = {name for name in mine if _may_be_gone(name) and not os.path.lexists(folder / name)}
    every = {path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    return sorted(mine - gone), sorted(every - mine)


def _may_leave(name: PurePosixPath) -> bool:
    return not any(part.startswith(".") for part in name.parts) and (name.suffix.lower() in KINDS or not name.suffix)


def _may_be_gone(name: Path) -> bool:
    return name.parts[0] == "figures" or name.as_posix() in CARDS


def _of_adapter(folder: Path, files: list[Path]) -> dict[str, str]:
    """Return the files of the adapter's own repository: their names in the folder, and there.

    Raises:
        UserError: The run has no adapter, or its base model is not on the Hub.
    """
    names = [name.as_posix() for name in files]
    if any(name not in names for name in ADAPTER_REQUIRED):
        raise UserError(
            f"{folder} holds no adapter: its method trained none, or no adapter alone gives the result.",
            option="adapter",
            hint="Leave out --adapter to publish the whole model.",
        )
    config = read_json(folder / ADAPTER_REQUIRED[0])
    if not config.get("base_model_name_or_path"):
        base = read_record(folder, RunRecord).model.name
        raise UserError(
            f"The base model of this adapter, '{base}', is not on the Hub, so nobody else could load the adapter.",
            option="adapter",
            hint="Leave out --adapter to publish the whole model, into which the adapter is merged; or publish the "
            "base model first, and train from its Hub id.",
        )
    if not config.get("revision"):
        print(
            f"The base model {config['base_model_name_or_path']} is named without a commit, which the run does not know"
        )
    beside = [name for name in names if "/" not in name and name not in (*BASE_MODEL, "README.md")]
    beside = [name for name in beside if not name.endswith(".safetensors")]
    own = {name: name.removeprefix(f"{ADAPTER}/") for name in names if name.startswith(f"{ADAPTER}/")}
    return own | {name: name for name in beside if name not in own.values()}


# --- Whether they are as the run wrote them ---------------------------------------------------------------------------


def problems(folder: Path, files: list[Path]) -> list[str]:
    """Return the problems of files to be published; empty if all are as the run wrote them."""
    names, known = {name.as_posix() for name in files}, files_of(folder)
    found = [] if _is_adapter(names) else [f"{name} is missing" for name in REQUIRED if name not in names]
    for name in sorted(names):
        path = folder / name
        links = [part for part in (path, *path.relative_to(folder).parents[:-1]) if (folder / part).is_symlink()]
        if not os.path.lexists(path):
            found.append(f"{name} is missing")
        elif links or not path.is_file():
            found.append(f"{name} is a link or no file")
        elif name in CARDS:
            found += [f"{name} is not a text in UTF-8"] if not _is_text(path) else []
        elif not is_unchanged(path, known[name]):
            found.append(f"{name} is not as the run wrote it")
    return found or [*_of_record(folder), *_of_weights(folder, names)]


def _is_adapter(names: set[str]) -> bool:
    return not names & BASE_MODEL


def _is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False


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
    if _is_adapter(names):
        return
    if INDEX not in names:
        if not tensors.get(WEIGHTS):
            yield f"{WEIGHTS} is missing or holds no weights"
        return
    listed: dict[str, str] = read_json(folder / INDEX)["weight_map"]
    for name in sorted(set(listed.values())):
        if tensors.get(name) != {tensor for tensor, file in listed.items() if file == name}:
            yield f"{name} is missing or does not hold what {INDEX} says"


# --- Whether they hold what must not leave ----------------------------------------------------------------------------

MOST_FINDS = 40


def _checked_finds(finds: Sequence[Find], allow: Sequence[str]) -> tuple[Find, ...]:
    """Return the finds that the user allowed.

    Raises:
        UserError: There are others; names file, line and kind of each, and the fix.
    """
    kinds = {ALLOWABLE[kind] for kind in allow}
    allowed = tuple(find for find in finds if find.kind in kinds)
    rest = [find for find in finds if find not in allowed]
    if not rest:
        return allowed
    hints = []
    if any(find.file in CARDS for find in rest):
        hints.append("Remove these from the cards first.")
    if any(find.file not in CARDS for find in rest):
        hints.append(
            "Only cards may be edited. Names of classes and columns come from the data: rename them there and train "
            "again. What a tokenizer holds came with the model: train from one without it."
        )
    there = {find.kind for find in rest}
    if names := [name for name, kind in ALLOWABLE.items() if kind in there]:
        hints.append(f"If it is meant to be seen, add {' '.join(f'--allow {name}' for name in names)}.")
    raise UserError(f"Nothing was published. Found {shorten(rest, MOST_FINDS)}.", hint=" ".join(hints))
