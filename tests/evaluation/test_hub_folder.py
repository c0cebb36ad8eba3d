"""Trained models by id: what is downloaded, and what the user sees where the Hub has nothing to give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import LocalHub
from tests.support.processes import python

PROGRAM = """
import json, os, sys
from hf_ft.cli import main

for token, words in json.load(sys.stdin):
    if token: os.environ["HF_TOKEN"] = token
    else: os.environ.pop("HF_TOKEN", None)
    print("RUN", flush=True)
    code = main(words)
    print(f"CODE {code}", flush=True)
    print("RUN", file=sys.stderr, flush=True)
"""


def run(hub: LocalHub, home: Path, asked: list[tuple[str | None, list[str]]], **variables: str) -> list[dict[str, Any]]:
    """Run commands in one process that sees this Hub; what each printed, and its exit code."""
    root = str(Path(__file__).parents[2])
    environment = {**hub.environment(None, home), "PYTHONPATH": root, **variables}
    environment.pop("HF_HUB_DISABLE_IMPLICIT_TOKEN", None)
    done = python("-c", PROGRAM, environment=environment, folder=home, given=json.dumps(asked))
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.split("RUN\n")[1:]
    errors = done.stderr.split("RUN\n")
    codes = [int(one.rpartition("CODE ")[2]) for one in printed]
    rows = zip(printed, errors, codes, strict=False)
    return [{"out": out.rpartition("CODE ")[0], "error": error.strip(), "code": code} for out, error, code in rows]


@pytest.fixture(scope="module")
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run on texts."""
    from hf_ft import finetune

    out = tmp_path_factory.mktemp("runs") / "text"
    usual = {"task": "text_classification", "model": request.getfixturevalue("text_model"), "method": "full"}
    usual |= {"dataset": request.getfixturevalue("text_data"), "learning_rate": 1e-2, "max_steps": 20}
    finetune(**usual, output_dir=str(out), load_back_proof=False)
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def hub(result: dict[str, bytes]) -> Iterator[LocalHub]:
    """A Hub with the result as it is, private, gated, with pickles only, as an adapter, and without a model."""
    plain = {name: content for name, content in result.items() if name != "run.json"}
    pickled = {**plain, "pytorch_model.bin": b"a pickle"}
    del pickled["model.safetensors"]
    with LocalHub() as hub:
        hub.create(
            "alice/text", files={**result, "evil.py": b"raise SystemExit", "extra/a.json": b"{}", "old.bin": b"x"}
        )
        hub.create("alice/plain", files=plain)
        hub.create("alice/private", private=True, files=result)
        hub.create("alice/gated", gated=True, files=result)
        hub.create("alice/pickled", files=pickled)
        hub.create("alice/adapter", files={"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"})
        hub.create("alice/empty", files={"README.md": b"nothing"})
        base = json.loads(result["config.json"]) | {"architectures": ["BertForMaskedLM"]}
        hub.create("alice/masked", files={**plain, "config.json": json.dumps(base).encode()})
        yield hub


def test_predict_and_evaluate_take_an_id(hub: LocalHub, text_data: str, tmp_path: Path) -> None:
    """The same answers with run.json and without, from a branch too; only files that loading takes are fetched."""
    (commit, *_) = [one.id for one in hub.repo("alice/text").commits()]
    names = ["alice/text", f"alice/text@{commit}", "alice/plain"]
    asked: list[tuple[str | None, list[str]]] = [(None, ["predict", name, "a great film", "awful"]) for name in names]
    asked += [(None, ["evaluate", name, "--dataset", text_data, "--json"]) for name in names[::2]]
    done = run(hub, tmp_path, asked)
    assert [one["code"] for one in done] == [0] * len(asked), [one["error"] for one in done]
    assert len({one["out"] for one in done[:3]}) == 1
    assert "positive" in done[0]["out"]
    first, second = (json.loads(one["out"]) for one in done[3:])
    assert first["metrics"] == second["metrics"]
    here = {path.name for path in (tmp_path / "hub").glob("models--alice--text/snapshots/*/*")}
    assert {"model.safetensors", "config.json", "run.json", "tokenizer.json"} <= here
    assert not here & {"evil.py", "old.bin", "extra", "README.md"}


MISTAKES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no such repository": ("", "alice/nothing", ("alice/nothing",)),
    "private without a token": ("", "alice/private", ("alice/private", "hf auth login")),
    "private with the token of somebody else": ("bob", "alice/private", ("alice/private",)),
    "gated without access": ("bob", "alice/gated", ("gated", "access")),
    "no such revision": ("", "alice/text@v9", ("v9", "revision")),
    "a revision without a name": ("", "alice/text@", ("revision",)),
    "pickles only": ("", "alice/pickled", ("pytorch_model.bin", "safetensors")),
    "an adapter": ("", "alice/adapter", ("adapter",)),
    "no model": ("", "alice/empty", ("config.json", "README.md")),
    "no classifier": ("", "alice/masked", ("BertForMaskedLM",)),
}


def test_mistakes_are_one_line(hub: LocalHub, tmp_path: Path) -> None:
    """Exit code 2, one line that says what is wrong; nothing is left half downloaded."""
    token = hub.token("bob", role="read")
    asked = [(token if who else None, ["predict", name, "a text"]) for who, name, _ in MISTAKES.values()]
    done = run(hub, tmp_path, asked)
    assert len(done) == len(MISTAKES)
    for (case, (_, _, words)), one in zip(MISTAKES.items(), done, strict=True):
        assert one["code"] == 2, (case, one)
        lines = one["error"].splitlines()
        assert len(lines) == 1, (case, lines)
        assert lines[0].startswith("error: ")
        assert all(word in lines[0] for word in words), (case, lines[0])


def test_without_the_network(hub: LocalHub, tmp_path: Path) -> None:
    """One line where the Hub does not answer or may not be asked; what is in the cache still works."""
    asked: list[tuple[str | None, list[str]]] = [(None, ["predict", "alice/text", "awful"])]
    (online,) = run(hub, tmp_path, asked)
    assert online["code"] == 0, online["error"]
    for variables in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        (cached, missing) = run(hub, tmp_path, [*asked, (None, ["predict", "alice/plain", "awful"])], **variables)
        assert (cached["code"], cached["out"]) == (0, online["out"]), cached["error"]
        assert missing["code"] == 2
        assert len(missing["error"].splitlines()) == 1
        assert "alice/plain" in missing["error"]


def test_a_wrong_token_is_told(hub: LocalHub, tmp_path: Path) -> None:
    (found,) = run(hub, tmp_path, [("hf_" + "x" * 34, ["predict", "alice/private", "awful"])])
    assert found["code"] == 2
    assert "token" in found["error"]


def test_the_way_from_python(hub: LocalHub, tmp_path: Path) -> None:
    """`revision=` and `token=`, and a contradiction of both ways to name a revision."""
    program = """
import json, sys
import hf_ft

token = sys.argv[1]
model = hf_ft.load("alice/private", revision="main", token=token)
found = [model.predict("a great film")["label"], model.task.name, list(model.labels)]
try:
    hf_ft.load("alice/text@main", revision="other")
except hf_ft.UserError as error:
    found.append(error.option)
print(json.dumps(found))
"""
    root = str(Path(__file__).parents[2])
    environment = {**hub.environment(None, tmp_path), "PYTHONPATH": root}
    done = python("-c", program, hub.token("alice", role="read"), environment=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [
        "positive",
        "text_classification",
        ["negative", "positive"],
        "revision",
    ]
