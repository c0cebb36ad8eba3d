"""`hf-ft train --from_run`: the same weights again to the bit, and every reason why that cannot be."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_ft import UserError, finetune
from hf_ft.cli.app import main
from hf_ft.results import read_repetition

Run = Callable[[str], Path]


def settings_of(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A short run with what is random in training: order, dropout, augmentation, a head, adapters."""
    usual = {"dataset": request.getfixturevalue(f"{kind}_data"), "model": request.getfixturevalue(f"{kind}_model")}
    own: dict[str, dict[str, Any]] = {
        "text": {"task": "text_classification", "method": "lora", "lora_dropout": 0.1, "learning_rate": 2e-3},
        "image": {"task": "image_classification", "method": "lp_ft", "augment": "basic", "mixup": 0.2},
    }
    return usual | own[kind] | {"num_train_epochs": 2, "per_device_train_batch_size": 8, "seed": 3}


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Kind of data -> the folder of a run on it, trained when it is first asked for."""
    folder, trained = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def find(kind: str) -> Path:
        if kind not in trained:
            settings = settings_of(kind, request)
            finetune(**settings, load_back_proof=False, output_dir=str(folder / kind))
            trained[kind] = folder / kind
        return trained[kind]

    return find


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a result."""
    return load_file(folder / "model.safetensors")


def repeated(path: Path, out: Path, *options: str) -> int:
    """The exit code of repeating a run by the command line."""
    return main(["train", "--from_run", str(path), "--output_dir", str(out), "--load_back_proof=false", *options])


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_run_is_repeated_to_the_bit(kind: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every tensor is the same, and so is every score; the run says so and stays as it was."""
    before = {path: path.read_bytes() for path in run(kind).rglob("*") if path.is_file()}
    assert repeated(run(kind) / "run.json", tmp_path / "again") == 0
    assert "repeated to the bit" in capsys.readouterr().out
    first, second = weights(run(kind)), weights(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, other = (json.loads((folder / "run.json").read_text()) for folder in (run(kind), tmp_path / "again"))
    for part in ("metrics", "settings", "plan", "repeat"):
        assert one[part] == other[part]
    assert before == {path: path.read_bytes() for path in run(kind).rglob("*") if path.is_file()}


def test_another_seed_gives_another_result(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the user sets wins and is said, with both values; the result is not called the same."""
    assert repeated(run("text"), tmp_path / "again", "--learning_rate", "0.004") == 0
    printed = capsys.readouterr().out
    assert "learning_rate was 0.002, now 0.004" in printed
    assert "not repeated to the bit" in printed
    assert "known differences: --learning_rate" in printed
    first, second = weights(run("text")), weights(tmp_path / "again")
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_by_default_it_stands_beside_the_run(run: Run, tmp_path: Path) -> None:
    """Without an output folder the result goes to one of its own, never over the run."""
    copy = shutil.copytree(run("text"), tmp_path / "opinions")
    assert main(["train", "--from_run", str(copy), "--load_back_proof=false"]) == 0
    assert (tmp_path / "opinions-repeated" / "run.json").is_file()
    assert main(["train", "--from_run", str(copy), "--output_dir", str(copy)]) == 2


def error_of(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line of a user error."""
    assert code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_other_data_are_refused(run: Run, text_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One changed word, and one example more: each is seen before anything is trained, and nothing is written."""
    changed, longer = tmp_path / "changed", tmp_path / "longer"
    shutil.copytree(text_data, changed)
    (changed / "test.csv").write_text((changed / "test.csv").read_text().replace("film", "movie", 1))
    message = error_of(capsys, repeated(run("text"), tmp_path / "out", "--dataset", str(changed)))
    assert "some examples are others" in message
    shutil.copytree(text_data, longer)
    with (longer / "test.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["a good and quite new film", "positive"])
    message = error_of(capsys, repeated(run("text"), tmp_path / "out", "--dataset", str(longer)))
    assert "test has 17 examples in place of 16" in message
    assert not (tmp_path / "out").exists()


def test_data_that_moved_are_those_of_the_run(run: Run, text_data: str, tmp_path: Path) -> None:
    """Only their content counts."""
    moved = shutil.copytree(text_data, tmp_path / "moved")
    assert repeated(run("text"), tmp_path / "again", "--dataset", str(moved)) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run("text") / "model.safetensors").read_bytes()


def test_another_base_model_is_refused(
    run: Run, text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are known by their digest."""
    other = shutil.copytree(text_model, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    message = error_of(capsys, repeated(run("text"), tmp_path / "out", "--model", str(other)))
    assert "is not that of the run" in message


def edited(folder: Path, out: Path, **changes: Any) -> Path:
    """A copy of a run with another record."""
    shutil.copytree(folder, out)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, **changes}))
    return out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 0}, "schema version 0"),
        ({"repeat": None}, "does not say with which settings"),
        ({"extensions": {"loss": "mine"}}, "used own code"),
        ({"soup": {"metric": "f1", "members": [], "best_single": 1, "score": 1, "recomputed": 0}}, "an average"),
        ({"stages": None}, "'stages'"),
    ],
)
def test_records_that_cannot_be_repeated(changes: dict[str, Any], problem: str, run: Run, tmp_path: Path) -> None:
    """An older record, one that lacks something, one of own code or of an average: one line each."""
    with pytest.raises(UserError) as error:
        read_repetition(str(edited(run("text"), tmp_path / "copy", **changes)), [])
    assert problem in str(error.value)


def test_other_records_are_named(tmp_path: Path) -> None:
    """A comparison is not a run, and neither is any other file or a folder without one."""
    (tmp_path / "compare.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    for path, problem in (
        (tmp_path / "compare.json", "comparison"),
        (tmp_path / "notes.json", "no run.json"),
        (tmp_path, "run.json is missing"),
        (tmp_path / "nothing", "No such run"),
    ):
        with pytest.raises(UserError, match=problem):
            read_repetition(str(path), [])


def test_a_copy_without_paths_needs_model_and_data(run: Run, text_model: str, text_data: str, tmp_path: Path) -> None:
    """A published record holds no local paths: model and data are to be named, and are compared by their content."""
    copy = shutil.copytree(run("text"), tmp_path / "copy", ignore=shutil.ignore_patterns(".local"))
    with pytest.raises(UserError) as error:
        read_repetition(str(copy), [])
    assert error.value.option == "model"
    with pytest.raises(UserError) as error:
        read_repetition(str(copy), [("the command line", {"model": text_model})])
    assert error.value.option == "dataset"
    options = ["--model", text_model, "--dataset", text_data]
    assert repeated(copy, tmp_path / "again", *options) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run("text") / "model.safetensors").read_bytes()


def test_a_changed_default_is_not_passed_over(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A default of the run that is another one now stops it, with both values."""
    record = json.loads((run("text") / "run.json").read_text())
    record["repeat"]["settings"]["weight_decay"] = 0.5
    copy = edited(run("text"), tmp_path / "copy", repeat=record["repeat"])
    message = error_of(capsys, repeated(copy, tmp_path / "out"))
    assert "weight_decay was 0.5" in message


def test_other_surroundings_are_told(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions and machine are compared, and what differs is told before training."""
    record = json.loads((run("text") / "run.json").read_text())
    record["versions"]["torch"], record["repeat"]["threads"] = "1.0", 77
    copy = edited(run("text"), tmp_path / "copy", versions=record["versions"], repeat=record["repeat"])
    assert repeated(copy, tmp_path / "again") == 0
    printed = capsys.readouterr().out
    assert "torch was 1.0, now" in printed
    assert "threads was 77, now" in printed


def test_the_model_on_the_hub_is_pinned(run: Run, tmp_path: Path) -> None:
    """By the commit that the run used, unless the user names another model."""
    record = json.loads((run("text") / "run.json").read_text())
    model = {**record["model"], "hub_id": "me/base", "commit": "0123456789", "digest": None}
    settings = {**record["settings"], "model": "me/base"}
    copy = edited(run("text"), tmp_path / "copy", model=model, settings=settings)
    assert read_repetition(str(copy), []).kept["model_revision"] == "0123456789"
    assert "model_revision" not in read_repetition(str(copy), [("the command line", {"model": "other"})]).kept
