"""`--push_to_hub`: checked before the training, done at its end by the same rules; a failure leaves the result."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hf_ft.publishing import destination_of
from tests.hub import LocalHub
from tests.publishing.pushing import ROOT
from tests.publishing.test_push import NEW, holds, titles
from tests.support.processes import python


@pytest.fixture
def words(text_model: str, text_data: str, tmp_path: Path) -> list[str]:
    """The command line of a short training."""
    return [
        *("-m", "hf_ft", "train", "--task=text_classification", f"--model={text_model}", f"--dataset={text_data}"),
        *("--max_steps=1", "--method=head", "--head_solver=sgd", "--load_back_proof=false", "--cache=off"),
        *("--push_to_hub", f"--output_dir={tmp_path / 'my-model'}"),
    ]


def trained(
    hub: LocalHub, words: list[str], home: Path, token: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Train in a process that sees this Hub."""
    environment = hub.environment(token or hub.token("alice"), home) | variables | {"PYTHONPATH": str(ROOT)}
    home.mkdir(exist_ok=True)
    return python(*words, environment=environment, folder=home)


def test_published_at_the_end(local_hub: LocalHub, words: list[str], tmp_path: Path) -> None:
    """The finished result, private, in a repository called like the folder; no checkpoint ever was there."""
    done = trained(local_hub, words, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert local_hub.repo("alice/my-model").private
    assert holds(local_hub, "alice/my-model", tmp_path / "my-model")
    assert len(titles(local_hub, "alice/my-model")) == 2
    assert [path for _, path, _ in local_hub.requests].count("/api/repos/create") == 1
    assert "private" in done.stdout
    again = trained(local_hub, [*words, "--resume"], tmp_path / "home")  # a finished run, published already
    assert again.returncode == 0, again.stderr
    assert "unchanged" in again.stdout
    assert len(titles(local_hub, "alice/my-model")) == 2


def test_every_option_has_its_effect(local_hub: LocalHub, words: list[str], tmp_path: Path) -> None:
    """Name, visibility, branch and token; the token is in no file."""
    token = local_hub.token("alice")
    options = [f"--hub_token={token}", "--hub_model_id=alice/x", "--hub_private_repo=false", "--hub_revision=try"]
    local_hub.create("alice/x", private=False)
    done = trained(local_hub, [*words, *options, "--hub_strategy=end"], tmp_path / "home", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert holds(local_hub, "alice/x", tmp_path / "my-model", "try")
    assert titles(local_hub, "alice/x") == NEW
    assert token not in done.stdout + done.stderr
    for path in (tmp_path / "my-model").rglob("*"):
        assert path.is_dir() or token.encode() not in path.read_bytes()


BEFORE = {
    "no rights": (lambda hub: hub.token("alice", "read"), [], "may only read"),
    "public": (lambda hub: hub.create("alice/my-model") and None, [], "--hub_private_repo false"),
    "something else": (
        lambda hub: hub.create("alice/my-model", private=True, files={"a.bin": b"x"}) and None,
        [],
        "hf_ft did not write",
    ),
    "not a name": (lambda hub: None, ["--hub_model_id=a/b/c"], "--hub_model_id 'a/b/c' cannot be a repository"),
}


@pytest.mark.parametrize("what", BEFORE)
def test_refused_before_the_training(what: str, local_hub: LocalHub, words: list[str], tmp_path: Path) -> None:
    """Not hours later; nothing is written."""
    sets_up, more, said = BEFORE[what]
    done = trained(local_hub, [*words, *more], tmp_path / "home", sets_up(local_hub))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "my-model").exists()


def test_a_failed_upload_leaves_the_result(local_hub: LocalHub, words: list[str], tmp_path: Path) -> None:
    """It is complete; the command that is shown publishes it."""
    local_hub.fail("POST", "/commit/", status=403)
    done = trained(local_hub, words, tmp_path / "home")
    assert done.returncode == 2
    out = tmp_path / "my-model"
    command = f"hf-ft push {out} --repo_id my-model"
    assert command in done.stderr
    assert "Nothing was published" in done.stderr
    assert (out / "run.json").exists()
    assert titles(local_hub, "alice/my-model") == NEW
    repeated = ["-m", "hf_ft", *command.split()[1:]]
    done = trained(local_hub, repeated, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert holds(local_hub, "alice/my-model", out)


def test_in_python_the_result_is_returned(local_hub: LocalHub, text_model: str, text_data: str, tmp_path: Path) -> None:
    """`finetune` prints why nothing was published, and returns the model with its scores."""
    program = f"""
import hf_ft, json
about = dict(task="text_classification", model={text_model!r}, dataset={text_data!r}, method="head", max_steps=1,
             load_back_proof=False, push_to_hub=True)
failed = hf_ft.finetune(output_dir="one", **about)
result = hf_ft.finetune(output_dir="two", **about)
print(json.dumps([failed.publication, bool(failed.metrics), result.publication.repo_id]))
"""
    local_hub.fail("POST", "/commit/", status=403)
    done = trained(local_hub, ["-c", program], tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [None, True, "alice/two"]
    assert "publish it with `hf-ft push one --repo_id one`" in done.stderr


def test_the_command_that_repeats_it() -> None:
    """It has all that the training was told, but for the token."""
    about = {"push_to_hub": True, "output_dir": "runs/my run", "hub_token": "secret", "hub_private_repo": False}
    found = destination_of(about | {"hub_model_id": "me/x", "hub_revision": "b"})
    assert found is not None
    assert found.command == "HF_TOKEN=... hf-ft push 'runs/my run' --repo_id me/x --revision b --public"
    assert "secret" not in repr(found)
    assert destination_of({**about, "push_to_hub": False}) is None
    plain = destination_of({"push_to_hub": True, "output_dir": "runs/x"})
    assert plain is not None
    assert (plain.repo_id, plain.private, plain.revision, plain.token) == ("x", True, None, None)
