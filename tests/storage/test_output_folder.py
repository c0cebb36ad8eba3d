"""Output folders: whose they are, which files in them are ours, and that one process writes there at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_ft.cli.app import main
from hf_ft.errors import UserError
from hf_ft.storage import output_folder
from hf_ft.training import checkpoints
from tests.support.processes import python


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
    "import sys, time; from pathlib import Path; from hf_ft.storage.output_folder import locked\n"
    "with locked(Path(sys.argv[1]), sys.argv[2]):\n    print('held', flush=True); time.sleep(60)"
)


def holding(folder: Path, kind: str = "run", **environment: str) -> subprocess.Popen[str]:
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), kind],
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
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with output_folder.locked(tmp_path / "out", "run"):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError), output_folder.locked(tmp_path / "out", "run"):
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({"RANK": "8"}, True),
        ({"RANK": "8", "WORLD_SIZE": "1"}, True),
        ({"RANK": "8", "WORLD_SIZE": "many"}, True),
        ({"PMI_RANK": "3"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "8", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, False),
    ],
)
def test_a_rank_counts_together_with_its_size(
    environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who exports `RANK=8` for LoRA has one process, which takes the lock."""
    for names in output_folder.RANKS:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert output_folder.is_first_process() == first


@pytest.mark.parametrize("environment", [{"RANK": "8"}, {"RANK": "1", "WORLD_SIZE": "2"}])
def test_variables_of_the_environment_delete_no_result(
    environment: dict[str, str],
    text_model: str,
    text_data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever a process is called there: one that trains alone replaces a result only when it is told to."""
    out = tmp_path / "out"
    output_folder.mark(out, "run")
    output_folder.write(out, "run.json", "{}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(words("train", text_model, text_data, out)) == 2
    assert f"{out} already holds" in capsys.readouterr().err
    assert (out / "run.json").read_text() == "{}"


def test_a_folder_is_held_to_the_end_of_the_process(tmp_path: Path) -> None:
    """A recipe that trains and does not save ends without noise, and nothing says that it still holds the folder."""
    program = (
        "import sys; from pathlib import Path; from hf_ft.storage import output_folder as folders\n"
        "sys.kept = folders  # so it goes late, as in a large program\n"
        "out = Path(sys.argv[1]); folders.hold(out, 'run'); folders.write(out, 'x.txt', 'x')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert names(tmp_path / "out") == {"x.txt"}


def test_a_mistake_leaves_no_trace(tmp_path: Path) -> None:
    """Where nothing was written the folder is gone again, with those that were made for it; others stay."""
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "a/b/c"):
        with pytest.raises(UserError), output_folder.locked(folder, "run"):
            raise UserError("no such column")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


# --- Commands ---------------------------------------------------------------------------------------------------------

FOREIGN = (
    *("checkpoints/mine.txt", "figures/paper.pdf", "README.md", "config.json", "model.safetensors", "run.json"),
    *(
        "compare.json",
        "depth.json",
        "rank.json",
        "trials/head-all-seed0.json",
        "confirm/x/run.json",
        "depth/depth.json",
    ),
)
"""What a folder of the user's may hold, called as files of ours are."""


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(command: str, model: str, data: str, out: Path, *more: str) -> list[str]:
    """A command on a tiny model, short enough for a test."""
    own = {"train": ["--method=full", "--load_back_proof=false"], "auto": ["--method=auto"], "rank": []}
    models = [model, "builtin"] if command == "rank" else [f"--model={model}"]
    first = [{"auto": "train"}.get(command, command), *(models if command == "rank" else [])]
    usual = ["--task=text_classification", f"--dataset={data}", f"--output_dir={out}", "--max_steps=1", "--seed=1"]
    return [*first, *(models if command != "rank" else []), *usual, *own.get(command, []), *more]


@pytest.mark.parametrize("command", ["train", "auto", "compare", "depth", "rank"])
@pytest.mark.parametrize("option", ["--overwrite_output_dir", "--resume", ""])
def test_a_folder_that_is_not_ours_is_never_touched(
    command: str, option: str, text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files called as ours are do not make a folder ours: the command is refused, and every byte stays."""
    for name in FOREIGN:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(f"my {name}")
    before = content(tmp_path)
    assert main(words(command, text_model, text_data, tmp_path / "out", *[option] * bool(option))) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(tmp_path / "out") in told
    assert content(tmp_path) == before


def test_files_of_the_user_survive(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run replaces what the first one wrote, and nothing that was put or changed there since."""
    out = tmp_path / "out"
    assert main(words("train", text_model, text_data, out)) == 0
    first = content(out)
    assert {"model.safetensors", "run.json", "README.md"} <= set(output_folder.files_of(out)) < set(first)
    mine = {"notes.txt": b"mine", "figures/paper.pdf": b"mine", "adapter/mine.txt": b"mine", "vocab_mine.txt": b"mine"}
    for name, text in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(text)
    (out / "README.md").write_text("my card")
    capsys.readouterr()
    assert main([*words("train", text_model, text_data, out), "--seed=2", "--overwrite_output_dir"]) == 0
    second = content(out)
    assert {name: second[name] for name in mine} == mine
    assert second["README.md.kept"] == b"my card"
    assert "README.md.kept" in capsys.readouterr().out
    assert second["model.safetensors"] != first["model.safetensors"]
    assert set(second) == {*first, *mine, "README.md.kept"}
    assert not {*mine, "README.md.kept"} & set(output_folder.files_of(out))


EPOCHS = ("--max_steps=-1", "--num_train_epochs=2", "--save_total_limit=2")


@pytest.fixture(scope="module")
def interrupted(text_model: str, text_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that ended before its result was saved: its checkpoints are there."""
    out = tmp_path_factory.mktemp("runs") / "out"
    program = (
        "import sys; from hf_ft.results import saving; from hf_ft.cli import main\n"
        "saving.save = lambda *_: sys.exit(9)\nmain(sys.argv[1:])"
    )
    assert python("-c", program, *words("train", text_model, text_data, out, *EPOCHS)).returncode == 9
    assert len(list(out.glob("checkpoints/1-full/checkpoint-*"))) == 2
    return out


@pytest.mark.parametrize("option", ["--resume", "--overwrite_output_dir"])
def test_files_of_the_user_among_checkpoints_survive(
    option: str, interrupted: Path, text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the run goes on, ends or begins anew: what it did not write there is kept beside, and said to be."""
    out = Path(shutil.copytree(interrupted, tmp_path / "out"))
    last = sorted(out.glob("checkpoints/1-full/checkpoint-*"))[-1].relative_to(out / "checkpoints")
    mine = ("mine.txt", f"{last}/notes.txt", "1-full/checkpoint-999/model.safetensors", "old/sub/x")
    for name in mine:
        (out / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "checkpoints" / name).write_text(f"my {name}")
    command = words("train", text_model, text_data, out, *EPOCHS)
    assert main([*command, option]) == 0
    kept = {name: text.decode() for name, text in content(out / "checkpoints.kept").items()}
    assert kept == {name: f"my {name}" for name in mine}
    assert "checkpoints.kept" in capsys.readouterr().out
    assert (out / "run.json").is_file()
    assert not (out / "checkpoints").exists()


def test_copies_of_checkpoints_are_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seals and results count where a run writes them only; so does the name of the folder of all checkpoints."""
    out = tmp_path / "checkpoints/out"  # a name that says nothing
    output_folder.mark(out, "run")
    stage = out / "checkpoints/1-full"
    with checkpoints.whole(stage / "checkpoint-8", {"best": None, "over": False}) as begun:
        (begun / "model.safetensors").write_text("ours")
    checkpoints.end(stage, {"checkpoint": "checkpoints/1-full/checkpoint-8"}, keep=True)
    (stage / ".stage.json.7.part").write_text("ours, of a killed process")
    shutil.copytree(stage / "checkpoint-8", stage / "my-best")
    shutil.copytree(stage, out / "checkpoints/old/1-full", ignore=shutil.ignore_patterns(".*"))
    mine = ["sealed.json", "1-full/sub/stage.json", "1-full/checkpoint-8/begun.json", "1-full/checkpoints/x.txt"]
    mine += ["1-full/checkpoint-8/.writing/x", "1-full/checkpoint-8/sub/checkpoints/y.txt", "stage.json"]
    for name in mine:
        (out / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "checkpoints" / name).write_text("mine")
    before = content(out / "checkpoints")
    ours = {"1-full/stage.json", "1-full/.stage.json.7.part"}
    ours |= {f"1-full/checkpoint-8/{name}" for name in ("sealed.json", "model.safetensors")}
    checkpoints.remove(out)
    expected = {name: text for name, text in before.items() if name not in ours}
    assert content(out / "checkpoints.kept") == expected
    assert set(mine) < set(expected)
    assert len(expected) == len(mine) + 2 + 5
    assert not (out / "checkpoints").exists()
    assert capsys.readouterr().out.count("\n") == len(expected)


def test_the_limit_on_checkpoints_counts_ours(interrupted: Path, tmp_path: Path) -> None:
    """`save_total_limit` removes the oldest of ours only, and what a user has put into it is kept."""
    stage = Path(shutil.copytree(interrupted, tmp_path / "out")) / "checkpoints/1-full"
    first, last = checkpoints.steps(stage)
    (stage / "checkpoint-999").mkdir()
    (stage / "checkpoint-999/mine.txt").write_text("mine")
    (first / "notes.txt").write_text("mine")
    checkpoints.rotate(stage, 1, set())
    assert not first.exists()
    assert (last / "model.safetensors").is_file()
    assert (stage / "checkpoint-999/mine.txt").read_text() == "mine"
    assert (tmp_path / "out/checkpoints.kept/1-full" / first.name / "notes.txt").read_text() == "mine"


def test_a_result_of_one_command_is_not_for_another(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison is neither replaced nor gone on with by a run, nor the other way round."""
    for kind, command in (("comparison", "train"), ("run", "compare"), ("ranking", "depth"), ("search", "rank")):
        out = tmp_path / kind
        output_folder.mark(out, kind)
        output_folder.write(out, "run.json", "{}")
        assert main(words(command, text_model, text_data, out, "--overwrite_output_dir")) == 2
        assert output_folder.KINDS[kind] in capsys.readouterr().err
        assert (out / "run.json").read_text() == "{}"


# --- What is read is not written over ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["model", "dataset"])
def test_the_source_is_not_overwritten_by_another_name(
    what: str, text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither through a link, nor by a path with dots, nor in a folder inside; even where the source was a run."""
    source = tmp_path / "source"
    shutil.copytree({"model": text_model, "dataset": text_data}[what], source)
    output_folder.mark(source, "run")
    (tmp_path / "link").symlink_to(source)
    before = content(source)
    sources = {"model": text_model, "dataset": text_data} | {what: str(source)}
    for out in (source, tmp_path / "link", tmp_path / "link/../source", source / "new", tmp_path / "link/a/b"):
        for option in ("--overwrite_output_dir", "--resume"):
            assert main(words("train", sources["model"], sources["dataset"], out, option)) == 2
            assert what in capsys.readouterr().err
    assert content(source) == before


def test_a_model_in_the_output_folder_is_not_overwritten(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Who trains on from a checkpoint of a run must not replace that run."""
    shutil.copytree(text_model, tmp_path / "out/checkpoints/1-full/checkpoint-1")
    output_folder.mark(tmp_path / "out", "run")
    before = content(tmp_path / "out")
    model = str(tmp_path / "out/checkpoints/1-full/checkpoint-1")
    assert main(words("train", model, text_data, tmp_path / "out", "--overwrite_output_dir")) == 2
    assert content(tmp_path / "out") == before


def test_predictions_and_pictures_do_not_overwrite_files(
    text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that exists is refused without --overwrite, and the input with it, by whichever name."""
    out, table, picture = tmp_path / "out", tmp_path / "in.csv", tmp_path / "model.png"
    assert main(words("train", text_model, text_data, out)) == 0
    table.write_text("text\ngood\n")
    (tmp_path / "link.csv").symlink_to(table)
    (tmp_path / "old.csv").write_text("old")
    picture.write_text("old")
    for output, more in (("old.csv", []), ("in.csv", []), ("in.csv", ["--overwrite"]), ("link.csv", ["--overwrite"])):
        assert main(["predict", str(out), str(table), "--output", str(tmp_path / output), *more]) == 2
        assert output in capsys.readouterr().err
    assert main(["inspect", text_model, "--picture", str(picture)]) == 2
    assert table.read_text() == "text\ngood\n"
    assert (tmp_path / "old.csv").read_text() == picture.read_text() == "old"
    assert main(["predict", str(out), str(table), "--output", str(tmp_path / "old.csv"), "--overwrite"]) == 0
    assert main(["inspect", text_model, "--picture", str(picture), "--overwrite"]) == 0
    assert "label" in (tmp_path / "old.csv").read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


# --- One process at a time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "auto", "compare", "depth", "rank"])
def test_a_folder_in_use_is_refused(
    command: str, text_model: str, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that writes a folder answers on one line while another process holds it, and writes nothing."""
    kind = {"auto": "run", "train": "run", "compare": "comparison", "depth": "search", "rank": "ranking"}[command]
    process = holding(tmp_path / "out", kind)
    before = content(tmp_path)
    try:
        for more in ([], ["--resume"], ["--overwrite_output_dir"]):
            assert main(words(command, text_model, text_data, tmp_path / "out", *more)) == 2
            told = capsys.readouterr().err.splitlines()[-1]
            assert str(process.pid) in told
            assert str(tmp_path / "out") in told
    finally:
        process.kill()
        process.wait()
    assert content(tmp_path) == before


def test_two_runs_begun_together(text_model: str, text_data: str, tmp_path: Path) -> None:
    """Of two real processes one trains and the other is refused; the result is whole, and the folder free."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hf_ft", *words("train", text_model, text_data, out, "--resume")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=200)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2]
    refused = codes.index(2)
    assert str(out) in errors[refused].splitlines()[-1]
    assert str(both[1 - refused].pid) in errors[refused].splitlines()[-1]
    for name, entry in output_folder.files_of(out).items():
        assert output_folder.is_unchanged(out / name, entry)
    with output_folder.locked(out, "run"):
        assert output_folder.state_of(out) == "run"
