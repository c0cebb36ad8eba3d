"""Routes that write files: how each is to be sent, large files, and the commit that makes them part of a repository."""

from __future__ import annotations

import base64
import fnmatch
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.hub.cards import validation
from tests.hub.refusals import Refusal, no_such_entry
from tests.hub.repository import ATTRIBUTES, Blob, Commit, Repository
from tests.hub.web import API, body_of, hub_of, part, repository_of, viewer_of

LFS_TYPE = "application/vnd.git-lfs+json"


async def preupload(request: Request) -> Response:
    """Say of each file whether it is stored in git or as a large one, and what is there now."""
    repository, asked = repository_of(request), await body_of(request)
    _check_may_commit(request, repository)
    revision = part(request, "revision")
    files = repository.at(revision).files
    ignored = asked.get("gitIgnore", files[".gitignore"].content.decode() if ".gitignore" in files else "")
    answer = [
        {
            "path": one["path"],
            "uploadMode": "lfs" if _is_large(request, one, files) else "regular",
            "shouldIgnore": any(_matches(one["path"], line) for line in ignored.splitlines()),
            "oid": files[one["path"]].etag if one["path"] in files else None,
        }
        for one in asked.get("files", [])
    ]
    return JSONResponse({"files": answer})


def _is_large(request: Request, file: Mapping[str, Any], files: Mapping[str, Blob]) -> bool:
    sample = base64.b64decode(file.get("sample", ""))
    return is_large(file["path"], file["size"], sample, files, hub_of(request).largest_regular)


def is_large(path: str, size: int, sample: bytes, files: Mapping[str, Blob], limit: int) -> bool:
    """Whether a file is stored outside of git: by its name, its size, or because its beginning is binary."""
    lines = files[ATTRIBUTES].content.decode().splitlines() if ATTRIBUTES in files else []
    named = any("filter=lfs" in line and _matches(path, line.split()[0]) for line in lines if line.strip())
    return size > 0 and (named or size > limit or b"\0" in sample)


def _matches(path: str, pattern: str) -> bool:
    """Whether a line of `.gitignore` or `.gitattributes` means a path: its name, or a folder above it."""
    pattern = pattern.strip()
    if not pattern or pattern.startswith("#"):
        return False
    if "/" in pattern.rstrip("/"):
        pattern = pattern.strip("/")
        return fnmatch.fnmatchcase(path, pattern) or path.startswith(f"{pattern}/")
    return any(fnmatch.fnmatchcase(name, pattern.rstrip("/")) for name in path.split("/"))


def _check_may_commit(request: Request, repository: Repository) -> None:
    """Raise unless the viewer may write; for a pull request it is enough to read."""
    accounts, viewer = hub_of(request).accounts, viewer_of(request)
    if request.query_params.get("create_pr") or part(request, "revision").startswith("refs/pr/"):
        accounts.check_pull_request(viewer, repository)
    else:
        accounts.check_write(viewer, repository)


async def lfs_batch(request: Request) -> Response:
    """Say of each large file where to send it; nothing for those that are there."""
    repository, asked, hub = repository_of(request), await body_of(request), hub_of(request)
    ref = asked.get("ref", {}).get("name", "refs/pr/")
    check = hub.accounts.check_pull_request if ref.startswith("refs/pr/") else hub.accounts.check_write
    check(viewer_of(request), repository)
    verify = f"{hub.url}{request.scope['path'].removesuffix('/objects/batch')}/verify"
    answer = []
    for one in asked.get("objects", []):
        described: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] not in hub.objects:
            upload = hub.objects.upload_action(one["oid"], one["size"], asked.get("transfers", []))
            described["actions"] = {"upload": upload, "verify": {"href": verify, "header": {}}}
        answer.append(described)
    parts = any("header" in one.get("actions", {}).get("upload", {}) for one in answer)
    return JSONResponse({"transfer": "multipart" if parts else "basic", "objects": answer}, media_type=LFS_TYPE)


async def receive(request: Request) -> Response:
    """Take a large file or a part of it, as an object store does, which does not look at the content."""
    hub, oid = hub_of(request), request.path_params["oid"]
    hub.objects.check_signature(request)
    content = await request.body()
    if number := request.query_params.get("part"):
        hub.objects.parts[oid, int(number)] = content
    else:
        hub.objects.add(content)
    return Response(headers={"ETag": f'"{Blob(content).sha256}"'})


async def complete(request: Request) -> Response:
    hub, oid = hub_of(request), request.path_params["oid"]
    hub.objects.check_signature(request)
    hub.objects.complete(oid, int(request.query_params["complete"]))
    return JSONResponse({})


async def verify(request: Request) -> Response:
    """Check that a large file arrived as it was announced."""
    asked, hub = await body_of(request), hub_of(request)
    viewer_of(request)
    if len(hub.objects.get(asked["oid"], b"")) != asked["size"] or asked["oid"] not in hub.objects:
        raise Refusal(422, f"The uploaded content is not that of {asked['oid']}: the hash or the size differs")
    return JSONResponse({})


async def commit(request: Request) -> Response:
    """Make a commit of the operations in the body, on a branch or as a new pull request."""
    hub, repository = hub_of(request), repository_of(request)
    _check_may_commit(request, repository)
    viewer, revision = viewer_of(request), part(request, "revision")
    assert viewer is not None
    header, operations = _operations(await request.body())
    wants_request = bool(request.query_params.get("create_pr"))
    changes = _changes(operations, repository.at(revision), hub.objects)
    _check_card(changes)
    title, text, parent = header.get("summary", ""), header.get("description", ""), header.get("parentCommit")
    if not title:
        raise Refusal(400, "The commit has no summary")
    pull = repository.open_discussion(title, viewer.user, text, True) if wants_request else None
    ref = pull.ref if pull else _writable(repository, revision)
    made = repository.commit(changes, title, text, viewer.user, ref, parent)
    if pull or ref.startswith("refs/pr/"):
        request_of = pull or repository.discussions[int(ref.rpartition("/")[2]) - 1]
        request_of.add_event("commit", viewer.user, subject=title, oid=made.id)
    answer = {"success": True, "commitOid": made.id, "commitUrl": f"{hub.page_of(repository)}/commit/{made.id}"}
    if pull:
        answer["pullRequestUrl"] = f"{hub.page_of(repository)}/discussions/{pull.num}"
    return JSONResponse(answer)


def _writable(repository: Repository, revision: str) -> str:
    """The full name of the branch or pull request that a commit is for."""
    for ref in (f"refs/heads/{revision}", revision):
        if ref in repository.refs and not ref.startswith("refs/tags/"):
            return ref
    raise Refusal(400, f"{revision} is not a branch, and commits go to branches only")


def _operations(body: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the operations of a commit, one JSON object a line."""
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise Refusal(400, f"The body is not NDJSON: {error}") from None
    if not lines or lines[0].get("key") != "header":
        raise Refusal(400, "The first line must be the header of the commit")
    return lines[0]["value"], lines[1:]


def _changes(operations: list[dict[str, Any]], before: Commit, objects: dict[str, bytes]) -> dict[str, Blob | None]:
    """What each operation makes of each path."""
    changes: dict[str, Blob | None] = {}
    for operation in operations:
        key, value = operation["key"], operation["value"]
        path = value["path"].rstrip("/")
        inside = [name for name in before.files if name.startswith(f"{path}/")]
        if key == "file":
            changes[path] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in objects:
                raise Refusal(400, f"Your push was rejected because the large file {path} ({value['oid']}) is missing")
            changes[path] = Blob(objects[value["oid"]], is_lfs=True)
        elif key == "deletedFile" and path in before.files:
            changes[path] = None
        elif key == "deletedFolder" and inside:
            changes |= dict.fromkeys(inside)
        elif key in ("deletedFile", "deletedFolder"):
            refusal = no_such_entry(path)
            raise Refusal(refusal.status, f"A file with this name doesn't exist: {path}", refusal.code)
        else:
            raise Refusal(400, f"Unknown operation {key}")
    return changes


def _check_card(changes: dict[str, Blob | None]) -> None:
    card = changes.get("README.md")
    errors = validation(card.content.decode("utf-8", "replace"))[0] if card else []
    if errors:
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))


async def xet_token(_: Request) -> Response:
    """No Xet here; clients that are to use it anyway end with an error, others upload as git-lfs does."""
    raise Refusal(404, "Xet storage is not enabled: set HF_HUB_DISABLE_XET=1")


_LFS = "/{namespace}/{name}.git/info/lfs"
ROUTES = [
    Route(f"{API}/preupload/{{revision}}", preupload, methods=["POST"]),
    Route(f"{API}/commit/{{revision}}", commit, methods=["POST"]),
    Route(f"{API}/xet-write-token/{{revision}}", xet_token),
    Route(f"{API}/xet-read-token/{{revision}}", xet_token),
    Route("/storage/{oid}", receive, methods=["PUT"]),
    Route("/storage/{oid}", complete, methods=["POST"]),
    *(
        Route(prefix + _LFS + path, endpoint, methods=["POST"])
        for prefix in ("", "/{kind}")
        for path, endpoint in (("/objects/batch", lfs_batch), ("/verify", verify))
    ),
]
