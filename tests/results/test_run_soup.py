"""Soups of runs: which runs join, what their average is, and which runs cannot be averaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_ft
from hf_ft import UserError
from hf_ft.cli.app import main
from hf_ft.results import greedy_average
from hf_ft.storage import output_folder
from tests.support.text_files import write_splits

WORDS = {"negative": "awful boring bad dull", "positive": "great lovely good bright"}


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short opinions with a validation split of their own, so that it is the same for every seed."""

    def example(split: str, i: int) -> tuple[str, str]:
        label = list(WORDS)[i % 2]
        words = WORDS[label].split()
        return f"a {words[i % 4]} and {words[(i + 1) % 4]} film {split} {i}", label

    counts = {"train": 32, "validation": 24, "test": 16}
    splits = {split: [example(split, i) for i in range(count)] for split, count in counts.items()}
    return Path(write_splits(tmp_path_factory.mktemp("data") / "opinions", splits))


def trained(out: Path, **settings: Any) -> Path:
    """The folder of a short run by the command line."""
    usual = {"load_back_proof": "false", "disable_tqdm": "true", "output_dir": out}
    assert main(["train", *(f"--{name}={value}" for name, value in (usual | settings).items())]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, text_model: str, opinions: Path) -> list[Path]:
    """Two runs of all layers that differ in their seed and epochs."""
    folder = tmp_path_factory.mktemp("runs")
    usual = {"task": "text_classification", "model": text_model, "dataset": opinions, "method": "full"}
    usual |= {"learning_rate": 2e-3, "per_device_train_batch_size": 8}
    usual |= {"metric_for_best_model": "accuracy"}
    return [trained(folder / f"seed-{seed}", **usual, seed=seed, num_train_epochs=2 + seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def image_runs(tmp_path_factory: pytest.TempPathFactory, image_model: str, image_data: str) -> list[Path]:
    """Two runs whose BatchNorm follows the data, which differ in the order of the data."""
    folder = tmp_path_factory.mktemp("image-runs")
    usual = {"task": "image_classification", "model": image_model, "dataset": image_data, "method": "full"}
    usual |= {"max_steps": 24, "per_device_train_batch_size": 8, "augment": "none", "learning_rate": 1e-2}
    usual |= {"batch_norm": "train"}
    usual |= {"metric_for_best_model": "accuracy", "examples_per_class": 9, "val_examples_per_class": 5}
    return [trained(folder / f"order-{seed}", **usual, data_seed=seed) for seed in (0, 1)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a result."""
    return load_file(folder / "model.safetensors")


def record_of(folder: Path) -> dict[str, Any]:
    """The content of `run.json`."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def scripted(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Let validation find these scores: of the best run, then of each average."""
    told = iter(scores)
    monkeypatch.setattr(greedy_average, "_score", lambda *_: next(told))


def copied(run: Path, to: Path) -> Path:
    """A copy of a run."""
    shutil.copytree(run, to)
    return to


def edited(run: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run with another record."""
    record = record_of(copied(run, to))
    change(record)
    (to / "run.json").write_text(json.dumps(record))
    return to


def best_first(runs: list[Path]) -> list[Path]:
    """Runs in the order in which a soup takes them, with the metric of the first."""
    metric = record_of(runs[0])["selection_metric"]
    assert metric == "accuracy"
    return sorted(runs, key=lambda run: -record_of(run)["metrics"]["validation"][metric]["value"])


# --- What a soup is ---------------------------------------------------------------------------------------------------


def test_a_soup_of_all_is_their_average_and_loads_back(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """By the command line on real files: weights are the mean, a plain `pipeline` loads them, the record says so."""
    from transformers import pipeline

    scripted(monkeypatch, 0.5, 0.5)  # an equal score does not keep a run out
    out = tmp_path / "soup"
    assert main(["soup", *map(str, runs), "--output_dir", str(out)]) == 0
    one, other, result = tensors(runs[0]), tensors(runs[1]), tensors(out)
    assert result.keys() == one.keys()
    for name, tensor in result.items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2, atol=1e-7, rtol=1e-6)
    assert not any(torch.equal(result[name], one[name]) for name in result if "classifier" in name)
    record, best = record_of(out), best_first(runs)[0]
    assert record["proofs"]["load_back"]["passed"]
    assert [member["joined"] for member in record["soup"]["members"]] == [True, True]
    assert {member["name"] for member in record["soup"]["members"]} == {"seed-0", "seed-1"}
    assert (record["soup"]["metric"], record["soup"]["score"]) == ("accuracy", 0.5)
    for name in ("settings", "stages", "plan", "data", "model", "classes"):
        assert record[name] == record_of(best)[name]
    assert str(tmp_path) not in (out / "run.json").read_text()
    assert "average of 2 of 2 runs" in (out / "README.md").read_text()
    assert output_folder.kind_of(out) == "run"
    assert {"run.json", "model.safetensors", "README.md"} <= output_folder.files_of(out).keys()
    assert pipeline("text-classification", model=str(out))("a great film")[0]["label"] in WORDS


def test_a_run_that_hurts_stays_out(
    image_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_proof: None
) -> None:
    """With its head reversed a run would turn the answers round: the result is the best run, bit for bit."""
    best, other = best_first(image_runs)
    assert record_of(best)["metrics"]["validation"]["accuracy"]["value"] > 0.6
    bad = edited(other, tmp_path / "bad", lambda found: found["metrics"]["validation"]["accuracy"].update(value=0.0))
    weights = {name: -9 * one if "classifier" in name else one for name, one in tensors(bad).items()}
    save_file(weights, bad / "model.safetensors", {"format": "pt"})
    result = hf_ft.soup([bad, best], output_dir=tmp_path / "soup")
    assert [member["joined"] for member in result.record["soup"]["members"]] == [True, False]
    found, expected = tensors(tmp_path / "soup"), tensors(best)
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    scores = record_of(best)["metrics"]
    assert result.metrics.keys() == scores.keys() == {"validation", "test"}
    for split, metrics in result.metrics.items():
        assert metrics == pytest.approx({name: score["value"] for name, score in scores[split].items()}, abs=1e-6)
    assert "bad stays out" in capsys.readouterr().out


def test_batch_norm_is_computed_anew(
    image_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """Statistics are neither those of a run nor their mean; where they are frozen, they stay as they are."""
    scripted(monkeypatch, 0.5, 0.6)
    record = hf_ft.soup(image_runs, output_dir=tmp_path / "soup").record
    one, other, result = tensors(image_runs[0]), tensors(image_runs[1]), tensors(tmp_path / "soup")
    means = [name for name in result if name.endswith("running_mean")]
    assert record["soup"]["recomputed"] == len(means) > 0
    assert not any(torch.allclose(result[name], (one[name] + other[name]) / 2, rtol=1e-4) for name in means)
    weights = [name for name in result if name.endswith("weight")]
    for name in weights:
        torch.testing.assert_close(result[name], (one[name] + other[name]) / 2, atol=1e-7, rtol=1e-6)


def test_the_best_alone_keeps_its_statistics(
    image_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """A try that fails leaves nothing behind, counters of batches included; the frozen groups stay proved."""
    scripted(monkeypatch, 0.5, 0.4)
    record = hf_ft.soup(image_runs, output_dir=tmp_path / "soup").record
    best = next(run for run in image_runs if run.name == record["soup"]["members"][0]["name"])
    found, expected = tensors(tmp_path / "soup"), tensors(best)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert record["soup"]["recomputed"] == 0
    assert record["proofs"]["frozen"] == record_of(best)["proofs"]["frozen"]


def test_what_is_frozen_in_one_run_alone_is_not_claimed(
    image_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """Frozen tensors of the best run count as proved only where all that joined froze the same groups."""
    best, other = best_first(image_runs)
    best = edited(best, tmp_path / "best", lambda found: found["stages"][0].update(frozen_checked=5))
    frozen = edited(
        other, tmp_path / "other", lambda found: found["plan"]["stages"][0]["settings"][0].update(mode="frozen")
    )
    for scores, claimed in (((0.5, 0.6), 0), ((0.5, 0.4), 5)):
        scripted(monkeypatch, *scores)
        record = hf_ft.soup([best, frozen], output_dir=tmp_path / f"soup-{claimed}").record
        assert record["proofs"]["frozen"]["tensors"] == [claimed]


def test_data_that_moved_are_named_anew(
    runs: list[Path], opinions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_proof: None
) -> None:
    """Data that are gone are one error; the same data elsewhere are taken, others refused; a run there is replaced."""
    moved = [copied(run, tmp_path / run.name) for run in runs]
    for run in moved:
        origin = json.loads((run / ".local/origin.json").read_text())
        (run / ".local/origin.json").write_text(json.dumps(origin | {"dataset": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match=r"not in .*gone any more") as caught:
        hf_ft.soup(moved, output_dir=tmp_path / "soup")
    assert caught.value.option == "dataset"
    changed = tmp_path / "changed"
    shutil.copytree(opinions, changed)
    (changed / "test.csv").write_text("text,label\na new film,positive\na dull film,negative\n")
    with pytest.raises(UserError, match="have changed"):
        hf_ft.soup(moved, output_dir=tmp_path / "soup", dataset=changed)
    assert not (tmp_path / "soup").exists()
    scripted(monkeypatch, 0.5, 0.6)
    out = copied(runs[0], tmp_path / "soup")
    words = ["soup", *map(str, moved), "--output_dir", str(out), "--dataset", str(opinions)]
    assert main(words) == 2
    assert record_of(out)["soup"] is None
    assert main([*words, "--overwrite_output_dir"]) == 0
    assert record_of(out)["soup"]["score"] == 0.6


# --- Bad input --------------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "task": (lambda found: found.update(task="text_regression"), "task"),
    "base model": (lambda found: found["model"].update(digest="0" * 64), "base model"),
    "labels": (lambda found: found["data"].update(labels=["bad", "good"]), "labels"),
    "class": (lambda found: found["model"].update(class_name="Other"), "architecture"),
    "data": (lambda found: found["data"].update(fingerprint="0" * 32), "--seed decides"),
    "length": (lambda found: found["settings"].update(max_length=7), "max_length"),
    "soup": (
        lambda found: found.update(soup={"metric": "f1", "members": [], "best_single": 0, "score": 0, "recomputed": 0}),
        "a soup itself",
    ),
    "own task": (lambda found: found.update(extensions={"task": "encode"}), "task of its caller"),
    "scratch": (lambda found: found["proofs"].update(only_head_new=None), "random weights"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_runs_that_differ(what: str, runs: list[Path], tmp_path: Path) -> None:
    """One line that says in what they differ, before anything is written."""
    change, said = OTHERS[what]
    other = edited(runs[1], tmp_path / "other", change)
    with pytest.raises(UserError) as caught:
        hf_ft.soup([runs[0], other], output_dir=tmp_path / "soup")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "soup").exists()


def test_another_config(runs: list[Path], tmp_path: Path) -> None:
    """The entry of `config.json` that differs is named, and so is a tensor of another shape."""
    other = copied(runs[1], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(UserError, match="architecture: hidden_act is gelu, and relu"):
        hf_ft.soup([runs[0], other], output_dir=tmp_path / "soup")
    (other / "config.json").write_text(json.dumps(config))
    found = tensors(other)
    name = next(name for name in found if "classifier" in name)
    save_file(found | {name: torch.zeros(7)}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"architecture: classifier.* has the shape .*\(7,\)"):
        hf_ft.soup([runs[0], other], output_dir=tmp_path / "soup")


def broken(kind: str, run: Path, folder: Path) -> Iterator[str]:
    """The words of a soup that cannot be made."""
    other = copied(run, folder / "other")
    if kind == "adapter alone":
        (other / "model.safetensors").unlink()
        (other / "adapter").mkdir()
    elif kind == "no run":
        (other / "run.json").unlink()
    elif kind == "adapter of PEFT":
        (other / "run.json").unlink()
        (other / "adapter_config.json").write_text("{}")
    elif kind == "own metric":
        yield str(edited(run, folder / "own", lambda found: found.update(selection_metric="mine")))
    yield str(run)
    if kind == "twice":
        yield f"{run}/."
    elif kind != "one run":
        yield str(other)
    yield from ("--output_dir", str(run if kind == "inside" else folder / "soup"))
    if kind == "taken":
        (folder / "soup").mkdir()
        (folder / "soup/notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("one run", "at least two"),
        ("twice", "named twice"),
        ("no run", "no finished training run"),
        ("adapter alone", "has an adapter alone"),
        ("adapter of PEFT", "is an adapter"),
        ("own metric", "'mine'"),
        ("inside", "own folder"),
        ("taken", "did not write"),
    ],
)
def test_soups_that_cannot_be_made(
    kind: str, said: str, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line; nothing is written."""
    words = list(broken(kind, runs[0], tmp_path))
    before = sorted(path for path in tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(["soup", *words]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert said in printed.err
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_settings_of_the_best_must_be_known(runs: list[Path], tmp_path: Path) -> None:
    """A copy of what was published does not say where the data are."""
    others = [copied(run, tmp_path / run.name) for run in runs]
    for other in others:
        shutil.rmtree(other / ".local")
    with pytest.raises(UserError, match=r"has lost its folder \.local"):
        hf_ft.soup(others, output_dir=tmp_path / "soup")
