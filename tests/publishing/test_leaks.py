"""No token, key, name or path of this machine passes the search, wherever it stands, and innocent texts do."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from hf_ft.publishing import leaks
from hf_ft.publishing.leaks import Search, find_leaks
from hf_ft.publishing.machine_names import GENERIC, HOST, USER
from hf_ft.publishing.secret_patterns import EMAIL, LOCAL_PATH, PLACES, SECRETS

LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
HEX = "0123456789abcdef"
TOKEN = "hf_" + LETTERS[:34]
PLANTED = {
    "Hugging Face token": (TOKEN, f"word{TOKEN}word"),
    "OpenAI key": ("sk-proj-" + LETTERS, "sk-" + LETTERS, "wordsk-proj-" + LETTERS),
    "Anthropic key": ("sk-ant-api03-" + LETTERS,),
    "AWS key": ("AKIA" + "ABCDEFGHIJ234567", "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz"),
    "GitHub token": ("ghp_" + LETTERS, "github_pat_" + LETTERS),
    "GitLab token": ("glpat-" + LETTERS[:20],),
    "Slack token": ("xoxb-1234567890-abcdef", "https://hooks.slack.com/services/T00000000/B00000000/abcdefgh"),
    "Discord webhook": (f"https://discord.com/api/webhooks/123456789012345678/{LETTERS}{LETTERS[:10]}",),
    "Telegram token": ("123456789:AA" + LETTERS[:33],),
    "Google key": ("AIza" + LETTERS[:35],),
    "Weights & Biases key": ("WANDB_API_KEY=" + (HEX * 3)[:40],),
    "LangSmith key": (f"lsv2_pt_{HEX * 2}_{HEX[:10]}",),
    "Kaggle key": (f"KAGGLE_KEY={HEX * 2}", "KGAT_" + HEX * 2),
    "Stripe key": ("sk_live_" + LETTERS[:24],),
    "npm token": ("npm_" + LETTERS,),
    "PyPI token": ("pypi-AgE" + LETTERS * 2,),
    "Docker Hub token": ("dckr_pat_" + LETTERS[:27],),
    "SendGrid key": (f"SG.{LETTERS[:22]}.{LETTERS}{LETTERS[:7]}",),
    "Twilio key": ("SK" + HEX * 2,),
    "Azure key": ("AccountKey=" + LETTERS * 2 + "==",),
    "DigitalOcean token": ("dop_v1_" + HEX * 4,),
    "Vault token": ("hvs." + LETTERS[:24],),
    "Databricks token": ("dapi" + HEX * 2,),
    "Replicate token": ("r8_" + LETTERS + "0",),
    "Groq key": ("gsk_" + LETTERS + LETTERS[:4],),
    "Perplexity key": ("pplx-" + LETTERS + LETTERS[:4],),
    "xAI key": ("xai-" + LETTERS * 2,),
    "Pinecone key": ("pcsk_" + LETTERS + LETTERS[:10],),
    "private key": ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"),
    "JSON web token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",),
    "password in an address": ("postgres://me:hunter2@db.example.com/x",),
    "password or key": ("password: hunter2hunter2", '"api_key": "0a1b2c3d4e5f"', "Authorization: Bearer 0a1b2c3d4e5f"),
    EMAIL: ("somebody.else@mail.example.com",),
    LOCAL_PATH: (
        *("/home/somebody/data", "/nfs/team/model", "/workspace/x", "/content/drive/x", "/kaggle/input/x"),
        *("(/mnt/a/b)", "file:///etc/passwd", "path=/data/x/y", "model:/scratch/me/x"),
        *("D:\\private\\x", "C:\\Users\\somebody", "C:/Users/somebody", "\\\\server\\share\\x"),
    ),
}
"""Kind of leak -> texts that are one."""


def found_in(folder: Path, *names: str, search: Search | None = None) -> list[str]:
    """The finds in files of a folder, as they are shown."""
    return [str(find) for find in find_leaks(folder, map(Path, names), search)]


@pytest.mark.parametrize("kind", PLANTED)
def test_each_kind_is_found_in_each_kind_of_file(kind: str, tmp_path: Path) -> None:
    """In a card, in JSON with its escapes, in a tokenizer and in metadata of weights; named by file and line only."""
    for planted in PLANTED[kind]:
        (tmp_path / "README.md").write_text(f"first line\n{planted}\n")
        (tmp_path / "config.json").write_text(json.dumps({"a": 1, "x": {"y": [f"see {planted}"]}}, indent=1))
        tokenizer = {"added_tokens": [{"content": f"see {planted}"}], "model": {"vocab": {"a": 0}, "merges": []}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1, ensure_ascii=False))
        save_file({"w": np.zeros(1)}, tmp_path / "model.safetensors", {"from": f"see {planted}"})
        for name, place in (
            ("README.md", "line 2"),
            ("config.json", "line 5"),
            ("tokenizer.json", "line 4"),
            ("model.safetensors", "metadata 'from'"),
        ):
            found = found_in(tmp_path, name)
            assert f"{name} {place}: {kind}" in found, (planted, name, found)
            pieces = {planted[start : start + 6] for start in range(len(planted) - 5)}
            assert not [piece for piece in pieces for one in found if piece in one.partition(": ")[0]]


def test_every_kind_is_planted() -> None:
    """A pattern without an example would be a guess."""
    assert {*PLANTED} == {*SECRETS, *PLACES}


# --- Where it may stand -----------------------------------------------------------------------------------------------


def _png(path: Path) -> None:
    about = PngInfo()
    about.add_text("Comment", TOKEN)
    Image.new("RGB", (2, 2)).save(path, pnginfo=about)


def _nested(path: Path) -> None:
    save_file({"w": np.zeros(1)}, path, {"config": json.dumps({"a": [f"\u00e9 {TOKEN}"]})})


PLACES_OF_TEXT: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "metadata of a card": (
        "README.md",
        lambda path: path.write_text(f'---\nlicense: mit\nx: "\\x68f_{TOKEN[3:]}"\n---\ntext\n'),
        "",
    ),
    "Markdown escapes": (
        "README.md",
        lambda path: path.write_text(f"a\nb {TOKEN.replace('_', chr(92) + '_')}"),
        "line 2",
    ),
    "HTML entities": ("README.md", lambda path: path.write_text(f"a\nb {TOKEN.replace('_', '&#95;')}"), "line 2"),
    "YAML": ("x.yaml", lambda path: path.write_text(f"a: 1\nb: {TOKEN}\n"), "line 2"),
    "chat template": ("chat_template.jinja", lambda path: path.write_text(f"{{% x %}}\n{TOKEN}"), "line 2"),
    "key of JSON": ("config.json", lambda path: path.write_text(json.dumps({TOKEN: 1})), "line 1"),
    "JSON that is none": ("config.json", lambda path: path.write_text(f"{{\n{TOKEN}"), "line 2"),
    "JSON in a vocabulary": ("vocab.json", lambda path: path.write_text(json.dumps({"a": 0, TOKEN: 1})), "line 1"),
    "JSON within metadata": ("model.safetensors", _nested, "metadata 'config'"),
    "name of a field": (
        "model.safetensors",
        lambda path: save_file({"w": np.zeros(1)}, path, {TOKEN: "x"}),
        "metadata",
    ),
    "name of a tensor": ("a.safetensors", lambda path: save_file({TOKEN: np.zeros(1)}, path), "names of tensors"),
    "picture": ("figures.png", _png, "metadata 'Comment'"),
    "drawing": ("figures.svg", lambda path: path.write_text(f"<svg>\n<!-- {TOKEN} -->\n</svg>"), "line 2"),
    "code": ("modeling.py", lambda path: path.write_text(f"x = 1\ntoken = '{TOKEN}'\n"), "line 2"),
}
"""Where a token may stand -> the file, how it gets there, the place that is named."""


@pytest.mark.parametrize("where", PLACES_OF_TEXT)
def test_each_place_is_searched(where: str, tmp_path: Path) -> None:
    """Also where the bytes of the token are not those of the file."""
    name, write, place = PLACES_OF_TEXT[where]
    write(tmp_path / name)
    kinds = "Hugging Face token"
    assert f"{' '.join(filter(None, (name, place)))}: {kinds}" in found_in(tmp_path, name)


def test_the_key_beside_a_value_counts(tmp_path: Path) -> None:
    """In metadata of weights as in JSON: the value alone would be any word."""
    save_file({"w": np.zeros(1)}, tmp_path / "model.safetensors", {"api_key": "0a1b2c3d4e5f"})
    assert found_in(tmp_path, "model.safetensors") == ["model.safetensors metadata 'api_key': password or key"]


# --- What this machine would give away --------------------------------------------------------------------------------


def test_values_of_secret_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of any form is found and named by its variable; numbers, paths and short values are no secrets."""
    monkeypatch.setenv("MY_SERVICE_PASSWORD", "correct-horse-1")
    monkeypatch.setenv("OTHER_TOKEN", "zyxwvuts")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "harmless-value")
    monkeypatch.setenv("SOME_KEY", str(tmp_path))
    monkeypatch.setenv("PORT_KEY", "1234567890")
    card = tmp_path / "README.md"
    card.write_text("harmless-value 1234567890\nxcorrect-horse-1x\nzyxwvuts\nzyxwvutser\n")
    assert found_in(tmp_path, "README.md") == [
        "README.md line 2: value of the environment variable MY_SERVICE_PASSWORD",
        "README.md line 3: value of the environment variable OTHER_TOKEN",
    ]


def test_the_token_in_use(tmp_path: Path) -> None:
    """Whatever it looks like."""
    (tmp_path / "README.md").write_text("a\nmy-own-hub-token\n")
    search = Search.on_this_machine(tmp_path, tokens=("my-own-hub-token", None))
    assert found_in(tmp_path, "README.md", search=search) == ["README.md line 2: token in use"]


def test_names_of_user_and_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whole words, in the vocabulary of a tokenizer not at all."""
    monkeypatch.setenv("USER", "zachary7")
    monkeypatch.setattr(socket, "gethostname", lambda: "quokka-3.example.org")
    (tmp_path / "README.md").write_text("by zachary7\non quokka-3\non quokka-3.example.org\nzachary77 xquokka-3\n")
    (tmp_path / "vocab.txt").write_text("zachary7\n")
    assert found_in(tmp_path, "README.md", "vocab.txt") == [
        f"README.md line 1: {USER}",
        f"README.md line 2: {HOST}",
        f"README.md line 3: {HOST}",
    ]


def test_names_that_are_public_or_generic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace of the repository is published anyway, and `root` is nobody."""
    (tmp_path / "README.md").write_text("zachary7/model root ubuntu localhost\n")
    for user, public in (("zachary7", ["Zachary7"]), ("root", []), ("ubuntu", [])):
        monkeypatch.setenv("USER", user)
        assert found_in(tmp_path, "README.md", search=Search.on_this_machine(tmp_path, public)) == []
    assert {"root", "localhost"} <= GENERIC


def test_a_short_home_is_found_as_a_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container it may be `/models`: Hub ids and addresses with that in them are none of its paths."""
    monkeypatch.setenv("HOME", "/models")
    card = tmp_path / "README.md"
    card.write_text("acme/models https://example.org/models/x ./models/y /models-of-mine x-/models ../models\n")
    assert found_in(tmp_path, "README.md") == []
    for text in ("in /models/x", "(/models)", "path=/models", '"/models"', "/models."):
        card.write_text(text)
        assert found_in(tmp_path, "README.md") == [f"README.md line 1: {LOCAL_PATH}"]


# --- What is none -----------------------------------------------------------------------------------------------------


def test_innocent_texts_are_none(tmp_path: Path) -> None:
    """Web addresses, Hub ids, fractions, names of tasks and hashes look a little like leaks, and are none."""
    text = (
        "https://huggingface.co/home/x models/opt-125m and/or 1/2 hf_ft facebook/opt s3://data/x "
        "task-specific-BERT-base-v2-uncased-finetuned-on-SST2 https://arxiv.org/abs/2010.16402 ./data/x train/data/y "
        "`0123456789abcdef0123456789abcdef01234567` pad_token: [PAD] mask_token = <mask> 10:30 a: b C: D "
        "git@github.com:a/b http://localhost:8080/data/x token_classification password: the bearer of news "
        "builtin:efficientnet-lite0 SK00 xai-lib kaggle datasets "
        f"wandb/model at {(HEX * 3)[:40]} kaggle/cats, fingerprint {HEX * 2}"
    )
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"x": "Question:\nAnswer:\n a:\nb", "pad_token": "<|endoftext|>"}))
    assert found_in(tmp_path, "README.md", "config.json") == []


def test_a_vocabulary_may_hold_pieces_of_paths(tmp_path: Path) -> None:
    """Pieces that a tokenizer has learnt are no leaks, but a token among them is."""
    vocabulary = {"/home/": 0, "/usr/local": 1, "/home/x/y": 2, "me@example.com": 3, "hf_": 4}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary, "merges": ["/home /x/y"]}}))
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("/home/a /b\n")
    files = ("tokenizer.json", "vocab.json", "merges.txt")
    assert found_in(tmp_path, *files) == []
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary | {TOKEN: 5}}}, indent=1))
    assert found_in(tmp_path, *files) == ["tokenizer.json line 9: Hugging Face token"]


def test_genes_are_no_keys(tmp_path: Path) -> None:
    """Vocabularies of DNA hold every word of four letters."""
    (tmp_path / "vocab.txt").write_text("ACCATTTTTTTTTTTTTTTT\nABIACCCCCCCCCCCCCCCC\n")
    assert found_in(tmp_path, "vocab.txt") == []


def test_command_lines_and_messages_are_masked() -> None:
    """Values of options that are named like a secret, and whatever looks like a token."""
    words = ["--hub_token", "abc", "--x=1", f"--y={TOKEN}", "--my_password=p"]
    assert leaks.without_secrets(words) == ["--hub_token", "***", "--x=1", "--y=***", "--my_password=***"]
    assert leaks.masked(f"a {TOKEN} b own", ("own",)) == "a *** b ***"
    assert re.search("|".join(SECRETS.values()), "own") is None
