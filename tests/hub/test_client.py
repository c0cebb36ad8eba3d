"""The local Hub as the unmodified `huggingface_hub` sees it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.hub import LocalHub
from tests.hub.client import ask

RIGHTS = """
import json
from huggingface_hub import HfApi

def rights(repo, token):
    api = HfApi(token=token or False)
    def upload(path, **more):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id=repo, **more)
    return " ".join([
        attempt(lambda: api.model_info(repo)),
        attempt(lambda: api.hf_hub_download(repo, "config.json")),
        attempt(lambda: upload("x.txt")),
        attempt(lambda: upload("y.txt", create_pr=True)),
        attempt(lambda: api.create_tag(repo, tag="v1")),
    ])

answer({name: rights(*of) for name, of in json.load(open("cases.json")).items()})
"""
"""For each repository and token: whether one may see, download, upload, propose and tag."""


def test_who_a_token_is(local_hub: LocalHub, tmp_path: Path) -> None:
    """A role for each token, the organizations of a user, and no name for a token that nobody has."""
    local_hub.organization("team", {"alice": "write"})
    roles = {"read": "read", "write": "write", "none": "fineGrained"}
    tokens = [local_hub.token("alice", role) for role in roles]
    program = f"""
    found = [HfApi(token=token).whoami() for token in {tokens!r}]
    answer([found, attempt(HfApi(token="hf_nobodys").whoami)])
    """
    found, nobody = ask(local_hub, program, None, tmp_path)
    assert [one["auth"]["accessToken"]["role"] for one in found] == [*roles.values()]
    assert {(one["name"], one["orgs"][0]["name"]) for one in found} == {("alice", "team")}
    assert nobody == "HfHubHTTPError"
    assert local_hub.requests[-1] == ("GET", "/api/whoami-v2", 401)


def test_a_repository_from_its_creation_to_its_end(local_hub: LocalHub, tmp_path: Path) -> None:
    """Create, upload, read back, rename, change who sees it, delete."""
    program = """
    created = api.create_repo("alice/first", private=True)
    twice = [attempt(lambda: api.create_repo("alice/first", exist_ok=fine)) for fine in (False, True)]
    options = {"path_in_repo": "a/config.json", "repo_id": "alice/first", "commit_message": "One file"}
    api.upload_file(path_or_fileobj=b"{}", **options)
    read = open(api.hf_hub_download("alice/first", "a/config.json")).read()
    before = api.model_info("alice/first")
    api.update_repo_settings("alice/first", private=False, gated="auto")
    api.move_repo("alice/first", "alice/second")
    moved = api.model_info("alice/first")
    files = api.list_repo_files("alice/second")
    commits = [one.title for one in api.list_repo_commits("alice/second")]
    names = [one.id for one in api.list_models(author="alice")]
    api.delete_repo("alice/second")
    gone = attempt(lambda: api.model_info("alice/second"))
    answer([created, twice, read, before.private, moved.id, moved.private, moved.gated, files, commits, names, gone])
    """
    url, twice, read, before, moved, private, gated, files, commits, names, gone = ask(
        local_hub, program, local_hub.token("alice"), tmp_path
    )
    assert url == f"{local_hub.url}/alice/first"
    assert twice == ["HfHubHTTPError", "done"]
    assert read == "{}"
    assert (before, private, gated, moved) == (True, False, "auto", "alice/second")
    assert files == [".gitattributes", "a/config.json"]
    assert commits == ["One file", "initial commit"]
    assert (names, gone) == (["alice/second"], "RepositoryNotFoundError")
    assert local_hub.repositories() == []


def test_large_files_are_sent_once_and_come_from_another_host(tmp_path: Path) -> None:
    """In one piece or in parts by their size; a file that is there is not sent again, and no token goes along."""
    program = """
    import os
    large, small = os.urandom(2_500_000), os.urandom(1000)
    open("large.bin", "wb").write(large)
    open("small.safetensors", "wb").write(small)
    open("text.txt", "w").write("text")
    api.create_repo("alice/model")
    api.upload_folder(folder_path=".", repo_id="alice/model", allow_patterns=["*.bin", "*.safetensors", "*.txt"])
    api.create_repo("alice/copy")
    api.upload_file(path_or_fileobj=large, path_in_repo="again.bin", repo_id="alice/copy")
    same = api.upload_folder(folder_path=".", repo_id="alice/model", allow_patterns=["*.bin"])
    read = open(api.hf_hub_download("alice/copy", "again.bin"), "rb").read()
    siblings = api.model_info("alice/model", files_metadata=True).siblings
    info = {one.rfilename: (one.size, one.lfs is not None) for one in siblings}
    answer([read == large, info, same.oid])
    """
    (tmp_path / "work").mkdir()
    with LocalHub(part_size=1_000_000) as hub:
        same, sizes, oid = ask(hub, program, hub.token("alice"), tmp_path / "work")
        repository = hub.repo("alice/model")
        sent = [path for method, path, _ in hub.requests if method == "PUT"]
        read = [status for method, path, status in hub.requests if (method, path[:9]) == ("GET", "/storage/")]
    assert same
    assert sizes["large.bin"] == [2_500_000, True]
    assert sizes["small.safetensors"] == [1000, True]
    assert sizes["text.txt"] == [4, False]
    assert len(sent) == 4  # three parts and the small one; not the copy
    assert read == [200]
    assert oid == repository.commits()[0].id
    assert len(repository.commits()) == 2  # nothing changed, nothing committed
    assert repository.files()["text.txt"] == b"text"


def test_branches_tags_and_commits_are_revisions(local_hub: LocalHub, tmp_path: Path) -> None:
    """Each name gives the files of its time; a commit that is not based on the present one is refused."""
    program = """
    repo = "alice/model"
    def upload(text, **more):
        return api.upload_file(path_or_fileobj=text.encode(), path_in_repo="x.txt", repo_id=repo, **more)
    def read(revision):
        return open(api.hf_hub_download(repo, "x.txt", revision=revision)).read()
    api.create_repo(repo)
    first = upload("one").oid
    api.create_tag(repo, tag="v1", tag_message="the first")
    api.create_branch(repo, branch="feature/two")
    upload("two", revision="feature/two")
    upload("three")
    refs = api.list_repo_refs(repo)
    found = [read(revision) for revision in ("main", "v1", "feature/two", first, first[:8])]
    stale = attempt(lambda: upload("four", parent_commit=first))
    unknown = attempt(lambda: read("v2"))
    taken = attempt(lambda: api.create_tag(repo, tag="v1"))
    api.delete_tag(repo, tag="v1"); api.delete_branch(repo, branch="feature/two")
    api.super_squash_history(repo)
    branches, tags = [one.name for one in refs.branches], [one.target_commit == first for one in refs.tags]
    answer([found, stale, unknown, taken, branches, tags, len(api.list_repo_commits(repo))])
    """
    found, stale, unknown, taken, branches, tags, commits = ask(local_hub, program, local_hub.token("alice"), tmp_path)
    assert found == ["three", "one", "two", "one", "one"]
    assert (stale, unknown, taken) == ("HfHubHTTPError", "RevisionNotFoundError", "HfHubHTTPError")
    assert (branches, tags, commits) == (["main", "feature/two"], [True], 1)
    assert local_hub.repo("alice/model").tags == {}
    assert 412 in [status for _, path, status in local_hub.requests if "/commit/" in path]


def test_a_pull_request_changes_main_when_it_is_merged(local_hub: LocalHub, tmp_path: Path) -> None:
    """A reader proposes, on a commit of its own; further commits go to the same request; the owner merges."""
    local_hub.create("alice/model", files={"x.txt": b"one"})
    program = """
    made = api.upload_file(path_or_fileobj=b"two", path_in_repo="x.txt", repo_id="alice/model", create_pr=True)
    api.upload_file(path_or_fileobj=b"new", path_in_repo="y.txt", repo_id="alice/model", revision=made.pr_revision)
    read = [open(api.hf_hub_download("alice/model", "x.txt", revision=one)).read() for one in ("main", "refs/pr/1")]
    details = api.get_discussion_details("alice/model", 1)
    api.comment_discussion("alice/model", 1, "please")
    listed = [(one.num, one.is_pull_request, one.status) for one in api.get_repo_discussions("alice/model")]
    refs = [one.ref for one in api.list_repo_refs("alice/model", include_pull_requests=True).pull_requests]
    answer([made.pr_url, made.pr_num, read, details.title, listed, refs])
    """
    url, num, read, title, listed, refs = ask(local_hub, program, local_hub.token("bob"), tmp_path)
    assert (url, num) == (f"{local_hub.url}/alice/model/discussions/1", 1)
    assert read == ["one", "two"]
    assert title == "Upload x.txt with huggingface_hub"
    assert (listed, refs) == ([[1, True, "draft"]], ["refs/pr/1"])
    repository = local_hub.repo("alice/model")
    assert repository.files()["x.txt"] == b"one"
    ask(local_hub, "api.merge_pull_request('alice/model', 1); answer(0)", local_hub.token("alice"), tmp_path)
    assert (repository.files()["x.txt"], repository.files()["y.txt"]) == (b"two", b"new")
    assert [one.status for one in repository.pull_requests()] == ["merged"]


MISSING, DENIED, GATED = "RepositoryNotFoundError", "HfHubHTTPError", "GatedRepoError"
CASES = {
    "owner": ("alice", "write", {}, "done done done done done"),
    "read token": ("alice", "read", {}, f"done done {DENIED} {DENIED} {DENIED}"),
    "no rights": ("alice", "none", {}, f"done done {DENIED} {DENIED} {DENIED}"),
    "another user": ("bob", "write", {}, f"done done {DENIED} done {DENIED}"),
    "nobody": (None, "", {}, f"done done {DENIED} {DENIED} {DENIED}"),
    "private: owner": ("alice", "read", {"private": True}, f"done done {DENIED} {DENIED} {DENIED}"),
    "private: no rights": ("alice", "none", {"private": True}, f"{MISSING} {MISSING} {MISSING} {MISSING} {MISSING}"),
    "private: another": ("bob", "write", {"private": True}, f"{MISSING} {MISSING} {MISSING} {MISSING} {MISSING}"),
    "private: nobody": (None, "", {"private": True}, f"{MISSING} {MISSING} {MISSING} {MISSING} {MISSING}"),
    "gated: owner": ("alice", "write", {"gated": True}, "done done done done done"),
    "gated: another": ("bob", "write", {"gated": True}, f"done {GATED} {DENIED} {GATED} {DENIED}"),
    "gated: nobody": (None, "", {"gated": True}, f"done {GATED} {DENIED} {GATED} {DENIED}"),
}


def rights(hub: LocalHub, home: Path, cases: dict[str, tuple[str, str | None]]) -> dict[str, str]:
    """What each token may do with each repository."""
    (home / "cases.json").write_text(json.dumps(cases))
    found: dict[str, str] = ask(hub, RIGHTS, None, home)
    return found


def test_who_may_do_what(local_hub: LocalHub, tmp_path: Path) -> None:
    """See, download, upload, propose and tag, for each kind of repository and of token."""
    asked = {}
    for number, (name, (user, role, repository, _)) in enumerate(CASES.items()):
        made = local_hub.create(f"alice/{number}", files={"config.json": b"{}"}, **repository)
        asked[name] = (made.id, local_hub.token(user, role) if user else None)
    assert rights(local_hub, tmp_path, asked) == {name: case[-1] for name, case in CASES.items()}


def test_a_fine_grained_token_may_what_its_scopes_say(local_hub: LocalHub, tmp_path: Path) -> None:
    """Reading one private repository, and writing to another."""
    names = ("alice/read", "alice/write", "alice/other")
    for name in names:
        local_hub.create(name, private=True, files={"config.json": b"{}"})
    scopes = {"alice/read": ["repo.content.read"], "alice/write": ["repo.content.read", "repo.write"]}
    token = local_hub.token("alice", "none", scopes)
    assert rights(local_hub, tmp_path, {name: (name, token) for name in names}) == {
        "alice/read": f"done done {DENIED} {DENIED} {DENIED}",
        "alice/write": "done done done done done",
        "alice/other": " ".join([MISSING] * 5),
    }


def test_names_of_others_and_of_organizations(local_hub: LocalHub, tmp_path: Path) -> None:
    """A repository is created under one's own name, or an organization's that one writes to."""
    local_hub.organization("team", {"alice": "write", "bob": "read"})
    tokens = [local_hub.token("alice"), local_hub.token("bob"), local_hub.token("alice", "read")]
    program = f"""
    names = ("mine", "team/one", "carol/one")
    answer([[attempt(lambda: HfApi(token=token).create_repo(name)) for name in names] for token in {tokens!r}])
    """
    alice, bob, reader = ask(local_hub, program, None, tmp_path)
    assert alice == ["done", "done", DENIED]
    assert bob == ["done", DENIED, DENIED]
    assert reader == [DENIED] * 3
    assert sorted(one.id for one in local_hub.repositories()) == ["alice/mine", "bob/mine", "team/one"]


def test_access_to_a_gated_repository_is_granted(local_hub: LocalHub, tmp_path: Path) -> None:
    """By its owner, to one user."""
    repository = local_hub.create("alice/model", gated=True, files={"config.json": b"{}"})
    program = "answer(attempt(lambda: api.hf_hub_download('alice/model', 'config.json')))"
    token = local_hub.token("bob", "read")
    assert ask(local_hub, program, token, tmp_path) == GATED
    repository.allowed.add("bob")
    assert ask(local_hub, program, token, tmp_path) == "done"


def test_listings_come_in_pages_and_ranges_are_read(local_hub: LocalHub, tmp_path: Path) -> None:
    """Trees and histories across pages; facts about paths; a part of a file through the file system."""
    files = {f"data/{number}/{name}.txt": b"0123456789" for number in range(3) for name in "ab"}
    local_hub.create("alice/data", type="dataset", files=files | {"large.bin": b"0123456789"})
    local_hub.page_size = 2
    program = """
    from huggingface_hub import HfFileSystem, RepoFolder
    def entries(*path, **more):
        return list(api.list_repo_tree("alice/data", *path, repo_type="dataset", **more))
    tree = [one.path for one in entries(recursive=True)]
    folder = [(one.path, isinstance(one, RepoFolder)) for one in entries("data", expand=True)]
    facts = api.get_paths_info("alice/data", ["data/1", "large.bin", "none"], repo_type="dataset")
    fs = HfFileSystem()
    with fs.open("datasets/alice/data/large.bin", block_size=4) as file:
        file.seek(3); part = file.read(4).decode()
    with fs.open("datasets/alice/data/data/0/a.txt") as file:
        file.seek(8); end = file.read().decode()
    found = sorted(fs.glob("datasets/alice/data/**/a.txt"))
    answer([tree, folder, [one.path for one in facts], facts[1].lfs.size, part, end, found])
    """
    tree, folder, facts, size, part, end, found = ask(local_hub, program, None, tmp_path)
    assert len(tree) == 1 + 1 + 1 + 3 + 6  # .gitattributes, large.bin, data, its folders, their files
    assert folder == [[f"data/{number}", True] for number in range(3)]
    assert (facts, size, part, end) == (["data/1", "large.bin"], 10, "3456", "89")
    assert found == [f"datasets/alice/data/data/{number}/a.txt" for number in range(3)]


def test_a_card_is_validated(local_hub: LocalHub, tmp_path: Path) -> None:
    """What the Hub refuses is refused by the client before anything is sent."""
    cards = {
        "fine": "---\nlicense: mit\nbase_model: alice/base\ntags: [a]\n---\ntext",
        "no metadata": "text",
        "license": "---\nlicense: my-own\n---\n",
        "path": "---\nbase_model: /home/alice/base\n---\n",
        "results": "---\nmodel-index:\n- name: x\n  results:\n  - task: {type: a}\n    metrics: [{type: f1}]\n---\n",
        "yaml": "---\nlicense: [\n---\n",
    }
    program = f"""
    from huggingface_hub import ModelCard
    found = {{}}
    api.create_repo("alice/model")
    for name, text in {cards!r}.items():
        def upload():
            api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="alice/model")
        found[name] = attempt(upload)
    found["validate"] = attempt(ModelCard({cards["fine"]!r}).validate)
    answer(found)
    """
    found = ask(local_hub, program, local_hub.token("alice"), tmp_path)
    refused = dict.fromkeys(("license", "path", "results", "yaml"), "ValueError")
    assert found == {"fine": "done", "no metadata": "done", "validate": "done", **refused}


def test_the_hub_tells_what_a_model_is_for(local_hub: LocalHub, tmp_path: Path) -> None:
    """Pipeline and library from the config, tags and licence from the card."""
    card = "---\nlicense: mit\nbase_model: alice/base\ndatasets: [alice/data]\ntags: [small]\n---\ntext"
    config = b'{"model_type": "bert", "architectures": ["BertForTokenClassification"]}'
    local_hub.create("alice/model", files={"README.md": card.encode(), "config.json": config})
    program = """
    info = api.model_info("alice/model")
    some = api.model_info("alice/model", expand=["pipeline_tag"])
    answer([info.pipeline_tag, info.library_name, info.tags, info.card_data.license, some.pipeline_tag, some.siblings])
    """
    pipeline, library, tags, license, some, siblings = ask(local_hub, program, None, tmp_path)
    assert (pipeline, library, license) == ("token-classification", "transformers", "mit")
    assert {"small", "license:mit", "dataset:alice/data", "base_model:finetune:alice/base"} <= set(tags)
    assert (some, siblings) == ("token-classification", None)
