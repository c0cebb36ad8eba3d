"""Secrets planted all over a result: each is found and named, and no byte of them reaches the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from hf_ft.storage import output_folder
from tests.publishing.pushing import Pusher
from tests.publishing.test_push import NEW, names_of
from tests.support.received_bytes import Received

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
PASSWORD, USER, HOST = "correct-horse-battery-1", "zacharias", "quokka-17"
VARIABLES = {"MY_DATABASE_PASSWORD": PASSWORD, "USER": USER, "HOSTNAME": HOST}
"""The environment of the user who pushes."""


def in_json(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Change a JSON file of a run, as a library would have written it: the manifest has the new digest."""

    def plant(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        output_folder.write(folder, name, json.dumps(content, indent=2))

    return plant


def in_text(name: str, text: str) -> Callable[[Path], None]:
    """Write a text file of a run."""
    return lambda folder: output_folder.write(folder, name, text)


def in_weights(name: str) -> Callable[[Path], None]:
    """Plant a token into the metadata of weights."""

    def plant(folder: Path) -> None:
        save_file(load_file(folder / name), folder / "planted.safetensors", {"format": "pt", "note": TOKEN})
        content = (folder / "planted.safetensors").read_bytes()
        (folder / "planted.safetensors").unlink()
        output_folder.write(folder, name, content)

    return plant


def in_card(text: str) -> Callable[[Path], None]:
    """Edit the card, as a user does."""

    def plant(folder: Path) -> None:
        card = folder / "README.md"
        card.write_text(f"{card.read_text()}\n{text}\n")

    return plant


def through_a_link(folder: Path) -> None:
    """Replace a file of the run by a link to a secret one."""
    (folder.parent / "secret.json").write_text(json.dumps({"token": TOKEN}))
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to(folder.parent / "secret.json")


@dataclass
class Planted:
    """A secret in a result.

    Attributes:
        plant: Plants it into a run.
        says: What the error names; empty where the file stays on the machine.
        secret: What must not be sent.
    """

    plant: Callable[[Path], object]
    says: tuple[str, ...]
    secret: str = TOKEN


LEAK = "Hugging Face token"
PLANTED = {
    "card": Planted(in_card(TOKEN), ("README.md line", LEAK)),
    "metadata of the card": Planted(
        lambda folder: (folder / "README.md").write_text(f'---\nlicense: mit\nx: "{TOKEN}"\n---\n'),
        ("README.md line 3", LEAK),
    ),
    "field of run.json": Planted(
        in_json("run.json", lambda run: run["model"]["notes"].append(f"from {TOKEN}")), ("run.json line", LEAK)
    ),
    "setting in run.json": Planted(
        in_json("run.json", lambda run: run["settings"].update(wandb_api_key="0123456789abcdef" * 2 + "01234567")),
        ("run.json line", "Weights & Biases key"),
        "0123456789abcdef01234567",
    ),
    "weights": Planted(in_weights("model.safetensors"), ("model.safetensors metadata 'note'", LEAK)),
    "adapter weights": Planted(
        in_weights("adapter/adapter_model.safetensors"), ("adapter/adapter_model.safetensors metadata 'note'", LEAK)
    ),
    "tokenizer_config": Planted(
        in_json("tokenizer_config.json", lambda config: config.update(auth=TOKEN)), ("tokenizer_config.json line", LEAK)
    ),
    "tokenizer": Planted(
        in_json("tokenizer.json", lambda content: content.update(note=TOKEN)), ("tokenizer.json line", LEAK)
    ),
    "chat template": Planted(in_text("chat_template.jinja", f"a\n{TOKEN}"), ("chat_template.jinja line 2", LEAK)),
    "adapter_config": Planted(
        in_json("adapter/adapter_config.json", lambda config: config.update(base_model_name_or_path="/home/zoe/base")),
        ("adapter/adapter_config.json line", "local path"),
        "/home/zoe",
    ),
    "labels": Planted(
        in_json("config.json", lambda config: config["id2label"].update({"0": TOKEN})), ("config.json line", LEAK)
    ),
    "private key": Planted(
        in_card("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA"),
        ("README.md line", "private key"),
        "b3BlbnNzaC1rZXktdjEA",
    ),
    "value of a variable": Planted(
        in_card(f"the base is at {PASSWORD}"), ("README.md line", "variable MY_DATABASE_PASSWORD"), PASSWORD
    ),
    "the token in use": Planted(lambda folder: None, ("README.md line", "HF_TOKEN")),
    "user name": Planted(in_card(f"trained by {USER}"), ("README.md line", "user name", "--allow user"), USER),
    "host name": Planted(in_card(f"trained on {HOST}"), ("README.md line", "host name", "--allow host"), HOST),
    "address": Planted(in_card("ask zoe@mail.example.com"), ("README.md line", "e-mail address"), "zoe@mail"),
    "symbolic link": Planted(through_a_link, ("tokenizer_config.json is a link",)),
    "hidden file": Planted(in_text(".env", TOKEN), ()),
    "hidden file of a folder": Planted(in_text("adapter/.cache.json", TOKEN), ()),
    "file of the user": Planted(lambda folder: (folder / "notes.md").write_text(TOKEN), ()),
    "pickle": Planted(in_text("state.pkl", TOKEN), ()),
}
"""Where a secret is -> how it gets there, what is said of it."""


@pytest.mark.parametrize("where", PLANTED)
def test_none_leaves_and_each_is_named(where: str, pusher: Pusher) -> None:
    """The error names file and line; the output holds no part of it, and no request does."""
    planted = PLANTED[where]
    secret = pusher.token if where == "the token in use" else planted.secret
    assert secret
    planted.plant(pusher.folder)
    if where == "the token in use":
        in_card(secret)(pusher.folder)
    received = Received(pusher.hub)
    pusher.variables.update(VARIABLES)
    code, out, err = pusher("alice/model")
    assert code == (2 if planted.says else 0), err
    assert [part for part in planted.says if part not in err] == []
    pieces = {secret[start : start + 8] for start in range(len(secret) - 7)}
    assert [piece for piece in pieces if piece in out + err] == []
    assert received.holding(secret) == []
    if planted.says:
        assert pusher.hub.repositories() == []
    else:
        assert "state.pkl" not in names_of(pusher.folder)
        assert [commit.title for commit in pusher.hub.repo("alice/model").commits()][1:] == NEW
        assert received.holding("hidden_size")  # what is sent is seen


def test_all_are_named_at_once(pusher: Pusher) -> None:
    """One run names all of them, not the first."""
    chosen = [
        "card",
        "field of run.json",
        "weights",
        "adapter weights",
        "tokenizer_config",
        "tokenizer",
        "chat template",
        "adapter_config",
        "labels",
        "value of a variable",
        "user name",
        "host name",
    ]
    for where in chosen:
        PLANTED[where].plant(pusher.folder)
    pusher.variables.update(VARIABLES)
    code, _, err = pusher("alice/model")
    assert code == 2
    for where in chosen:
        assert [part for part in PLANTED[where].says if part not in err] == [], where
    assert pusher.hub.requests == []
