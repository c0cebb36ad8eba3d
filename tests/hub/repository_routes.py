"""Routes of accounts and repositories: who am I, create, look up, change, move and delete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.hub.cards import derived, validation
from tests.hub.refusals import Refusal, forbidden
from tests.hub.repository import Blob, Commit, Repository, iso
from tests.hub.web import API, KINDS, body_of, hub_of, part, repository_of, viewer_of


async def whoami(request: Request) -> Response:
    viewer = viewer_of(request)
    if viewer is None:
        raise Refusal(401, "Invalid username or password.")
    return JSONResponse(hub_of(request).accounts.described(viewer))


async def validate_card(request: Request) -> Response:
    errors, warnings = validation(str((await body_of(request)).get("content", "")))
    answer = {"errors": [{"message": one} for one in errors], "warnings": [{"message": one} for one in warnings]}
    return JSONResponse(answer, 400 if errors else 200)


async def create(request: Request) -> Response:
    hub, viewer, asked = hub_of(request), viewer_of(request), await body_of(request)
    kind, name = asked.get("type") or "model", str(asked.get("name"))
    namespace = hub.accounts.check_create(viewer, asked.get("organization"), kind)
    assert viewer is not None
    repo_id = f"{namespace}/{name}"
    private = asked.get("private") or asked.get("visibility") == "private"
    made = hub.new_repository(repo_id, kind, bool(private), viewer.user)
    return JSONResponse({"url": hub.page_of(made), "name": repo_id, "id": repo_id, "private": made.private})


async def delete(request: Request) -> Response:
    hub, asked = hub_of(request), await body_of(request)
    viewer = viewer_of(request)
    namespace = asked.get("organization") or (viewer.user if viewer else "")
    repository = hub.lookup(f"{namespace}/{asked.get('name')}", asked.get("type") or "model", viewer)
    hub.accounts.check_write(viewer, repository)
    hub.remove(repository)
    return Response(status_code=200)


async def move(request: Request) -> Response:
    hub, viewer, asked = hub_of(request), viewer_of(request), await body_of(request)
    kind, target = asked.get("type") or "model", str(asked.get("toRepo"))
    repository = hub.lookup(str(asked.get("fromRepo")), kind, viewer)
    hub.accounts.check_write(viewer, repository)
    hub.accounts.check_create(viewer, target.partition("/")[0], kind)
    hub.rename(repository, target)
    return JSONResponse({"url": hub.page_of(repository)})


async def change_settings(request: Request) -> Response:
    repository, asked = repository_of(request), await body_of(request)
    hub_of(request).accounts.check_write(viewer_of(request), repository)
    if "visibility" in asked or "private" in asked:
        repository.private = bool(asked.get("private") or asked.get("visibility") == "private")
    if "gated" in asked:
        repository.gated = asked["gated"]
    return JSONResponse({"private": repository.private, "gated": repository.gated})


async def info(request: Request) -> Response:
    repository = repository_of(request)
    commit = repository.at(part(request, "revision") or "main")
    query = request.query_params
    found = described(repository, commit, sizes=query.get("blobs", "").lower() in ("1", "true"))
    expand = query.getlist("expand") + query.getlist("expand[]")
    if expand:
        found = {"_id": found["_id"], "id": found["id"]} | {key: found[key] for key in expand if key in found}
    return JSONResponse(found)


def described(repository: Repository, commit: Commit, sizes: bool = False) -> dict[str, Any]:
    """What the Hub says of a repository at a commit."""
    files = {path: blob.content for path, blob in commit.files.items()}
    facts = derived(files)
    if repository.type == "dataset":
        facts = {key: value for key, value in facts.items() if key in ("cardData", "tags")}
    return {
        "_id": hashlib.sha1(repository.id.encode()).hexdigest()[:24],
        "id": repository.id,
        "author": repository.namespace,
        "sha": commit.id,
        "createdAt": iso(repository.created),
        "lastModified": iso(repository.at("main").date),
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "usedStorage": sum(blob.size for blob in commit.files.values()),
        "siblings": [_sibling(path, blob, sizes) for path, blob in commit.files.items()],
        **facts,
    }


def _sibling(path: str, blob: Blob, sizes: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path}
    if sizes:
        found |= {"size": blob.size, "blobId": blob.oid}
    if sizes and blob.is_lfs:
        found["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return found


async def listed(request: Request) -> Response:
    """All repositories of a type that the viewer may know of, by author and words in the name."""
    kind = KINDS.get(request.path_params["kind"])
    if kind is None:
        raise Refusal(404, "Not found")
    query = request.query_params
    found = [
        described(repository, repository.at("main"))
        for repository in _visible(request, hub_of(request).repositories())
        if repository.type == kind
        and query.get("author", repository.namespace) == repository.namespace
        and query.get("search", "").lower() in repository.id.lower()
    ]
    return JSONResponse(found[: int(query.get("limit", len(found)))])


def _visible(request: Request, repositories: Iterable[Repository]) -> list[Repository]:
    viewer, found = viewer_of(request), []
    for repository in repositories:
        try:
            hub_of(request).accounts.check_visible(viewer, repository)
        except Refusal:
            continue
        found.append(repository)
    return found


async def check_access(request: Request) -> Response:
    repository = repository_of(request, download=True)
    if request.url.path.endswith("/write"):
        hub_of(request).accounts.check_write(viewer_of(request), repository)
    return JSONResponse({})


async def ask_for_access(request: Request) -> Response:
    """Ask for access to a gated repository; `auto` grants it at once."""
    repository, viewer = repository_of(request), viewer_of(request)
    if viewer is None:
        raise forbidden("Log in to ask for access")
    if repository.gated == "auto":
        repository.allowed.add(viewer.user)
    return JSONResponse({"granted": viewer.user in repository.allowed})


ROUTES = [
    Route("/api/whoami-v2", whoami),
    Route("/api/validate-yaml", validate_card, methods=["POST"]),
    Route("/api/repos/create", create, methods=["POST"]),
    Route("/api/repos/delete", delete, methods=["DELETE"]),
    Route("/api/repos/move", move, methods=["POST"]),
    Route("/api/{kind}", listed),
    Route(API, info),
    Route(f"{API}/revision/{{revision}}", info),
    Route(f"{API}/settings", change_settings, methods=["PUT"]),
    Route(f"{API}/auth-check", check_access),
    Route(f"{API}/auth-check/write", check_access),
    Route(f"{API}/ask-access", ask_for_access, methods=["POST"]),
]
