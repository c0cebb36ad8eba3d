"""One repository: commits, branches, tags, pull requests; files as they are, and the names that git has for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

from tests.hub.refusals import Refusal, no_such_revision

RepositoryType = Literal["model", "dataset", "space"]
ATTRIBUTES = ".gitattributes"
_LARGE = """
7z arrow avro bin bz2 ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar
safetensors tar tflite tgz wasm xz zip zst
"""
INITIAL = {
    ATTRIBUTES: "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _LARGE.split()).encode()
}
"""What a new repository holds, as on the Hub."""


@dataclass(frozen=True)
class Blob:
    """The content of a file, stored in git or, behind a pointer, as a large file."""

    content: bytes
    is_lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git stores for a large file."""
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {self.size}")
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def oid(self) -> str:
        """The name of the blob in git."""
        stored = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        """What a cache may take for the identity of the content."""
        return self.sha256 if self.is_lfs else self.oid

    @property
    def size(self) -> int:
        return len(self.content)


@dataclass(frozen=True)
class Commit:
    """A state of all files, and where it came from."""

    id: str
    parent: Commit | None = field(repr=False)
    title: str
    description: str
    author: str
    date: datetime
    files: Mapping[str, Blob] = field(repr=False)

    def history(self) -> Iterator[Commit]:
        """This commit and those before it, newest first."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def last_change(self, path: str) -> Commit:
        """The commit that gave a file or folder its present content."""
        mine = _below(self.files, path)
        for commit in self.history():
            if commit.parent is None or _below(commit.parent.files, path) != mine:
                return commit
        raise AssertionError("the first commit has no parent")


def _below(files: Mapping[str, Blob], path: str) -> dict[str, str]:
    return {name: blob.oid for name, blob in files.items() if name == path or name.startswith(f"{path}/")}


@dataclass
class Discussion:
    """A discussion or pull request; the commits of the latter are at `refs/pr/<num>`."""

    num: int
    title: str
    author: str
    is_pull_request: bool
    status: str = "open"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    events: list[dict[str, object]] = field(default_factory=list)
    merge_commit: str | None = None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"

    def add_event(self, kind: str, author: str, **data: object) -> dict[str, object]:
        """Record what happened, as the Hub reports it."""
        event: dict[str, object] = {
            "id": f"{self.num:08x}{len(self.events):016x}",
            "type": kind,
            "createdAt": iso(datetime.now(UTC)),
            "author": {"name": author},
            "data": data,
        }
        self.events.append(event)
        return event


class Repository:
    """A repository as tests look at it and as the routes change it.

    Attributes:
        gated: False, `auto` or `manual`; who may download then is in `allowed`, besides the members.
        refs: Full names of branches, tags and pull requests, and the ids of their commits.
    """

    def __init__(self, repo_id: str, kind: RepositoryType = "model", private: bool = False, author: str = "") -> None:
        self.id, self.type = repo_id, kind
        self.private = private
        self.gated: Literal[False, "auto", "manual"] = False
        self.allowed: set[str] = set()
        self.created = datetime.now(UTC)
        self.refs: dict[str, str] = {}
        self.discussions: list[Discussion] = []
        self._commits: dict[str, Commit] = {}
        self.commit({path: Blob(content) for path, content in INITIAL.items()}, "initial commit", author=author)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    @property
    def tags(self) -> dict[str, str]:
        """Tags and the ids of their commits."""
        return self._named("refs/tags/")

    @property
    def branches(self) -> dict[str, str]:
        return self._named("refs/heads/")

    def _named(self, prefix: str) -> dict[str, str]:
        return {ref.removeprefix(prefix): oid for ref, oid in self.refs.items() if ref.startswith(prefix)}

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """All files at a revision, `.gitattributes` included, which the Hub writes into a new repository."""
        return {path: blob.content for path, blob in self.at(revision).files.items()}

    def commits(self, revision: str = "main") -> list[Commit]:
        """The commits that led to a revision, newest first."""
        return list(self.at(revision).history())

    def pull_requests(self) -> list[Discussion]:
        return [one for one in self.discussions if one.is_pull_request]

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, full name of a ref, or (part of) the id of a commit.

        Raises:
            Refusal: There is none.
        """
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self._commits[self.refs[ref]]
        found = (
            [oid for oid in self._commits if oid.startswith(revision)]
            if re.fullmatch("[0-9a-f]{7,40}", revision)
            else []
        )
        if len(found) != 1:
            raise no_such_revision(revision)
        return self._commits[found[0]]

    def commit(
        self,
        changes: Mapping[str, Blob | None],
        title: str,
        description: str = "",
        author: str = "",
        ref: str = "refs/heads/main",
        parent: str | None = None,
    ) -> Commit:
        """Add a commit to a branch or pull request.

        Args:
            changes: New contents by path; None removes a file.
            parent: The id that the branch must still have.

        Raises:
            Refusal: The branch has moved on.
        """
        before = self._commits[self.refs[ref]] if ref in self.refs else None
        if parent is not None and before is not None and not before.id.startswith(parent):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = {**(before.files if before else {}), **changes}
        kept = {path: blob for path, blob in sorted(files.items()) if blob is not None}
        now = datetime.now(UTC)
        identity = (before.id if before else None, title, description, author, iso(now), len(self._commits))
        listed = [(path, blob.oid) for path, blob in kept.items()]
        oid = hashlib.sha1(repr((self.id, identity, listed)).encode()).hexdigest()
        made = Commit(oid, before, title, description, author, now, kept)
        self._commits[oid], self.refs[ref] = made, oid
        return made

    def open_discussion(self, title: str, author: str, description: str, is_pull_request: bool) -> Discussion:
        """Start a discussion; a pull request starts as a draft at the commit of main, as those made by programs do."""
        opened = Discussion(len(self.discussions) + 1, title, author, is_pull_request)
        opened.add_event("comment", author, edited=False, hidden=False, latest={"raw": description})
        if is_pull_request:
            opened.status, self.refs[opened.ref] = "draft", self.at("main").id
        self.discussions.append(opened)
        return opened

    def merge(self, request: Discussion, author: str) -> Commit:
        """Bring what a pull request changes to main."""
        base, head = self.at("main"), self.at(request.ref)
        shared = {commit.id for commit in base.history()}
        start = next(commit for commit in head.history() if commit.id in shared)
        paths = {*start.files, *head.files}
        changes = {path: head.files.get(path) for path in paths if head.files.get(path) != start.files.get(path)}
        made = self.commit(changes, request.title, author=author)
        request.status, request.merge_commit = "merged", made.id
        return made

    def squash(self, branch: str, title: str, author: str) -> None:
        """Replace the history of a branch by one commit."""
        files: dict[str, Blob | None] = dict(self.at(branch).files)
        del self.refs[f"refs/heads/{branch}"]
        self.commit(files, title, author=author, ref=f"refs/heads/{branch}")


def iso(when: datetime) -> str:
    """A time as the Hub writes it."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
