"""One upload: who the user is, what the repository holds, one commit, and a look at what the Hub holds then."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_ft import __version__
from hf_ft.errors import UserError, shorten
from hf_ft.publishing.contents import Contents, Item
from hf_ft.publishing.destination import Destination
from hf_ft.publishing.hub_calls import bounded_waits, http_error, is_cut, patiently, spoken_waits, status_of
from hf_ft.publishing.hub_errors import NOTHING, endpoint, explained
from hf_ft.publishing.repository import MAIN, Changes, Repository, changes, is_stored, read_files, read_repository
from hf_ft.reports import published_card
from hf_ft.storage import bytes_digest

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi


@dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Attributes:
        repo_id: The repository, with its namespace once the Hub was asked.
        files: The files of the result in it.
        commit: The commit that holds them; None after a dry run.
        url: The address of the repository, or of the pull request.
    """

    repo_id: str
    private: bool
    files: tuple[str, ...]
    commit: str | None = None
    url: str | None = None


class Upload:
    """One upload: asks the Hub who the user is and what is there, and adds one commit.

    Args:
        destination: Where to.
        done: What an error says first: what was done by then.
    """

    def __init__(self, destination: Destination, done: str = NOTHING) -> None:
        from huggingface_hub import HfApi

        self.destination = destination
        self.repo_id = destination.repo_id
        self.done = done
        self.api: HfApi = HfApi(token=destination.token, library_name="hf_ft", library_version=__version__)

    @property
    def branch(self) -> str:
        """The branch that the commit is added to."""
        return self.destination.revision or MAIN

    @property
    def url(self) -> str:
        """The address of the repository."""
        return f"{endpoint()}/{self.repo_id}"

    def prepare(self, task: str, contents: Contents | None = None) -> Repository | None:
        """Return the repository, None where it is to be made, once it is known that the result may go there.

        Args:
            task: The task of the result.
            contents: The result; None before the training.

        Raises:
            UserError: It may not.
        """
        with self._explained():
            self._log_in()
            repository = read_repository(self.api, self.repo_id, self.destination.revision)
        if repository is None:
            if self.destination.create_pr or self.branch.startswith("refs/"):
                hint = "A pull request needs a repository. Leave out --create_pr to make one."
                raise self._refused(f"{self.repo_id} does not exist", hint, "repo_id")
            return None
        self._check(repository, task, contents)
        return repository

    def run(self, contents: Contents) -> Publication:
        """Publish a result.

        Raises:
            UserError: It cannot be; says what was done by then.
        """
        repository = self.prepare(contents.record.task, contents)
        with self._explained():
            if repository is None:
                repository = self._made(contents)
            items, sent = [*contents.items], self._in_memory(contents.items)
            todo = changes(repository, items, sent, self.destination.overwrite)
            self._announce(repository, todo)
            self._check_tag(repository, todo)
            if not repository.has_branch:
                patiently(lambda: self.api.create_branch(self.repo_id, branch=self.branch, exist_ok=True))
            if todo.any:
                commit, url = self._committed(repository, items, sent, todo)
            else:
                commit, url = str(repository.head), self.url
            self._tag(repository, commit)
        tag = f", tag {self.destination.tag}" if self.destination.tag else ""
        print(f"{'Published' if todo.any else 'Nothing new'}: {url} (commit {commit[:12]}{tag})")
        return Publication(self.repo_id, repository.private, tuple(item.name for item in items), commit, url)

    # Before anything is sent.

    def _log_in(self) -> None:
        who = patiently(self.api.whoami)
        user, role = who["name"], who.get("auth", {}).get("accessToken", {}).get("role")
        if "/" not in self.repo_id:
            self.repo_id = f"{user}/{self.repo_id}"
        if role == "read":
            raise self._refused(
                f"the token of {user} may only read",
                f"Make one with write access at {endpoint()}/settings/tokens, and log in with it.",
                "token",
            )

    def _check(self, repository: Repository, task: str, contents: Contents | None) -> None:
        wanted, where = self.destination, self.repo_id
        another = f"choose another {wanted.spelled('--repo_id')}"
        if wanted.private and not repository.private:
            raise self._refused(
                f"{where} is public, so everybody could read it",
                f"Add {wanted.spelled('--public')} to publish there all the same, or {another}.",
                "private",
            )
        if not repository.has_branch and (wanted.create_pr or self.branch in repository.tags):
            what = "is a tag" if self.branch in repository.tags else "is no branch"
            raise self._refused(f"{self.branch} {what} of {where}", "Give the name of a branch.", "revision")
        held = _something_else(repository, task, contents)
        how = f"Replace it with `{wanted.command} --overwrite`" if wanted.command else "Add --overwrite to replace it"
        if held and not wanted.overwrite and not wanted.create_pr:
            raise self._refused(
                f"{where} holds {held}",
                f"{how} (the history of the repository still has it), or {another}.",
                "overwrite",
            )

    def _check_tag(self, repository: Repository, todo: Changes) -> None:
        at = repository.tags.get(self.destination.tag or "")
        if at is not None and (todo.any or at != repository.head):
            raise self._refused(
                f"{self.repo_id} has a tag {self.destination.tag} already, at commit {at[:12]}",
                "Choose another --tag.",
                "tag",
            )

    def _made(self, contents: Contents) -> Repository:
        """Make the repository; one that was made meanwhile is checked like any other."""
        private = self.destination.private
        try:
            patiently(lambda: self.api.create_repo(self.repo_id, private=private))
        except OSError as error:
            if status_of(error) != 409:
                raise
            taken = read_repository(self.api, self.repo_id, self.destination.revision)
            if taken is None:
                problem = f"the name {self.repo_id} is taken by a repository that this token may not see"
                raise self._refused(
                    problem, f"Choose another {self.destination.spelled('--repo_id')}.", "repo_id"
                ) from error
            self._check(taken, contents.record.task, contents)
        made = read_repository(self.api, self.repo_id, self.destination.revision)
        if made is None:
            hint = f"Use one with both rights ({endpoint()}/settings/tokens)."
            raise self._refused(f"this token may make {self.repo_id}, but not read it", hint, "token")
        if private and not made.private:
            raise self._refused(f"the Hub made {self.repo_id} public", f"Look at {self.url}/settings.", "private")
        return made

    def _announce(self, repository: Repository, todo: Changes) -> None:
        kind = "private" if repository.private else "public"
        branch = self.branch if repository.has_branch else f"the new branch {self.branch}"
        print(f"{self.repo_id} is {kind}. On {branch}: {todo or 'no files'}", flush=True)
        if repository.private and not self.destination.private:
            print(f"It stays private, although --public was set: its visibility is changed at {self.url}/settings")
        if todo.removed:
            print(f"Removed: {shorten(todo.removed, 8)}", flush=True)

    # Sending.

    def _in_memory(self, items: Sequence[Item]) -> dict[str, bytes]:
        """Return the content of all files but weights, as it was searched; cards name the repository."""
        found = {}
        for item in items:
            if item.path.suffix != ".safetensors":
                content = item.path.read_bytes()
                if bytes_digest(content) != item.sha256:
                    raise self._changed(item)
                found[item.name] = published_card(content.decode(), self.repo_id).encode() if item.is_card else content
        return found

    def _committed(
        self, repository: Repository, items: Sequence[Item], sent: dict[str, bytes], todo: Changes
    ) -> tuple[str, str]:
        """Send the files, add the commit, and check that the Hub holds them; returns commit and address."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        new = {*todo.added, *todo.replaced}
        added = [CommitOperationAdd(i.name, sent.get(i.name, i.path)) for i in items if i.name in new]
        pr = self.destination.create_pr
        with bounded_waits(), spoken_waits(), _card_warnings():
            self.api.preupload_lfs_files(self.repo_id, added, revision=self.branch, create_pr=pr, free_memory=False)
            self._check_sent(items, added)
            removed = [CommitOperationDelete(name, is_folder=False) for name in todo.removed]
            commit = self._commit(repository, items, sent, [*added, *removed])
        self.done = f"The files are published at {self.url}"
        stored = read_files(self.api, self.repo_id, commit.oid)
        if wrong := [item.name for item in items if not is_stored(stored.get(item.name), item, sent.get(item.name))]:
            raise self._refused(
                f"the Hub does not hold what was sent ({shorten(wrong)})", self.destination.again, "repo_id"
            )
        return commit.oid, commit.pr_url or self.url

    def _check_sent(self, items: Sequence[Item], added: Sequence[CommitOperationAdd]) -> None:
        """Check that weights did not change between the search and the upload."""
        sent = {operation.path_in_repo: operation for operation in added}
        for item in items:
            operation = sent.get(item.name)
            if operation is None or item.path.suffix != ".safetensors":
                continue
            if operation.upload_info.sha256.hex() != item.sha256:
                raise self._changed(item)

    def _commit(
        self, repository: Repository, items: Sequence[Item], sent: dict[str, bytes], operations: list[Any]
    ) -> CommitInfo:
        """Add the commit; where an answer was lost, look first whether it is there."""
        wanted, tried = self.destination, False

        def attempt() -> CommitInfo:
            nonlocal tried
            if tried and (landed := self._landed(repository, items, sent)):
                return landed
            tried = True
            return self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=wanted.commit_message or f"Model trained with hf_ft {__version__}",
                revision=self.branch,
                create_pr=wanted.create_pr,
                parent_commit=repository.head,
            )

        if not wanted.create_pr:
            return patiently(attempt)
        try:
            return attempt()
        except Exception as error:
            if is_cut(error) or (status_of(error) or 0) >= 500:  # a second try might open a second one
                self.done = f"Whether the pull request was opened is not known (look at {self.url}/discussions)"
            raise

    def _landed(self, repository: Repository, items: Sequence[Item], sent: dict[str, bytes]) -> CommitInfo | None:
        """Return the commit of a try whose answer was lost, None if it did not arrive."""
        from huggingface_hub import CommitInfo

        now = read_repository(self.api, self.repo_id, self.destination.revision)
        if now is None or now.head == repository.head:
            return None
        if not all(is_stored(now.files.get(item.name), item, sent.get(item.name)) for item in items):
            return None
        return CommitInfo(f"{self.url}/commit/{now.head}", "", "", str(now.head))

    def _tag(self, repository: Repository, commit: str) -> None:
        tag = self.destination.tag
        if tag is not None and repository.tags.get(tag) != commit:
            self.done = f"The files are published at {self.url}, the tag {tag} is not"
            patiently(lambda: self.api.create_tag(self.repo_id, tag=tag, revision=commit, exist_ok=True))

    # What went wrong.

    def _refused(self, problem: str, hint: str, option: str) -> UserError:
        return UserError(f"{self.done}: {problem}.", option=option, value=self.repo_id, hint=hint)

    def _changed(self, item: Item) -> UserError:
        return self._refused(f"{item.path} changed while it was published", self.destination.again, "folder")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (http_error(), OSError, ValueError, RuntimeError) as error:
            raise explained(error, self.repo_id, self.destination, self.done) from error


def _something_else(repository: Repository, task: str, contents: Contents | None) -> str:
    """Return what a repository holds if it is not an earlier result of the same task and labels, else ""."""
    names, run = repository.content, repository.run
    if not names:
        return ""
    if run is None:
        return f"files that hf_ft did not write ({shorten(names, 3)})"
    labels = run["data"].get("labels", [])
    if run["task"] != task or (contents is not None and contents.record.data.labels != labels):
        return f"another model ({run['task']}: {shorten(labels, 4)})"
    adapter = contents is not None and contents.adapter
    if ("adapter_config.json" in names) != adapter:
        return "a whole model" if adapter else "an adapter alone"
    return ""


@contextmanager
def _card_warnings() -> Iterator[None]:
    """Print what the Hub remarks on the metadata of a card as lines, not as warnings of Python."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                if str(warning.message).startswith("Warnings while validating metadata"):
                    print(" ".join(str(warning.message).split()))
