"""The server: a Hub on two free ports of loopback, the second for large files, as the Hub has another host for them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import uvicorn
from starlette.applications import Starlette

from tests.hub import discussion_routes, file_routes, history_routes, repository_routes, upload_routes
from tests.hub.accounts import Accounts, Token
from tests.hub.faults import Fault, FaultyApp
from tests.hub.objects import MIB, ObjectStore
from tests.hub.refusals import Moved, Refusal, no_such_repository
from tests.hub.repository import Blob, Repository, RepositoryType
from tests.hub.web import EncodedPaths, moved, refused

STARTED_IN = 10.0
"""Seconds after which the server must answer."""
OURS = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_")
"""Beginnings of environment variables that would lead a process to another Hub, cache or token."""


class LocalHub:
    """A Hub of one's own.

    Attributes:
        requests: Method, path and status of every request so far.
        page_size: Longest page of a listing.
        largest_regular: Bytes up to which a file may be stored in git.
        moved: Type and former id of repositories, and their present id.

    Example:
        >>> with LocalHub() as hub:
        ...     hub.create("alice/data", type="dataset", files={"train.csv": b"text,label"})
        ...     subprocess.run(command, env=hub.environment(hub.token("alice"), home=tmp_path))
    """

    def __init__(self, port: int = 0, part_size: int = 64 * MIB) -> None:
        self.accounts = Accounts()
        self.objects = ObjectStore(part_size)
        self.page_size = 1000
        self.largest_regular = 10 * MIB
        self.moved: dict[tuple[str, str], str] = {}
        self._repositories: dict[tuple[str, str], Repository] = {}
        rooms = (repository_routes, upload_routes, history_routes, discussion_routes, file_routes)
        app = Starlette(
            routes=[*(route for room in rooms for route in room.ROUTES), *file_routes.PAGES],
            exception_handlers={Refusal: refused, Moved: moved},
        )
        app.state.hub = self
        self._app = FaultyApp(EncodedPaths(app))
        self._sockets = [_bound(port), _bound(0)]
        self.url, self.objects.url = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in self._sockets)
        settings = uvicorn.Config(
            self._app, log_level="critical", proxy_headers=False, lifespan="off", ws="none", interface="asgi3"
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="hub", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(STARTED_IN / 0.01)):
            if self._server.started:
                return self
            waiting.wait(0.01)
        raise RuntimeError(f"The local Hub did not start within {STARTED_IN:.0f} s.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(STARTED_IN)
        for one in self._sockets:
            one.close()

    # What tests set up

    def token(self, user: str, role: str = "write", scopes: Mapping[str, Iterable[str]] | None = None) -> str:
        """A new token of a user, who has an account from then on.

        Args:
            role: `read`, `write`, or `none`: fine-grained and without rights, but for those in `scopes`.
            scopes: Names of users, organizations or repositories, and the rights to them: `repo.content.read`,
                `repo.write`.
        """
        return self.accounts.new_token(user, role, scopes).value

    def organization(self, name: str, members: Mapping[str, str]) -> None:
        """Add an organization; a member is an `admin`, or may `write`, `contributor` or `read`."""
        self.accounts.organizations[name] = dict(members)

    def create(
        self,
        repo_id: str,
        type: RepositoryType = "model",
        private: bool = False,
        gated: bool | Literal["auto", "manual"] = False,
        files: Mapping[str, bytes] | None = None,
    ) -> Repository:
        """Add a repository, with these files in a second commit; `gated=True` is `manual`."""
        made = self.new_repository(repo_id, type, private, repo_id.partition("/")[0])
        made.gated = "manual" if gated is True else gated
        if files:
            self.commit(made, files)
        return made

    def commit(self, repository: Repository, files: Mapping[str, bytes], title: str = "Add files") -> str:
        """Commit files to main, past all checks; returns the id of the commit."""
        stored = repository.at("main").files
        changes: dict[str, Blob | None] = {}
        for path, content in files.items():
            large = upload_routes.is_large(path, len(content), content[:512], stored, self.largest_regular)
            if large:
                self.objects.add(content)
            changes[path] = Blob(content, large)
        return repository.commit(changes, title, author=repository.namespace).id

    def repo(self, repo_id: str, type: RepositoryType = "model") -> Repository:
        """A repository that exists."""
        return self._repositories[type, repo_id]

    def repositories(self) -> list[Repository]:
        return list(self._repositories.values())

    def fail(
        self,
        method: str,
        path: str,
        status: int | None = None,
        times: int | None = 1,
        retry_after: int | None = None,
        cut_at: int | None = None,
        delay: float | None = None,
        corrupt: bool = False,
        error_code: str | None = None,
    ) -> Fault:
        """Make requests go wrong from now on; see `Fault`. Remove it from `faults` to end it.

        Args:
            method: `GET`, `HEAD`, ...; `*` for any.
            path: A regular expression that is searched for in the path.
            times: How often; None for always.
        """
        fault = Fault(method, path, status, times, retry_after, cut_at, delay, corrupt, error_code)
        self.faults.append(fault)
        return fault

    @property
    def faults(self) -> list[Fault]:
        """The faults that are on; the first that fits a request and is not used up happens."""
        return self._app.faults

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        return self._app.requests

    def environment(self, token: str | None = None, home: Path | str | None = None) -> dict[str, str]:
        """The environment variables of a process that is to see this Hub alone, all of them.

        Args:
            token: Who the process is; nobody without one.
            home: Its `HF_HOME`: an empty folder for a process without a cache.
        """
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(OURS)}
        here = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        mine = {"HF_TOKEN": token} if token else {}
        at = {"HF_HOME": str(home)} if home else {"HF_TOKEN_PATH": os.devnull}  # not the token that is stored at home
        return {**kept, **here, **mine, **at, "NO_PROXY": "*", "no_proxy": "*"}

    # What the routes use

    def lookup(self, repo_id: str, kind: str, viewer: Token | None) -> Repository:
        """A repository that the viewer may know of.

        Raises:
            Refusal: There is none.
        """
        repo_id = self.moved.get((kind, repo_id), repo_id)
        found = self._repositories.get((kind, repo_id))
        if found is None:
            raise no_such_repository(viewer is None)
        self.accounts.check_visible(viewer, found)
        return found

    def new_repository(self, repo_id: str, kind: RepositoryType, private: bool, author: str) -> Repository:
        """Add an empty repository.

        Raises:
            Refusal: The name is taken.
        """
        if there := self._repositories.get((kind, repo_id)):
            raise Refusal(409, f"You already created this {kind} repo: {repo_id}", url=self.page_of(there))
        made = Repository(repo_id, kind, private, author)
        self._repositories[kind, repo_id] = made
        self.moved.pop((kind, repo_id), None)
        return made

    def rename(self, repository: Repository, target: str) -> None:
        """Give a repository another id; the former one leads there.

        Raises:
            Refusal: The id is taken.
        """
        if (repository.type, target) in self._repositories:
            raise Refusal(409, f"A {repository.type} repo {target} exists already")
        del self._repositories[repository.type, repository.id]
        self.moved[repository.type, repository.id] = target
        repository.id = target
        self._repositories[repository.type, target] = repository

    def remove(self, repository: Repository) -> None:
        del self._repositories[repository.type, repository.id]

    def page_of(self, repository: Repository) -> str:
        """The address of a repository's page."""
        prefix = "" if repository.type == "model" else f"{repository.type}s/"
        return f"{self.url}/{prefix}{repository.id}"


def _bound(port: int) -> socket.socket:
    """A socket on loopback; port 0 is any free one."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
