"""Routes of discussions and pull requests: list, open, read, comment, rename, close, merge."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.hub.refusals import Refusal
from tests.hub.repository import Discussion, Repository, iso
from tests.hub.web import API, body_of, hub_of, part, repository_of, viewer_of


async def listed(request: Request) -> Response:
    repository, query = repository_of(request), request.query_params
    found = [
        _summary(repository, one)
        for one in reversed(repository.discussions)
        if query.get("author", one.author) == one.author
        and query.get("type", "all") in ("all", "pull_request" if one.is_pull_request else "discussion")
        and query.get("status", "all") in ("all", "closed" if one.status in ("closed", "merged") else "open")
    ]
    start, size = int(query.get("p", 0)) * hub_of(request).page_size, hub_of(request).page_size
    return JSONResponse({"count": len(found), "start": start, "discussions": found[start : start + size]})


async def opened(request: Request) -> Response:
    repository, asked = repository_of(request), await body_of(request)
    viewer = hub_of(request).accounts.check_pull_request(viewer_of(request), repository)
    made = repository.open_discussion(
        str(asked.get("title")), viewer.user, str(asked.get("description", "")), bool(asked.get("pullRequest"))
    )
    return JSONResponse(_summary(repository, made), 201)


async def details(request: Request) -> Response:
    repository, one = _discussion(request)
    found = {**_summary(repository, one), "events": one.events}
    if one.is_pull_request:
        changes = {"base": "refs/heads/main"} | ({"mergeCommitId": one.merge_commit} if one.merge_commit else {})
        found |= {"changes": changes, "filesWithConflicts": [], "diff": ""}
    return JSONResponse(found)


async def changed(request: Request) -> Response:
    """Comment, rename, open, close or merge."""
    repository, one = _discussion(request)
    asked, action = await body_of(request), request.path_params["action"]
    viewer = hub_of(request).accounts.check_pull_request(viewer_of(request), repository)
    if action == "comment":
        event = one.add_event(
            "comment", viewer.user, edited=False, hidden=False, latest={"raw": str(asked.get("comment"))}
        )
        return JSONResponse({"newMessage": event})
    if action == "title":
        event = one.add_event("title-change", viewer.user, **{"from": one.title, "to": str(asked.get("title"))})
        one.title = str(asked.get("title"))
        return JSONResponse({"newTitle": event})
    if action == "status":
        one.status = str(asked.get("status"))
        return JSONResponse({"newStatus": one.add_event("status-change", viewer.user, status=one.status)})
    if action == "merge" and one.is_pull_request:
        hub_of(request).accounts.check_write(viewer, repository)
        made = repository.merge(one, viewer.user)
        one.add_event("status-change", viewer.user, status="merged")
        return JSONResponse({"mergeCommitId": made.id})
    raise Refusal(404, f"Unknown action {action}")


def _discussion(request: Request) -> tuple[Repository, Discussion]:
    repository, num = repository_of(request), part(request, "num")
    found = [one for one in repository.discussions if str(one.num) == num]
    if not found:
        raise Refusal(404, f"Discussion {num} not found")
    return repository, found[0]


def _summary(repository: Repository, one: Discussion) -> dict[str, Any]:
    return {
        "num": one.num,
        "title": one.title,
        "status": one.status,
        "author": {"name": one.author},
        "createdAt": iso(one.created),
        "isPullRequest": one.is_pull_request,
        "repo": {"name": repository.id, "type": repository.type},
    }


ROUTES = [
    Route(f"{API}/discussions", listed),
    Route(f"{API}/discussions", opened, methods=["POST"]),
    Route(f"{API}/discussions/{{num}}", details),
    Route(f"{API}/discussions/{{num}}/{{action}}", changed, methods=["POST"]),
]
