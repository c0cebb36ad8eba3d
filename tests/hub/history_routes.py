"""Routes of the history: refs, commits, branches, tags."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.hub.accounts import Token
from tests.hub.refusals import Refusal, no_such_revision
from tests.hub.repository import Repository, iso
from tests.hub.web import API, body_of, hub_of, part, repository_of, viewer_of


async def refs(request: Request) -> Response:
    repository = repository_of(request)
    groups = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/"}
    found = {
        group: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in repository.refs.items()
            if ref.startswith(prefix)
        ]
        for group, prefix in groups.items()
        if group != "pullRequests" or request.query_params.get("include_prs")
    }
    return JSONResponse({**found, "converts": []})


async def commits(request: Request) -> Response:
    """The history of a revision, newest first, page by page."""
    history, size = repository_of(request).commits(part(request, "revision")), hub_of(request).page_size
    start = int(request.query_params.get("p", 0)) * size
    headers = {}
    if start + size < len(history):
        headers["Link"] = f'<{request.url.include_query_params(p=start // size + 1)}>; rel="next"'
    shown = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.description,
            "authors": [{"user": commit.author}],
            "date": iso(commit.date),
        }
        for commit in history[start : start + size]
    ]
    return JSONResponse(shown, headers=headers)


def _to_write(request: Request) -> tuple[Repository, Token]:
    """The repository, and the viewer who may write to it."""
    repository, viewer = repository_of(request), viewer_of(request)
    hub_of(request).accounts.check_write(viewer, repository)
    assert viewer is not None
    return repository, viewer


async def create_branch(request: Request) -> Response:
    repository, _ = _to_write(request)
    ref = f"refs/heads/{part(request, 'branch')}"
    start = (await body_of(request)).get("startingPoint") or "main"
    return _created(repository, ref, repository.at(start).id, "branch")


async def create_tag(request: Request) -> Response:
    repository, _ = _to_write(request)
    ref = f"refs/tags/{(await body_of(request)).get('tag')}"
    return _created(repository, ref, repository.at(part(request, "revision")).id, "tag")


def _created(repository: Repository, ref: str, oid: str, what: str) -> Response:
    if ref in repository.refs:
        raise Refusal(409, f"Reference already exists: a {what} of this name")
    repository.refs[ref] = oid
    return JSONResponse({"ref": ref}, 201)


async def delete_ref(request: Request) -> Response:
    repository, _ = _to_write(request)
    kind, name = ("tags", "tag") if "tag" in request.path_params else ("heads", "branch")
    ref = f"refs/{kind}/{part(request, name)}"
    if ref not in repository.refs:
        raise no_such_revision(part(request, name))
    if ref == "refs/heads/main":
        raise Refusal(403, "The default branch cannot be deleted")
    del repository.refs[ref]
    return JSONResponse({})


async def super_squash(request: Request) -> Response:
    repository, viewer = _to_write(request)
    message = (await body_of(request)).get("message") or "Super-squash branch"
    repository.squash(part(request, "branch"), message, viewer.user)
    return JSONResponse({})


ROUTES = [
    Route(f"{API}/refs", refs),
    Route(f"{API}/commits/{{revision}}", commits),
    Route(f"{API}/branch/{{branch}}", create_branch, methods=["POST"]),
    Route(f"{API}/branch/{{branch}}", delete_ref, methods=["DELETE"]),
    Route(f"{API}/tag/{{revision}}", create_tag, methods=["POST"]),
    Route(f"{API}/tag/{{tag}}", delete_ref, methods=["DELETE"]),
    Route(f"{API}/super-squash/{{branch}}", super_squash, methods=["POST"]),
]
