"""Routes that read files: listings, facts about paths, and the contents themselves, large ones from another host."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.hub.refusals import Refusal, no_such_entry
from tests.hub.repository import Blob, Commit, iso
from tests.hub.web import API, hub_of, part, repository_of


async def tree(request: Request) -> Response:
    """The files and folders in a folder, page by page."""
    repository, hub = repository_of(request), hub_of(request)
    commit, folder = repository.at(part(request, "revision")), part(request, "path")
    query = request.query_params
    prefix = f"{folder}/" if folder else ""
    inside = [path for path in commit.files if path.startswith(prefix)]
    if folder and not inside:
        raise no_such_entry(folder)
    names = set(inside) | {parent for path in inside for parent in _parents(path) if parent.startswith(prefix)}
    if query.get("recursive", "").lower() != "true":
        names = {name for name in names if "/" not in name[len(prefix) :]}
    ordered = sorted(names)
    start, size = int(query.get("cursor", 0)), min(hub.page_size, int(query.get("limit", hub.page_size)))
    shown = _entries(commit, ordered[start : start + size], query.get("expand", "").lower() == "true")
    headers = {}
    if start + size < len(ordered):
        headers["Link"] = f'<{request.url.include_query_params(cursor=start + size)}>; rel="next"'
    return JSONResponse(shown, headers=headers)


async def paths_info(request: Request) -> Response:
    """Facts about some paths; those that do not exist are left out."""
    commit = repository_of(request).at(part(request, "revision"))
    form = parse_qs((await request.body()).decode())
    wanted = [path.rstrip("/") for path in form.get("paths", [])]
    known = set(commit.files) | {parent for path in commit.files for parent in _parents(path)}
    expand = form.get("expand", [""])[0].lower() == "true"
    return JSONResponse(_entries(commit, [path for path in wanted if path in known], expand))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _entries(commit: Commit, paths: Iterable[str], expand: bool) -> list[dict[str, Any]]:
    return [_entry(commit, path, expand) for path in paths]


def _entry(commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """A file or folder as listings show it."""
    blob = commit.files.get(path)
    found: dict[str, Any] = {"path": path}
    if blob is None:
        inside = "".join(one.oid for name, one in commit.files.items() if name.startswith(f"{path}/"))
        found |= {"type": "directory", "oid": Blob(inside.encode()).oid, "size": 0}
    else:
        found |= {"type": "file", "oid": blob.oid, "size": blob.size}
    if blob is not None and blob.is_lfs:
        found["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if expand:
        last = commit.last_change(path)
        found["lastCommit"] = {"id": last.id, "title": last.title, "date": iso(last.date)}
    if expand and blob is not None:
        found["securityFileStatus"] = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
    return found


async def resolve(request: Request) -> Response:
    """The content of a file, or for a large one the address of it."""
    hub, repository = hub_of(request), repository_of(request, download=True)
    commit, path = repository.at(part(request, "revision")), part(request, "path")
    blob = commit.files.get(path)
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    if blob is None:
        message = f"Entry not found: {path}".encode("ascii", "replace").decode()
        headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": message}
        return JSONResponse({"error": "Entry not found"}, 404, headers)
    name = path.rpartition("/")[2].encode("ascii", "replace").decode()
    headers["Content-Disposition"] = f'inline; filename="{name}"'
    if not blob.is_lfs:
        return _content(request, blob.content, {**headers, "ETag": f'"{blob.oid}"'}, path)
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "ETag": f'"{blob.sha256}"'}
    return Response(status_code=302, headers={**headers, "Location": hub.objects.address(blob.sha256)})


async def stored(request: Request) -> Response:
    """A large file, at an address that is signed and asks for no token."""
    hub, oid = hub_of(request), request.path_params["oid"]
    hub.objects.check_signature(request)
    if oid not in hub.objects:
        raise Refusal(404, "NoSuchKey")
    return _content(request, hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}, "")


def _content(request: Request, content: bytes, headers: dict[str, str], path: str) -> Response:
    """A content, or the range of it that is asked for."""
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not found or found.groups() == ("", ""):
        return Response(content, headers=headers, media_type=kind)
    first, last = found.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    if start >= len(content) or end < start:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Response(content[start : end + 1], 206, headers, kind)


async def page(request: Request) -> Response:
    """The page of a repository, for whoever follows the link that a client prints."""
    repository = repository_of(request)
    listed = "\n".join(f"{path}\t{blob.size}" for path, blob in repository.at("main").files.items())
    text = f"{repository.type} {repository.id}\nprivate: {repository.private}\n\n{listed}\n"
    return Response(text, media_type="text/plain")


def _of_each_type(path: str, endpoint: Any) -> list[Route]:
    """The route for models, which have no prefix, and for the other types."""
    return [Route(f"/{{kind}}{path}", endpoint), Route(path, endpoint)]


ROUTES = [
    Route(f"{API}/tree/{{revision}}", tree),
    Route(f"{API}/tree/{{revision}}/{{path:path}}", tree),
    Route(f"{API}/paths-info/{{revision}}", paths_info, methods=["POST"]),
    Route("/storage/{oid}", stored),
    *_of_each_type("/{namespace}/{name}/resolve/{revision}/{path:path}", resolve),
    *_of_each_type("/{namespace}/{name}/raw/{revision}/{path:path}", resolve),
]
PAGES = _of_each_type("/{namespace}/{name}", page)
