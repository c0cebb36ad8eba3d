"""A push to a local Hub: what is there afterwards, and what is refused because something else was there before."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from hf_ft.publishing.contents import publishable
from hf_ft.storage import output_folder
from tests.hub import LocalHub
from tests.publishing.pushing import COMMAND, SCRIPT, Pusher
from tests.support.cards import code_blocks, run_blocks
from tests.support.processes import python

NEW = ["initial commit"]
OURS = "Model trained with hf_ft"


def names_of(folder: Path) -> set[str]:
    """The files of a run that are published."""
    return {name.as_posix() for name in publishable(folder)[0]}


def titles(hub: LocalHub, repo_id: str, revision: str = "main") -> list[str]:
    """The titles of all commits, oldest first."""
    return [commit.title for commit in hub.repo(repo_id).commits(revision)][::-1]


def holds(hub: LocalHub, repo_id: str, folder: Path, revision: str = "main") -> bool:
    """Whether a repository holds the files of a run, to the byte; the card names the repository."""
    files = hub.repo(repo_id).files(revision)
    local = {name: (folder / name).read_bytes() for name in names_of(folder)}
    stored = {name: content for name, content in files.items() if name in local and name != "README.md"}
    del local["README.md"]
    return stored == local and repo_id.encode() in files["README.md"]


@pytest.mark.parametrize("command", [SCRIPT, COMMAND], ids=["push_to_hub.py", "hf-ft push"])
def test_a_new_repository(command: list[str], pusher: Pusher) -> None:
    """It is private, it has one commit with exactly the files of the plan, which was shown first."""
    code, out, err = pusher("alice/model", command=command)
    assert (code, err) == (0, "")
    made = pusher.hub.repo("alice/model")
    assert made.private
    assert {*made.files()} == {*names_of(pusher.folder), ".gitattributes"}
    assert holds(pusher.hub, "alice/model", pusher.folder)
    assert [title.split(" 0.")[0] for title in titles(pusher.hub, "alice/model")] == [*NEW, OURS]
    plan, published = out.index("model.safetensors"), out.index(f"Published: {pusher.hub.url}/alice/model")
    assert plan < published
    assert made.at("main").id[:12] in out
    assert pusher.token is not None
    assert pusher.token not in out


def test_pushed_again(pusher: Pusher) -> None:
    """Nothing is sent twice, and there is no second commit."""
    assert pusher("alice/model")[0] == 0
    pusher.hub.requests.clear()
    code, out, _ = pusher("alice/model")
    assert code == 0
    assert "unchanged" in out
    assert [path for method, path, _ in pusher.hub.requests if method == "PUT" or "/commit/" in path] == []
    assert len(titles(pusher.hub, "alice/model")) == 2


def test_options_of_the_commit(pusher: Pusher) -> None:
    """The user's own name space, message and tag; public where that was asked for."""
    assert pusher("model", "--public", "--tag", "v1", "--commit_message", "As in the paper")[0] == 0
    made = pusher.hub.repo("alice/model")
    assert not made.private
    assert titles(pusher.hub, "alice/model") == [*NEW, "As in the paper"]
    assert made.tags == {"v1": made.at("main").id}


def test_from_python(pusher: Pusher) -> None:
    """`hf_ft.push` returns what the command prints; a token that is passed is used."""
    program = (
        "import hf_ft, json, sys; p = hf_ft.push(sys.argv[1], 'model', token=sys.argv[2], tag='v1'); "
        "print(json.dumps([p.repo_id, p.private, p.commit, p.url, len(p.files)]))"
    )
    environment = pusher.hub.environment(None, pusher.home)
    done = python("-c", program, str(pusher.folder), str(pusher.token), environment=environment)
    assert done.returncode == 0, done.stderr
    repo_id, private, commit, url, count = json.loads(done.stdout.splitlines()[-1])
    made = pusher.hub.repo("alice/model")
    assert (repo_id, private, commit) == ("alice/model", True, made.at("main").id)
    assert (url, count) == (f"{pusher.hub.url}/alice/model", len(names_of(pusher.folder)))


# --- Visibility -------------------------------------------------------------------------------------------------------


def test_a_public_repository_needs_public(pusher: Pusher) -> None:
    """What is private by default does not become public because the repository is; with --public it may."""
    pusher.hub.create("alice/model", private=False)
    code, _, err = pusher("alice/model")
    assert code == 2
    assert "is public" in err
    assert "--public" in err
    assert titles(pusher.hub, "alice/model") == NEW
    assert pusher("alice/model", "--public")[0] == 0
    assert not pusher.hub.repo("alice/model").private
    assert holds(pusher.hub, "alice/model", pusher.folder)


def test_a_private_repository_stays_private(pusher: Pusher) -> None:
    """--public says so, and changes nothing."""
    pusher.hub.create("alice/model", private=True)
    code, out, _ = pusher("alice/model", "--public")
    assert code == 0
    assert "stays private" in out
    assert pusher.hub.repo("alice/model").private


# --- What was there before --------------------------------------------------------------------------------------------


def test_something_else_is_not_overwritten(pusher: Pusher) -> None:
    """Unless told; then what is not of this model goes, in the same commit, but for licences."""
    files = {"pytorch_model.bin": b"x", "config.json": b"{}", "README.md": b"mine", "LICENSE": b"mit"}
    pusher.hub.create("alice/model", private=True, files=files)
    code, _, err = pusher("alice/model")
    assert code == 2
    assert "files that hf_ft did not write" in err
    assert "--overwrite" in err
    assert {**pusher.hub.repo("alice/model").files(), ".gitattributes": b""} == {**files, ".gitattributes": b""}
    code, out, _ = pusher("alice/model", "--overwrite")
    assert code == 0
    assert "pytorch_model.bin" in out
    assert {*pusher.hub.repo("alice/model").files()} == {*names_of(pusher.folder), "LICENSE", ".gitattributes"}
    assert len(titles(pusher.hub, "alice/model")) == 3


def test_another_model_is_not_overwritten(pusher: Pusher) -> None:
    """One of hf_ft with other labels is something else, too."""
    record = json.loads((pusher.folder / "run.json").read_text())
    record["data"]["labels"] = ["cat", "dog"]
    pusher.hub.create("alice/model", private=True, files={"run.json": json.dumps(record).encode()})
    code, _, err = pusher("alice/model")
    assert code == 2
    assert "another model" in err
    assert "cat, dog" in err


def test_an_earlier_result_is_replaced(pusher: Pusher) -> None:
    """What it left behind goes; what others added stays."""
    assert pusher("alice/model")[0] == 0
    before = pusher.hub.repo("alice/model")
    others = {
        "LICENSE": b"mit",
        "notebook.ipynb": b"{}",
        "onnx/model.onnx": b"x",
        "model-00001-of-00002.safetensors": b"y",
    }
    pusher.hub.commit(before, others)
    output_folder.remove(pusher.folder, below="adapter")
    output_folder.write(pusher.folder, "special_tokens_map.json", "{}")
    code, out, _ = pusher("alice/model")
    assert code == 0
    there = {*pusher.hub.repo("alice/model").files()}
    assert there == {*names_of(pusher.folder), *others, ".gitattributes"} - {"model-00001-of-00002.safetensors"}
    assert "special_tokens_map.json" in there
    assert "adapter/adapter_config.json" in out


def test_the_code_on_the_card_loads_from_the_hub(pusher: Pusher, tmp_path: Path) -> None:
    """In a fresh process with an empty cache and without hf_ft; an edit of the card is published too."""
    card = pusher.folder / "README.md"
    card.write_text(card.read_text().replace("\n## Limits\n", "\n## Authors\n\nMe.\n\n## Limits\n"))
    code, _, err = pusher("alice/model")
    assert code == 0, err
    published = pusher.hub.repo("alice/model").files()["README.md"].decode()
    assert "## Authors\n\nMe." in published
    blocks = code_blocks(published)
    assert 'model="alice/model"' in blocks[0]
    (answer,) = run_blocks([(tmp_path, blocks)], pusher.hub.environment(pusher.token, tmp_path / "empty"))
    assert answer[0]["label"] in ("negative", "positive")


# --- Branches, tags, pull requests ------------------------------------------------------------------------------------


def test_a_branch(pusher: Pusher) -> None:
    """It is made from main, which stays as it is; a second push goes to the same branch."""
    pusher.hub.create("alice/model", private=True)
    for _ in range(2):
        assert pusher("alice/model", "--revision", "try/one")[0] == 0
        assert holds(pusher.hub, "alice/model", pusher.folder, "try/one")
        assert titles(pusher.hub, "alice/model") == NEW
        (pusher.folder / "README.md").write_text('# Mine\n\n```python\nload(".")\n```\n')
    assert len(titles(pusher.hub, "alice/model", "try/one")) == 3


def test_a_tag_is_never_moved(pusher: Pusher) -> None:
    """It is refused before anything is sent, and a tag is no branch."""
    made = pusher.hub.create("alice/model", private=True)
    made.refs["refs/tags/v1"] = made.at("main").id
    code, _, err = pusher("alice/model", "--tag", "v1")
    assert code == 2
    assert "has a tag v1" in err
    code, _, err = pusher("alice/model", "--revision", "v1")
    assert code == 2
    assert "is a tag" in err
    assert titles(pusher.hub, "alice/model") == NEW
    assert not [path for method, path, _ in pusher.hub.requests if method == "PUT"]


def test_a_tag_that_failed_is_made_by_the_second_run(pusher: Pusher) -> None:
    """The error says that the files are published; the next run adds the tag alone."""
    pusher.hub.fail("POST", "/tag/", status=403)
    code, _, err = pusher("alice/model", "--tag", "v1")
    assert code == 2
    assert "are published" in err
    assert "tag v1 is not" in err
    assert holds(pusher.hub, "alice/model", pusher.folder)
    assert pusher("alice/model", "--tag", "v1")[0] == 0
    made = pusher.hub.repo("alice/model")
    assert made.tags == {"v1": made.at("main").id}
    assert len(titles(pusher.hub, "alice/model")) == 2


def test_a_pull_request(pusher: Pusher) -> None:
    """To a repository of others: main stays, whatever it holds."""
    pusher.hub.create("bob/model", files={"config.json": b"{}"})
    code, out, err = pusher("bob/model", "--create_pr", "--public")
    assert code == 0, err
    made = pusher.hub.repo("bob/model")
    assert {*made.files()} == {"config.json", ".gitattributes"}
    assert len(made.pull_requests()) == 1
    assert holds(pusher.hub, "bob/model", pusher.folder, "refs/pr/1")
    assert f"Published: {pusher.hub.url}/bob/model/discussions/1" in out
    code, _, err = pusher("alice/none", "--create_pr")
    assert code == 2
    assert "does not exist" in err


# --- Interrupted ------------------------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_an_upload(pusher: Pusher) -> None:
    """kill -9 while a large file is sent: no commit; the next run sends what is missing, and nothing twice."""
    slow = pusher.hub.fail("PUT", "/storage/", delay=30, times=1)
    process = pusher.begun("alice/model")
    deadline = time.monotonic() + 60
    while not (slow.hits and len(pusher.hub.objects) >= 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert slow.hits == 1
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    there = {*pusher.hub.objects}
    assert there  # the other large file had arrived
    assert titles(pusher.hub, "alice/model") == NEW
    pusher.hub.faults.clear()
    pusher.hub.requests.clear()
    assert pusher("alice/model")[0] == 0
    sent = [path for method, path, _ in pusher.hub.requests if method == "PUT"]
    assert sent
    assert not [path for path in sent if path.removeprefix("/storage/") in there]
    assert holds(pusher.hub, "alice/model", pusher.folder)
    assert len(titles(pusher.hub, "alice/model")) == 2


def test_weights_that_change_meanwhile_are_not_published(pusher: Pusher) -> None:
    """What is sent is what was searched."""
    slow = pusher.hub.fail("POST", "/preupload/", delay=2)
    process = pusher.begun("alice/model")
    while not slow.hits and process.poll() is None:
        time.sleep(0.02)
    path = pusher.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "changed while it was published" in err
    assert titles(pusher.hub, "alice/model") == NEW
