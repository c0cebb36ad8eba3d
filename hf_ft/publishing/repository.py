"""A repository on the Hub as it is now, and what a push would change in it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hf_ft.publishing.contents import Item
from hf_ft.publishing.hub_calls import SILENCE, bounded_waits, patiently, spoken_waits

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
KEPT = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
"""Beginnings of the names of files that a push never removes, beside hidden ones."""
OF_RESULTS = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "run.json", "tokenizer*", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template.*", "preprocessor_config.json"),
    *("processor_config.json", "adapter_config.json"),
)
"""Files beside the folders below that an earlier result leaves behind: what another one lacks of these is removed."""
FOLDERS_OF_RESULTS = ("figures", "adapter")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository: its size, its git digest, and the SHA-256 if it is stored as a large file."""

    size: int
    blob: str
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        head: The commit from which a push starts; None if the repository is to be made.
        has_branch: Whether the wanted branch exists.
        run: The content of its `run.json`; None if hf_ft did not write it.
    """

    repo_id: str
    private: bool
    head: str | None = None
    has_branch: bool = True
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, Any] | None = None

    @property
    def exists(self) -> bool:
        """Whether it is on the Hub."""
        return self.head is not None

    @property
    def content(self) -> list[str]:
        """Its files without hidden ones and licences: a repository without any is empty."""
        return sorted(name for name in self.files if not is_kept(name))


def read_repository(api: HfApi, repo_id: str, revision: str | None) -> Repository | None:
    """Return a repository as it is now; None if there is none, or none that the token may see."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = patiently(lambda: api.repo_info(repo_id, timeout=SILENCE))
    except RepositoryNotFoundError:
        return None
    refs = patiently(lambda: api.list_repo_refs(repo_id))
    branches = {ref.name: ref.target_commit for ref in refs.branches}
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    branch = revision or MAIN
    if branch.startswith("refs/"):
        head = patiently(lambda: api.repo_info(repo_id, revision=branch, timeout=SILENCE)).sha
        branches[branch] = str(head)
    head = branches.get(branch) or branches.get(MAIN) or info.sha
    files = read_files(api, repo_id, str(head))
    run = _read_run(api, repo_id, str(head)) if "run.json" in files else None
    return Repository(repo_id, bool(info.private), str(head), branch in branches, files, branches, tags, run)


def read_files(api: HfApi, repo_id: str, commit: str) -> dict[str, RemoteFile]:
    """Return the files of a commit by name."""
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        with bounded_waits(), spoken_waits():  # the library tries listings again itself
            tree = [*api.list_repo_tree(repo_id, recursive=True, revision=commit)]
    except EntryNotFoundError:  # a commit without any file
        return {}
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    return {file.path: RemoteFile(file.size, file.blob_id, file.lfs.sha256 if file.lfs else None) for file in files}


def _read_run(api: HfApi, repo_id: str, commit: str) -> dict[str, Any] | None:
    """Return the `run.json` of a repository, None if hf_ft did not write it; not through the user's cache."""
    with tempfile.TemporaryDirectory() as folder:
        path = patiently(lambda: api.hf_hub_download(repo_id, "run.json", revision=commit, local_dir=folder))
        try:
            content = json.loads(Path(path).read_bytes())
        except ValueError:
            return None
    ours = isinstance(content, dict) and {"hf_ft", "schema_version", "task", "data"} <= content.keys()
    return content if ours else None


def is_kept(name: str) -> bool:
    """Return whether a file is never removed: hidden ones such as `.gitattributes`, and licences."""
    path = PurePosixPath(name)
    return any(part.startswith(".") for part in path.parts) or (len(path.parts) == 1 and name.startswith(KEPT))


# --- What a push changes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changes:
    """What a push adds, replaces, leaves and removes: names of files in the repository."""

    added: list[str]
    replaced: list[str]
    same: list[str]
    removed: list[str]

    @property
    def any(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.added or self.replaced or self.removed)

    def __str__(self) -> str:
        parts = {"new": self.added, "replaced": self.replaced, "unchanged": self.same, "removed": self.removed}
        return ", ".join(f"{len(names)} {what}" for what, names in parts.items() if names)


def changes(repository: Repository, items: list[Item], contents: Mapping[str, bytes], overwrite: bool) -> Changes:
    """Return what a push would change.

    Args:
        contents: The content of the files that are sent from memory.
        overwrite: Remove everything that is not part of the result, not only what an earlier result left behind.
    """
    names = {item.name for item in items}
    there = {item.name for item in items if item.name in repository.files}
    same = {item.name for item in items if item.name in there and _is_same(item, repository, contents)}
    others = sorted(name for name in repository.files if name not in names and not is_kept(name))
    removed = others if overwrite else [name for name in others if _is_of_result(name)]
    return Changes(sorted(names - there), sorted(there - same), sorted(same), removed)


def _is_same(item: Item, repository: Repository, contents: Mapping[str, bytes]) -> bool:
    return is_stored(repository.files.get(item.name), item, contents.get(item.name))


def is_stored(remote: RemoteFile | None, item: Item, content: bytes | None) -> bool:
    """Return whether a file of a repository has the content of an item; `content` is None for weights."""
    if remote is None:
        return False
    if remote.sha256 is not None:
        return remote.sha256 == (item.sha256 if content is None else hashlib.sha256(content).hexdigest())
    content = item.path.read_bytes() if content is None else content
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return remote.blob == blob


def _is_of_result(name: str) -> bool:
    path = PurePosixPath(name)
    if len(path.parts) > 1:
        return path.parts[0] in FOLDERS_OF_RESULTS
    return any(path.match(pattern) for pattern in OF_RESULTS)
