"""`hf-ft train --redraw OUT`: figures and card from the record alone, with what people wrote into the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.storage import output_folder


@pytest.fixture(scope="module")
def trained(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("redraw") / "out"
    finetune(
        task="text_classification",
        model=text_model,
        dataset=text_data,
        method="full",
        max_steps=2,
        load_back_proof=False,
        output_dir=out,
    )
    return out


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "out"))


def files(folder: Path) -> dict[str, bytes]:
    """Every file with its content, but for the lock and the manifest."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if name not in (".local/lock", ".local/manifest.json")}


def test_redrawn_byte_for_byte(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(out)
    assert main(["train", "--redraw", str(out)]) == 0
    assert files(out) == before
    printed = capsys.readouterr().out
    assert "learning_curves.png" in printed
    assert "README.md" in printed


def test_edits_survive_and_numbers_are_renewed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another score in the record: it is on the card, and so are a new section, a changed one and a licence."""
    card, record = out / "README.md", json.loads((out / "run.json").read_text())
    text = card.read_text().replace("\n## Limits\n", "\n## Authors\n\nMe.\n\n## Limits\n\nNot for doctors.\n")
    card.write_text(text.replace("library_name:", "license: mit\nlibrary_name:"))
    record["metrics"]["test"]["accuracy"]["value"] = 0.4242
    (out / "run.json").write_text(json.dumps(record))
    assert main(["train", "--redraw", str(out)]) == 0
    again = card.read_text()
    assert "## Authors\n\nMe." in again
    assert "Not for doctors." in again
    assert "license: mit" in again
    assert "0.424" in again
    assert "Authors" in capsys.readouterr().out
    # The card counts as the user's: a run that replaces this one moves it aside.
    assert not output_folder.is_unchanged(card, output_folder.files_of(out)["README.md"])
    assert not list(out.glob("README.md.kept*"))


def test_a_card_of_ones_own_is_left_alone(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "README.md").write_text("# Mine\n")
    assert main(["train", "--redraw", str(out)]) == 0
    assert (out / "README.md").read_text() == "# Mine\n"
    assert "left as it is" in capsys.readouterr().out


def test_a_card_that_was_removed_is_made_again(out: Path) -> None:
    before = (out / "README.md").read_text()
    (out / "README.md").unlink()
    assert main(["train", "--redraw", str(out)]) == 0
    assert (out / "README.md").read_text() == before
    assert output_folder.is_unchanged(out / "README.md", output_folder.files_of(out)["README.md"])


def test_nothing_to_redraw(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No run, other options beside it, or a broken record: one line, and exit code 2."""
    assert main(["train", "--redraw", str(tmp_path / "nothing")]) == 2
    assert main(["train", "--redraw", str(out), "--seed", "1"]) == 2
    (out / "run.json").write_text("{")
    assert main(["train", "--redraw", str(out)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 3
