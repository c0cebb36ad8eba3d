"""Whatever goes wrong with the Hub: one line says it, nothing is half published, and the second run completes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hub import LocalHub
from tests.publishing.pushing import Pusher
from tests.publishing.test_push import NEW, holds, titles

HURRY = "import time\nslept = time.sleep\ntime.sleep = lambda seconds: slept(min(seconds, 0.02))\n"
"""Makes the waits of a process short; what it prints about them stays."""


@pytest.fixture
def hurried(pusher: Pusher, tmp_path: Path) -> Pusher:
    """A user whose waits take no time."""
    (tmp_path / "hurry").mkdir()
    (tmp_path / "hurry/sitecustomize.py").write_text(HURRY)
    pusher.path = str(tmp_path / "hurry")
    return pusher


@dataclass
class Fault:
    """What goes wrong, and what the user reads.

    Attributes:
        says: A regular expression that the error matches.
        fails: Faults of the server, as arguments of `LocalHub.fail`.
        sets_up: Called with the user before the first run.
        mends: Called with the user before the second run.
        repo_id: The repository.
    """

    says: str
    fails: list[dict[str, Any]] = field(default_factory=list)
    sets_up: Callable[[Pusher], object] = lambda pusher: None
    mends: Callable[[Pusher], object] = lambda pusher: None
    repo_id: str = "alice/model"


def token(role: str | None, value: str | None = None) -> Callable[[Pusher], None]:
    """Give the user another token."""

    def change(pusher: Pusher) -> None:
        pusher.token = value if role is None else pusher.hub.token("alice", role)

    return change


def away(pusher: Pusher) -> None:
    """Lead the user to a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        pusher.variables["HF_ENDPOINT"] = f"http://127.0.0.1:{free.getsockname()[1]}"


def taken(pusher: Pusher) -> None:
    """A private repository of an organization, which a fine-grained token of a member does not see."""
    pusher.hub.organization("org", {"alice": "write", "bob": "admin"})
    pusher.hub.create("org/model", private=True)
    pusher.token = pusher.hub.token("alice", "none", {"org": ["repo.write"]})


def no_member(pusher: Pusher) -> None:
    pusher.hub.organization("org", {"bob": "admin"})


def gated(pusher: Pusher) -> None:
    """A gated repository that holds a run, read to see whose it is."""
    content = (pusher.folder / "run.json").read_bytes()
    pusher.hub.create("bob/model", gated=True, files={"run.json": content})


def always(method: str, path: str, **what: Any) -> list[dict[str, Any]]:
    return [{"method": method, "path": path, "times": None, **what}]


NOT = r"^error: Nothing was published: "
FAULTS = {
    "no token": Fault(NOT + r"there is no token .*hf auth login", [], token(None), token("write")),
    "wrong token": Fault(
        NOT + r"the Hub does not accept the token in HF_TOKEN\..*/settings/tokens",
        [],
        token(None, "hf_" + "x" * 34),
        token("write"),
    ),
    "token that reads only": Fault(NOT + r"the token of alice may only read\.", [], token("read"), token("write")),
    "token without rights": Fault(NOT + r"this token may not write to alice/model ", [], token("none"), token("write")),
    "no member": Fault(
        NOT + r"this token may not write to org/model .*rights to create",
        [],
        no_member,
        lambda pusher: pusher.hub.organization("org", {"alice": "write"}),
        "org/model",
    ),
    "no network": Fault(
        NOT + r"the Hub at http://127\.0\.0\.1:\d+ cannot be reached .*again",
        [],
        away,
        lambda pusher: pusher.variables.clear(),
    ),
    "offline": Fault(
        NOT + r"HF_HUB_OFFLINE is set",
        [],
        lambda pusher: pusher.variables.update(HF_HUB_OFFLINE="1"),
        lambda pusher: pusher.variables.clear(),
    ),
    "name taken": Fault(NOT + r"the name org/model is taken ", [], taken, token("write"), "org/model"),
    "rate limit for long": Fault(
        NOT + r"the Hub limits the rate of requests for another 4000 s\.",
        always("POST", "/repos/create", status=429, retry_after=4000),
    ),
    "rate limit for long at a large file": Fault(
        NOT + r"the Hub limits the rate of requests for another 4000 s\.",
        always("PUT", "/storage/", status=429, retry_after=4000),
    ),
    "rate limit in the end": Fault(
        NOT + r"the Hub limits the rate of requests for another 2 s\.",
        always("POST", "/commit/", status=429, retry_after=2),
    ),
    **{
        f"{status} at {what}": Fault(
            NOT + rf"the Hub at http://127\.0\.0\.1:\d+ answers {status}\..*not sent twice",
            always(method, path, status=status),
        )
        for status, what, method, path in (
            (500, "whoami", "GET", "whoami"),
            (502, "the repository", "POST", "/repos/create"),
            (503, "preupload", "POST", "/preupload/"),
            (504, "the batch", "POST", "/objects/batch"),
            (500, "a large file", "PUT", "/storage/"),
            (502, "verification", "POST", "/verify"),
            (504, "the commit", "POST", "/commit/"),
        )
    },
    "cut in a large file": Fault(NOT + r".* cannot be reached ", always("PUT", "/storage/", cut_at=1000)),
    "cut in the commit": Fault(NOT + r".* cannot be reached ", always("POST", "/commit/", cut_at=1000)),
    "401 at the commit": Fault(NOT + r"the Hub does not accept the token", always("POST", "/commit/", status=401)),
    "403 at the commit": Fault(NOT + r"this token may not write", always("POST", "/commit/", status=403)),
    "404 at preupload": Fault(NOT + r"the upload failed ", always("POST", "/preupload/", status=404)),
    "404 of the repository": Fault(
        NOT + r"alice/model does not exist", always("POST", "/commit/", status=404, error_code="RepoNotFound")
    ),
    "409 at the commit": Fault(NOT + r"alice/model is being changed ", always("POST", "/commit/", status=409)),
    "412 at the commit": Fault(NOT + r"alice/model changed meanwhile\.", always("POST", "/commit/", status=412)),
    "another hash": Fault(NOT + r"the upload failed .*hash", always("PUT", "/storage/", corrupt=True)),
}


@pytest.mark.parametrize("what", FAULTS)
def test_nothing_is_half_published(what: str, hurried: Pusher) -> None:
    """One line, no commit, no token in sight; when it is mended, the same command completes."""
    fault, hub = FAULTS[what], hurried.hub
    fault.sets_up(hurried)
    for one in fault.fails:
        hub.fail(**one)
    code, out, err = hurried(fault.repo_id)
    assert code == 2, (out, err)
    assert err.count("\n") == 1
    assert re.search(fault.says, err), err
    assert not re.search(r"hf_[A-Za-z0-9]{20}", out + err)
    assert "Traceback" not in err
    for made in hub.repositories():
        assert [commit.title for commit in made.commits()] == NEW
    hub.faults.clear()
    fault.mends(hurried)
    code, out, err = hurried(fault.repo_id)
    assert code == 0, err
    assert holds(hub, fault.repo_id, hurried.folder)
    assert len(titles(hub, fault.repo_id)) == 2


def test_gated(pusher: Pusher) -> None:
    """What a gated repository holds is not known, so nothing is sent."""
    gated(pusher)
    code, _, err = pusher("bob/model", "--public")
    assert code == 2
    assert re.search(NOT + r"bob/model is gated.*Ask for access at ", err)
    assert not [path for method, path, _ in pusher.hub.requests if method == "PUT"]


PASSING: dict[str, tuple[list[dict[str, Any]], str]] = {
    "rate limit": (
        [{"method": "POST", "path": path, "status": 429, "retry_after": 7} for path in ("/preupload/", "/commit/")],
        r"limits the rate of requests: trying again in [78] s \(1 of \d\)",
    ),
    "server errors": (
        [
            {"method": method, "path": path, "status": status, "times": 2}
            for method, path, status in (
                ("GET", "whoami", 500),
                ("POST", "/repos/create", 502),
                ("GET", "/refs", 503),
                ("POST", "/preupload/", 504),
                ("PUT", "/storage/", 500),
                ("POST", "/commit/", 502),
                ("POST", "/tag/", 503),
            )
        ],
        r"The Hub answered 502: trying again in 2 s \(2 of 4\)",
    ),
    "cut connections": (
        [
            {"method": method, "path": path, "cut_at": 100}
            for method, path in (("GET", "whoami"), ("PUT", "/storage/"), ("POST", "/commit/"), ("GET", "/tree/"))
        ],
        r"The Hub did not answer: trying again in 1 s",
    ),
    "slow": ([{"method": "*", "path": "/", "delay": 0.3, "times": 5}], r"Published: "),
}
"""What passes -> the faults, and what the user reads."""


@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_waited_for(what: str, hurried: Pusher) -> None:
    """It is said, and the push completes: one commit, one tag, no error."""
    faults, said = PASSING[what]
    for one in faults:
        hurried.hub.fail(**one)
    code, out, err = hurried("alice/model", "--tag", "v1")
    assert (code, err) == (0, "")
    assert re.search(said, out), out
    assert all(fault.hits == fault.times for fault in hurried.hub.faults)
    assert holds(hurried.hub, "alice/model", hurried.folder)
    assert len(titles(hurried.hub, "alice/model")) == 2
    assert {*hurried.hub.repo("alice/model").tags} == {"v1"}
    assert "http" not in "".join(line for line in out.splitlines() if "trying again" in line)


def test_a_rate_limit_is_waited_for_in_truth(pusher: Pusher) -> None:
    """As long as the Hub asks."""
    pusher.hub.fail("GET", "whoami", status=429, retry_after=3)
    began = time.monotonic()
    code, out, _ = pusher("alice/model")
    assert code == 0
    assert "trying again in 3 s (1 of 4)" in out
    assert time.monotonic() - began >= 3


def lose_answer(hub: LocalHub, path: str) -> None:
    """Do what is first asked at a path, and answer 502 all the same."""
    inner, left = hub._app._app, [1]

    async def losing(scope: Any, receive: Any, send: Any) -> None:
        if path not in scope["path"] or not left:
            return await inner(scope, receive, send)
        left.clear()

        async def lost(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {"type": message["type"], "status": 502, "headers": []}
            await send(message)

        await inner(scope, receive, lost)

    hub._app._app = losing


def test_an_answer_that_was_lost(hurried: Pusher) -> None:
    """The commit is there: it is found, and not added a second time."""
    lose_answer(hurried.hub, "/commit/")
    code, out, _ = hurried("alice/model")
    assert code == 0
    assert "The Hub answered 502" in out
    assert len(titles(hurried.hub, "alice/model")) == 2
    assert holds(hurried.hub, "alice/model", hurried.folder)


def test_a_repository_whose_answer_was_lost(hurried: Pusher) -> None:
    """It was made, as asked."""
    lose_answer(hurried.hub, "/repos/create")
    assert hurried("alice/model")[0] == 0
    assert hurried.hub.repo("alice/model").private


def test_a_pull_request_is_not_opened_twice(hurried: Pusher) -> None:
    """Where the answer was lost, the user is told to look."""
    hurried.hub.create("bob/model")
    lose_answer(hurried.hub, "/commit/")
    code, _, err = hurried("bob/model", "--create_pr", "--public")
    assert code == 2
    assert "Whether the pull request was opened is not known" in err
    assert len(hurried.hub.repo("bob/model").pull_requests()) == 1
