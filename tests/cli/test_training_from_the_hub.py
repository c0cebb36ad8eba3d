"""Training from the Hub: base model and data by id and revision, and what a user sees when that fails."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from tests.hub import LocalHub
from tests.hub.client import run, run_commands

TRAIN = ["train", "--task=text_classification", "--max_steps=2", "--method=head"]


def files_of(folder: str | Path) -> dict[str, bytes]:
    """The files in a folder, by their relative paths."""
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def hub(text_model: str, text_data: str) -> Iterator[LocalHub]:
    """A Hub with a private model and a private data set, both tagged v1 with other files on main, and bad ones."""
    model, data = files_of(text_model), files_of(text_data)
    tensors, pickle = load(model["model.safetensors"]), io.BytesIO()
    torch.save(tensors, pickle)
    pickled = {name: content for name, content in model.items() if not name.endswith(".safetensors")}
    others = {name: save(tensors, {"format": "pt", "of": name}) for name in ("cut", "damaged")}
    with LocalHub() as hub:
        for name, kind, files in (("alice/base", "model", model), ("alice/data", "dataset", data)):
            repository = hub.create(name, type=kind, private=True, files=files)
            repository.refs["refs/tags/v1"] = repository.commits()[0].id
            repository.commit(dict.fromkeys(files), "Remove everything")
            hub.create(name.replace("alice", "public"), type=kind, files=files)
            hub.create(name.replace("alice", "gated"), type=kind, gated=True, files=files)
            hub.create(name.replace("alice", "slow"), type=kind, files=files)
            hub.create(name.replace("alice", "cut"), type=kind, files=files)
        hub.commit(hub.repo("cut/base"), {"model.safetensors": others["cut"]})
        hub.create("public/pickled", files={**pickled, "pytorch_model.bin": pickle.getvalue()})
        hub.create("public/damaged", files={**model, "model.safetensors": others["damaged"]})
        yield hub


def test_model_and_data_at_their_revisions(hub: LocalHub, tmp_path: Path) -> None:
    """Private ones with a token that reads; the record and the card name both commits, and the cache is enough then."""
    out = tmp_path / "out"
    command = [*TRAIN, "--model=alice/base@v1", "--dataset=alice/data@v1", f"--output_dir={out}"]
    done = run(hub, ["-m", "hf_ft", *command], hub.token("alice", "read"), tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "run.json").read_text())
    model, data = hub.repo("alice/base").tags["v1"], hub.repo("alice/data", "dataset").tags["v1"]
    assert (record["model"]["hub_id"], record["model"]["commit"]) == ("alice/base", model)
    assert (record["data"]["hub_id"], record["data"]["revision"]) == ("alice/data", data)
    assert (record["settings"]["model_revision"], record["settings"]["dataset_revision"]) == ("v1", "v1")
    card = (out / "README.md").read_text()
    assert model[:12] in card
    assert data[:12] in card
    assert {status for _, path, status in hub.requests if "/resolve/" in path} <= {200, 302, 404}
    assert not [
        path for _, path, _ in hub.requests if "/resolve/main/" in path
    ]  # all that was read is of these commits

    again = [*command, "--overwrite_output_dir"]
    offline = run(hub, ["-m", "hf_ft", *again], None, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    repeated = json.loads((out / "run.json").read_text())
    assert (repeated["model"]["commit"], repeated["data"]["revision"]) == (model, data)


@dataclass
class Bad:
    """A command that cannot succeed: who runs it, the model, the data, and what its one line says."""

    error: str
    user: str | None = "bob"
    role: str = "read"
    model: str = "public/base"
    dataset: str = "public/data"
    setup: Callable[[LocalHub], Any] = lambda hub: None
    options: tuple[str, ...] = ()


HUB = r"http://127\.0\.0\.1:\d+"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
AGAIN = "run the command again"
BAD = {
    "model: private, no token": Bad(
        rf"There is no model 'alice/base' on the Hub, or it is private .* not logged in\. .*{LOG_IN}",
        user=None,
        model="alice/base",
    ),
    "model: private, of somebody else": Bad(
        r"There is no model 'alice/base' on the Hub, or your token may not see it\. Check the name",
        model="alice/base",
    ),
    "model: gated, no token": Bad(
        rf"The model 'gated/base' is gated, and you are not logged in\. .* on http.*/gated/base, then {LOG_IN}",
        user=None,
        model="gated/base",
    ),
    "model: gated, no rights": Bad(
        rf"The model 'gated/base' is gated, and your token has no access .* on http.*/gated/base, then {AGAIN}",
        model="gated/base",
    ),
    "model: wrong token": Bad(
        r"Cannot load the model 'public/base': the Hub does not accept your token\. Log in again", user="nobody"
    ),
    "model: no such revision": Bad(
        r"The model 'alice/base' has no revision 'v2'\. Choose from: main, v1\. Set --model_revision to one",
        user="alice",
        model="alice/base@v2",
    ),
    "model: two revisions": Bad(
        r"--model public/base@v1 and --model_revision v2 name two revisions\. Keep one of them\.",
        model="public/base@v1",
        options=("--model_revision=v2",),
    ),
    "model: misspelt": Bad(
        r"There is no model 'public/bsae' on the Hub.*Did you mean 'public/base'\? Check the name",
        model="public/bsae",
    ),
    "model: a data set": Bad(
        r"There is no model 'public/data' on the Hub.*There is a dataset of that name: is it --dataset that you mean\?",
        model="public/data",
    ),
    "model: pickles only": Bad(
        r"'public/pickled' has no safetensors, only pickled weights \(pytorch_model\.bin\), .* --allow_pickle reads",
        model="public/pickled",
    ),
    "model: no config": Bad(
        r"Cannot load the model 'public/empty': .*config\.json.* Choose a model with a config\.json",
        model="public/empty",
        setup=lambda hub: hub.create("public/empty"),
    ),
    "model: connection cut": Bad(
        rf"Cannot load the model 'cut/base': the connection to {HUB} failed \(.*\)\. Check the network, then {AGAIN}",
        model="cut/base",
        setup=lambda hub: hub.fail("GET", "/storage/" + weights_of(hub, "cut/base"), cut_at=1000, times=None),
    ),
    "model: limited": Bad(
        rf"Cannot load the model 'slow/base': the Hub limits the rate of requests\. Wait 30 s, then {AGAIN}",
        model="slow/base",
        setup=lambda hub: hub.fail("GET", "/api/models/slow/base", status=429, retry_after=30, times=None),
    ),
    "model: damaged": Bad(
        r"model\.safetensors of 'public/damaged' is damaged: .* `hf cache rm model/public/damaged`",
        model="public/damaged",
        setup=lambda hub: hub.fail("GET", "/storage/" + weights_of(hub, "public/damaged"), corrupt=True, times=None),
    ),
    "data: private, no token": Bad(
        rf"There is no dataset 'alice/data' on the Hub, or it is private .* not logged in\. .*{LOG_IN}",
        user=None,
        dataset="alice/data",
    ),
    "data: gated, no rights": Bad(
        rf"The dataset 'gated/data' is gated, and .* on http.*/datasets/gated/data, then {AGAIN}",
        dataset="gated/data",
    ),
    "data: no such revision": Bad(
        r"The dataset 'alice/data' has no revision 'v2'\. Choose from: main, v1\. Set --dataset_revision",
        user="alice",
        dataset="alice/data@v2",
    ),
    "data: nothing in it": Bad(
        r"data set 'alice/data' cannot be loaded from the Hub: .*doesn't contain any data files",
        user="alice",
        dataset="alice/data",
    ),
    "data: a model": Bad(
        r"There is no dataset 'public/base' on the Hub.*There is a model of that name: is it --model that you mean\?",
        dataset="public/base",
    ),
    "data: connection cut": Bad(
        rf"Cannot load the dataset 'cut/data': the connection to {HUB} failed \(.*\)\. Check the network, then {AGAIN}",
        dataset="cut/data",
        setup=lambda hub: hub.fail("GET", "/datasets/cut/data/resolve/.*/train.csv", cut_at=100, times=None),
    ),
    "data: Hub down": Bad(
        rf"Cannot load the dataset 'slow/data': the Hub at {HUB} answers 503\. Wait, then {AGAIN}",
        dataset="slow/data",
        setup=lambda hub: hub.fail("GET", "/api/datasets/slow/data", status=503, times=None),
    ),
}


def weights_of(hub: LocalHub, name: str) -> str:
    return hub.repo(name).at("main").files["model.safetensors"].sha256


@pytest.fixture(scope="module")
def outcomes(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Exit code and output of each command in `BAD`, which run in one process, for its imports take seconds."""
    home = tmp_path_factory.mktemp("home")
    commands = {}
    for number, (name, bad) in enumerate(BAD.items()):
        bad.setup(hub)
        token = hub.token(bad.user, bad.role) if bad.user else None
        places = [f"--model={bad.model}", f"--dataset={bad.dataset}", f"--output_dir={home / str(number)}"]
        commands[name] = ([*TRAIN, *places, *bad.options], "hf_nobodys" if bad.user == "nobody" else token)
    return run_commands(hub, commands, home)


@pytest.mark.parametrize("case", BAD)
def test_one_line_that_names_the_remedy(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    """Exit code 2, one line, no traceback and no token."""
    found = outcomes[case]
    assert found["code"] == 2, found["err"]
    errors = [line for line in found["err"].splitlines() if line.startswith("error:")]
    assert len(errors) == 1, found["err"]
    assert re.match("error: .*" + BAD[case].error, errors[0]), errors[0]
    assert "Traceback" not in found["err"] + found["out"]
    assert "hf_" not in found["err"].replace("hf_ft", "")


def test_no_network(hub: LocalHub, tmp_path: Path) -> None:
    """Nothing listens there."""
    with LocalHub() as gone:
        address = gone.url
    command = [*TRAIN, "--model=public/base", "--dataset=public/data", f"--output_dir={tmp_path / 'out'}"]
    done = run(hub, ["-m", "hf_ft", *command], None, tmp_path, HF_ENDPOINT=address)
    assert done.returncode == 2
    said = done.stderr.strip().splitlines()[-1]
    assert re.match(rf"error: Cannot load the model 'public/base': the connection to {address} failed \(", said)
    assert said.count(AGAIN) == 1
