"""What may be published, and that no token and no path of this machine is among it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_ft import finetune
from hf_ft.cli import main
from hf_ft.publishing import leaks, publishable

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
    assert [str(name) for name in kept] == [".local/origin.json"]
    assert not list(run_with_token.rglob("training_args.bin"))


def test_adapter_does_not_name_a_local_base(run_with_token: Path) -> None:
    """PEFT writes the base model's folder there; ours says a Hub id or nothing."""
    written = json.loads((run_with_token / "adapter/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] is None
    assert written["modules_to_save"] == ["classifier"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", f"my token is {TOKEN}"),
        ("run.json", '{"dataset": "/home/somebody/private/data"}'),
        ("config.json", '{"_name_or_path": "/Users/somebody/model"}'),
        ("tokenizer_config.json", '{"name": "C:\\\\Users\\\\somebody\\\\x"}'),
    ],
)
def test_a_planted_leak_stops_the_push(
    tmp_path: Path, file: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token or path that somebody wrote into a file is found, named, and nothing is published."""
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / file).write_text(text)
    assert main(["push", str(tmp_path), "--repo_id", "me/model"]) == 2
    assert f"Nothing was published: {file}" in capsys.readouterr().err


def test_innocent_texts_do_not_stop_the_push(tmp_path: Path) -> None:
    """Web addresses, Hub ids and fractions look a little like paths, and are none."""
    text = "https://huggingface.co/home/x models/opt-125m and/or 1/2 hf_ft facebook/opt s3://data/x"
    (tmp_path / "README.md").write_text(text)
    assert leaks(tmp_path, [Path("README.md")]) == []


def test_other_files_stay(tmp_path: Path) -> None:
    """The list of what is published is a whitelist."""
    for name in ("run.json", "config.json", "training_args.bin", "optimizer.pt", ".env", "notes.txt", "pickle.bin"):
        (tmp_path / name).write_text("x")
    files, kept = publishable(tmp_path)
    assert {str(name) for name in files} == {"run.json", "config.json"}
    assert len(kept) == 5
