"""Output folders: whose they are, which files in them are ours, and that one process writes there at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_ft import output_folder
from hf_ft.lookup import UserError


def names(folder: Path) -> set[str]:
    """All files in a folder, but for those that every output folder has."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found - {output_folder.MANIFEST, output_folder.LOCK}


# --- Files ------------------------------------------------------------------------------------------------------------


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written leaves the file as it was, and nothing beside it; the mode is that of any new file."""
    path = tmp_path / "sub" / "run.json"
    output_folder.write_atomically(path, "{}\n")
    with pytest.raises(UnicodeEncodeError):
        output_folder.write_atomically(path, "half \udcff")
    assert path.read_bytes() == b"{}\n"
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """A file that a link points to is not written through it."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run.json").symlink_to(tmp_path / "mine")
    output_folder.write_atomically(tmp_path / "run.json", "{}")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "run.json").is_symlink()


# --- Which files are ours ---------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder of ours with a card, a picture and weights."""
    folder = tmp_path / "out"
    with output_folder.locked(folder, "run"), output_folder.staging(folder) as new:
        (new / "figures").mkdir()
        for name in ("README.md", "figures/curve.png", "model.safetensors"):
            (new / name).write_text(f"our {name}")
    return folder


def test_what_is_staged_takes_its_place_and_is_known(ours: Path) -> None:
    """The manifest has every staged file, and nothing is left of the place where they were staged."""
    assert names(ours) == {"README.md", "figures/curve.png", "model.safetensors"} == set(output_folder.files_of(ours))
    assert output_folder.kind_of(ours) == "run"


def test_what_fails_while_staging_leaves_the_old_result(ours: Path) -> None:
    """An error before the end changes no file of the folder."""

    def fail() -> None:
        with output_folder.staging(ours) as new:
            (new / "README.md").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (ours / "README.md").read_text() == "our README.md"
    assert names(ours) == {"README.md", "figures/curve.png", "model.safetensors"}


def test_only_our_files_are_removed(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of the user's stay where they are, one that the user has changed stays under another name."""
    (ours / "figures/paper.pdf").write_text("mine")
    (ours / "notes.txt").write_text("mine")
    (ours / "README.md").write_text("our README.md, edited")
    output_folder.remove(ours)
    assert names(ours) == {"figures/paper.pdf", "notes.txt", "README.md.kept"}
    assert (ours / "README.md.kept").read_text() == "our README.md, edited"
    assert "README.md.kept" in capsys.readouterr().out
    assert output_folder.files_of(ours) == {}


def test_only_our_files_are_replaced(ours: Path) -> None:
    """A new result takes the place of the old one, and moves aside what is not ours under the same names."""
    (ours / "README.md").write_text("edited")
    (ours / "config.json").write_text("mine")
    output_folder.write(ours, "README.md", "new")
    output_folder.write(ours, "config.json", "{}")
    output_folder.write(ours, "model.safetensors", "new weights")
    assert (ours / "README.md.kept").read_text() == "edited"
    assert (ours / "config.json.kept").read_text() == "mine"
    assert not (ours / "model.safetensors.kept").exists()
    (ours / "README.md").write_text("edited again")
    output_folder.write(ours, "README.md", "newer")
    assert (ours / "README.md.kept-2").read_text() == "edited again"


def test_a_link_out_of_the_folder_is_not_written_through(ours: Path, tmp_path: Path) -> None:
    """A folder that became a link is moved aside, so that nothing is written where it points."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "curve.png").write_text("mine")
    (ours / "figures/curve.png").unlink()
    (ours / "figures").rmdir()
    (ours / "figures").symlink_to(elsewhere)
    output_folder.write(ours, "figures/curve.png", "new")
    assert (elsewhere / "curve.png").read_text() == "mine"
    assert (ours / "figures/curve.png").read_text() == "new"


def test_killed_between_manifest_and_file(ours: Path) -> None:
    """A file that was about to be replaced counts as ours by its old content, too."""
    output_folder.record(ours, {"README.md": {"size": 3, "sha256": "0" * 64}})
    output_folder.write(ours, "README.md", "new")
    assert names(ours) == {"README.md", "figures/curve.png", "model.safetensors"}


# --- Whose a folder is ------------------------------------------------------------------------------------------------


def test_what_a_folder_holds(tmp_path: Path, ours: Path) -> None:
    """Only a manifest makes a folder ours; a broken one does not."""
    assert output_folder.state_of(tmp_path / "none") == "nothing"
    assert output_folder.state_of(ours) == "run"
    (tmp_path / "checkpoints").mkdir()
    assert output_folder.state_of(tmp_path) == "files"
    (ours / output_folder.MANIFEST).write_text("{")
    assert output_folder.state_of(ours) == "files"


# --- Lock -------------------------------------------------------------------------------------------------------------

HOLD = (
    "import sys, time; from pathlib import Path; from hf_ft.output_folder import locked\n"
    "with locked(Path(sys.argv[1]), 'run'):\n    print('held', flush=True); time.sleep(60)"
)


def holding(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    """The message names the folder and the process; after a kill the folder is free at once."""
    folder = tmp_path / "out"
    process = holding(folder)
    try:
        with pytest.raises(UserError) as told, output_folder.locked(folder, "run"):
            pass
    finally:
        process.kill()
        process.wait()
    assert str(folder) in str(told.value)
    assert str(process.pid) in str(told.value)
    assert time.strftime("%Y-") in str(told.value)
    (folder / "notes.txt").write_text("mine")
    with output_folder.locked(folder, "run"):
        assert output_folder.state_of(folder) == "run"
    assert names(folder) == {"notes.txt"}


def test_processes_of_one_run_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first process of a distributed run takes the lock, so the others go on beside it."""
    process = holding(tmp_path / "out", RANK="0", WORLD_SIZE="2")
    try:
        monkeypatch.setenv("RANK", "1")
        with output_folder.locked(tmp_path / "out", "run"):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError), output_folder.locked(tmp_path / "out", "run"):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_mistake_leaves_no_trace(tmp_path: Path) -> None:
    """Where nothing was written the folder is gone again, with those that were made for it; others stay."""
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "a/b/c"):
        with pytest.raises(UserError), output_folder.locked(folder, "run"):
            raise UserError("no such column")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


# --- Sealed folders ---------------------------------------------------------------------------------------------------


def test_a_sealed_folder_is_known_to_be_whole(tmp_path: Path) -> None:
    """A file that was cut off, changed or removed is named; files that came later are none of its business."""
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).write_text(name)
    assert output_folder.damage(folder)
    output_folder.seal(folder)
    (folder / "notes.txt").write_text("mine")
    assert output_folder.damage(folder) == ""
    (folder / "optimizer.pt").write_text("optimizer.p!")
    assert "optimizer.pt" in output_folder.damage(folder)
    (folder / "optimizer.pt").unlink()
    assert "optimizer.pt" in output_folder.damage(folder)
    output_folder.remove_sealed(folder)
    assert names(folder) == {"notes.txt"}
