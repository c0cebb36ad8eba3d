"""Each fault, first as it is on the wire, then as `huggingface_hub` lives with it."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
import pytest

from tests.hub import LocalHub
from tests.hub.client import ask

FILE = "/alice/model/resolve/main/x.txt"
LARGE = "/alice/model/resolve/main/x.bin"
CONTENT = b"0123456789" * 100
CLIENT = httpx2.Client(follow_redirects=True, trust_env=False, verify=False)


@pytest.fixture
def filled(local_hub: LocalHub) -> LocalHub:
    """A Hub with one repository of a small and a large file."""
    local_hub.create("alice/model", files={"x.txt": CONTENT, "x.bin": CONTENT})
    return local_hub


def get(hub: LocalHub, path: str = FILE) -> httpx2.Response:
    return CLIENT.get(hub.url + path)


def read_into(received: bytearray, address: str, start: int) -> None:
    """Read a file from a byte on, for as long as the connection lasts."""
    with CLIENT.stream("GET", address, headers={"Range": f"bytes={start}-"}) as response:
        for part in response.iter_raw():
            received.extend(part)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 412, 429, 500, 502, 504])
def test_a_status_as_often_as_asked_for(filled: LocalHub, status: int) -> None:
    """With its Retry-After; other paths and methods are not affected."""
    fault = filled.fail("GET", r"/resolve/main/x\.txt$", status=status, times=2, retry_after=7)
    assert get(filled, LARGE).status_code == 200
    assert CLIENT.head(filled.url + FILE).status_code == 200
    answers = [get(filled) for _ in range(3)]
    assert [one.status_code for one in answers] == [status, status, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert fault.hits == 2
    assert filled.requests[-1] == ("GET", FILE, 200)


def test_a_fault_ends_when_it_is_removed(filled: LocalHub) -> None:
    fault = filled.fail("*", "resolve", status=500, times=None)
    assert [get(filled).status_code for _ in range(3)] == [500, 500, 500]
    filled.faults.remove(fault)
    assert get(filled).status_code == 200


def test_a_fault_that_does_nothing_is_refused(filled: LocalHub) -> None:
    with pytest.raises(ValueError, match="needs one of status"):
        filled.fail("GET", "/")


@pytest.mark.parametrize("path", [FILE, LARGE])
def test_a_connection_is_cut_at_a_byte_of_the_file(filled: LocalHub, path: str) -> None:
    """Wherever a range begins, so that a client that resumes gets no further."""
    filled.fail("GET", "/storage/" if path == LARGE else "x.txt", cut_at=300, times=2)
    for start, expected in ((0, 300), (250, 50)):
        received = bytearray()
        with pytest.raises(httpx2.RemoteProtocolError):
            read_into(received, filled.url + path, start)
        assert received == CONTENT[start : start + expected]
    assert get(filled, path).content == CONTENT


def test_an_upload_is_cut(filled: LocalHub) -> None:
    """The client sees the connection end, and nothing was stored."""
    address = filled.objects.address("0" * 64)
    filled.fail("PUT", "/storage/", cut_at=1000)
    with pytest.raises(httpx2.TransportError):
        CLIENT.put(address, content=b"x" * 10_000_000)
    assert len(filled.objects) == 1
    assert filled.requests[-1][2] == 0
    assert CLIENT.put(address, content=b"x" * 10_000).status_code == 200


def test_a_slow_answer(filled: LocalHub) -> None:
    filled.fail("GET", "x.txt", delay=0.3)
    start = time.monotonic()
    assert get(filled).content == CONTENT
    assert time.monotonic() - start >= 0.3


def test_a_corrupted_file_has_its_length(filled: LocalHub) -> None:
    filled.fail("GET", "x.txt", corrupt=True)
    found = get(filled).content
    assert found[:-1] == CONTENT[:-1]
    assert found[-1:] != CONTENT[-1:]
    assert get(filled).content == CONTENT


def test_a_download_is_tried_again_after_a_cut(filled: LocalHub, tmp_path: Path) -> None:
    """At the address of the large file, to which no token goes."""
    filled.fail("GET", "/storage/", cut_at=300)
    program = "answer(open(api.hf_hub_download('alice/model', 'x.bin')).read())"
    assert ask(filled, program, None, tmp_path) == CONTENT.decode()
    assert [status for _, path, status in filled.requests if path.startswith("/storage/")] == [200, 200]


def test_an_upload_that_arrives_as_something_else_is_not_committed(local_hub: LocalHub, tmp_path: Path) -> None:
    """The check after the upload finds it; uploading again succeeds."""
    program = """
    api.create_repo("alice/model", exist_ok=True)
    answer(attempt(lambda: api.upload_file(path_or_fileobj=b"12345", path_in_repo="x.bin", repo_id="alice/model")))
    """
    local_hub.fail("PUT", "/storage/", corrupt=True)
    token = local_hub.token("alice")
    assert ask(local_hub, program, token, tmp_path) == "RuntimeError"
    assert len(local_hub.repo("alice/model").commits()) == 1
    assert ask(local_hub, program, token, tmp_path) == "done"
    assert local_hub.repo("alice/model").files()["x.bin"] == b"12345"


def test_the_client_waits_as_long_as_it_is_told(local_hub: LocalHub, tmp_path: Path) -> None:
    """429 with Retry-After while asking how to upload: one wait, then everything is committed."""
    program = """
    api.create_repo("alice/model")
    api.upload_file(path_or_fileobj=b"12345", path_in_repo="x.txt", repo_id="alice/model")
    answer("done")
    """
    fault = local_hub.fail("POST", "/preupload/", status=429, retry_after=1)
    assert ask(local_hub, program, local_hub.token("alice"), tmp_path) == "done"
    assert fault.hits == 1
    assert [status for _, path, status in local_hub.requests if "/preupload/" in path] == [429, 200]


def test_a_commit_that_fails_changes_nothing(local_hub: LocalHub, tmp_path: Path) -> None:
    program = """
    api.create_repo("alice/model")
    upload = lambda: api.upload_file(path_or_fileobj=b"12345", path_in_repo="x.txt", repo_id="alice/model")
    answer([attempt(upload), api.list_repo_files("alice/model"), attempt(upload), api.list_repo_files("alice/model")])
    """
    local_hub.fail("POST", "/commit/", status=500)
    first, none, second, files = ask(local_hub, program, local_hub.token("alice"), tmp_path)
    assert (first, none) == ("HfHubHTTPError", [".gitattributes"])
    assert (second, files) == ("done", [".gitattributes", "x.txt"])
