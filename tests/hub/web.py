"""What all routes share: the hub, who is asking, the repository that is meant, and the form of answers."""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.hub.accounts import Token
from tests.hub.faults import App, Receive, Send
from tests.hub.refusals import Moved, Refusal
from tests.hub.repository import Repository, RepositoryType

if TYPE_CHECKING:
    from tests.hub.server import LocalHub

KINDS: dict[str, RepositoryType] = {"models": "model", "datasets": "dataset", "spaces": "space"}
API = "/api/{kind}/{namespace}/{name}"
"""Where the routes of a repository begin."""


def hub_of(request: Request) -> LocalHub:
    """The hub that serves a request."""
    hub: LocalHub = request.app.state.hub
    return hub


def viewer_of(request: Request) -> Token | None:
    """Who is asking.

    Raises:
        Refusal: An unknown token.
    """
    return hub_of(request).accounts.viewer(request.headers.get("authorization"))


def part(request: Request, name: str) -> str:
    """A part of the path, decoded; parts are matched encoded, since revisions may hold slashes."""
    return unquote(request.path_params.get(name, ""))


def repository_of(request: Request, download: bool = False) -> Repository:
    """The repository that the path names.

    Args:
        download: Whether files are to be read, for which gated repositories ask more.

    Raises:
        Refusal: There is none that the viewer may know of, or the files are not for them.
        Moved: It has another name now.
    """
    hub, viewer = hub_of(request), viewer_of(request)
    kind = KINDS.get(request.path_params.get("kind", "models"))
    repo_id = f"{part(request, 'namespace')}/{part(request, 'name')}"
    if kind is None:
        raise Refusal(404, "Not found")
    if (kind, repo_id) in hub.moved:
        raise Moved(request.scope["path"].replace(repo_id, hub.moved[kind, repo_id], 1))
    repository = hub.lookup(repo_id, kind, viewer)
    check = hub.accounts.check_download if download else hub.accounts.check_visible
    check(viewer, repository)
    return repository


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries."""
    try:
        found = json.loads(await request.body() or b"{}")
    except json.JSONDecodeError as error:
        raise Refusal(400, f"The body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body is not a JSON object")
    return found


async def refused(_: Request, error: Exception) -> Response:
    """The answer to what a route refused."""
    assert isinstance(error, Refusal)
    message = error.message.encode("ascii", "replace").decode()
    headers = {"X-Error-Message": message} | ({"X-Error-Code": error.code} if error.code else {})
    return JSONResponse({"error": error.message, **error.facts}, error.status, headers)


async def moved(request: Request, error: Exception) -> Response:
    """The answer where a repository has another name."""
    assert isinstance(error, Moved)
    query = f"?{request.url.query}" if request.url.query else ""
    return Response(status_code=307, headers={"Location": error.path + query})


class EncodedPaths:
    """Routes see paths as they were sent, so that `refs%2Fpr%2F1` is one part of them."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["raw_path"].decode("ascii")
            # `datasets` and file systems leave the slashes of these revisions as they are.
            path = re.sub(r"/(refs/(?:pr|convert)/\w+)(?=/|$)", lambda found: "/" + quote(found[1], safe=""), path)
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)
