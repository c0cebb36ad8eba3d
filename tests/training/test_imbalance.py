"""Options for unequal classes in whole trainings: what they draw, solve, choose, save and resume."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from hf_ft import finetune
from hf_ft.cli.app import main
from hf_ft.errors import UserError
from hf_ft.training.data_order import balanced_order
from tests.conftest import WORDS
from tests.training.test_interruptions import Work, differing

COUNTS = {"train": (45, 5), "validation": (20, 4), "test": (20, 4)}


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Opinions, of which one in ten is positive."""
    folder = tmp_path_factory.mktemp("data") / "unequal"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, counts in COUNTS.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for label, count in zip(WORDS, counts, strict=True):
                for i in range(count):
                    first, second = random.choice(WORDS[label], 2)
                    rows.writerow([f"a {first} and {second} film number {split} {i}", label])
    return str(folder)


@pytest.fixture
def settings(text_model: str, unequal: str, tmp_path: Path) -> dict[str, Any]:
    """A short training of all layers."""
    usual = {"task": "text_classification", "model": text_model, "dataset": unequal, "method": "full", "seed": 1}
    usual |= {"num_train_epochs": 1, "per_device_train_batch_size": 10, "load_back_proof": False}
    return usual | {"output_dir": str(tmp_path / "out")}


# --- The sampler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(90, 8, 2), (1, 1), (5,), (3, 3, 3, 2)])
def test_each_class_is_drawn_equally_often(counts: tuple[int, ...]) -> None:
    """And within a class no example twice as often as another, give or take one; the same draw for the same seed."""
    classes = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    drawn = [balanced_order(classes, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == len(classes)
    assert len(classes) < 10 or drawn[0] != drawn[2]
    by_class = Counter(classes[drawn[0]].tolist())
    assert set(by_class) == set(range(len(counts)))
    assert max(by_class.values()) - min(by_class.values()) <= 1
    for one, count in enumerate(counts):
        rows = Counter(row for row in drawn[0] if classes[row] == one)
        often = [rows[row] for row in np.flatnonzero(classes == one).tolist()]
        assert len(often) == count
        assert max(often) - min(often) <= 1


def test_training_sees_each_class_equally_often(settings: dict[str, Any]) -> None:
    """An epoch keeps its length, in any order; without the sampler the classes are as frequent as in the data."""
    seen: dict[tuple[str, str], list[int]] = {}
    for case in (("none", "random"), ("balanced", "random"), ("balanced", "group_by_length")):
        found = seen.setdefault(case, [])

        def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, found: list[int] = found) -> Any:
            if torch.is_grad_enabled():
                found.extend(labels.tolist())
            return torch.nn.functional.cross_entropy(outputs.logits, labels)

        out, (sampler, strategy) = f"{settings['output_dir']}-{'-'.join(case)}", case
        finetune(**settings | {"output_dir": out, "train_sampling_strategy": strategy}, sampler=sampler, loss=loss)
    counts = {case: Counter(found) for case, found in seen.items()}
    assert counts.pop(("none", "random")) == {0: 45, 1: 5}
    assert list(counts.values()) == [{0: 25, 1: 25}] * 2


def test_a_sampler_resumes_on_cached_rows(
    text_model: str, text_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is ended in its eighth step has, once resumed, the tensors of one that nobody touched."""
    work = Work(text_model, text_data, tmp_path)
    options = {"sampler": "balanced", "method": "last_n:1", "cache": "on"}
    assert main(work.words(tmp_path / "whole", **options)) == 0
    assert json.loads((tmp_path / "whole/run.json").read_text())["stages"][0]["cache"]
    work.interrupted(tmp_path / "out", 8, monkeypatch, **options)
    assert main(work.words(tmp_path / "out", **options, resume="true")) == 0
    assert differing(tmp_path / "whole", tmp_path / "out") == 0
    with pytest.raises(UserError) as found:
        finetune(
            **dict(word[2:].split("=") for word in work.words(tmp_path / "whole", **options)[1:]) | {"sampler": "none"},
            resume_from_checkpoint=True,
        )
    assert found.value.option == "sampler"


def test_a_solved_head_has_class_weights_for_a_sampler(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The closed form sees every example once, so both options are one; plain classes give another head."""
    heads = {}
    options: dict[str, dict[str, Any]] = {
        "sampler": {"sampler": "balanced"},
        "weights": {"class_weights": "balanced"},
        "plain": {},
    }
    del settings["num_train_epochs"]  # asks for steps
    for name, option in options.items():
        out = f"{settings['output_dir']}-{name}"
        record = finetune(**settings | {"method": "head", "output_dir": out}, **option).record
        assert record["stages"][0]["solver"]["converged"]
        assert ("class weights balance it instead" in capsys.readouterr().out) == (name == "sampler")
        heads[name] = load_file(Path(out) / "model.safetensors")["classifier.weight"]
    assert torch.equal(heads["sampler"], heads["weights"])
    assert not torch.allclose(heads["plain"], heads["weights"], atol=1e-3)


# --- By the command line, to a plain model ----------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_proof")
@pytest.mark.parametrize(
    ("options", "solved"),
    [
        (["--class_weights", '{"positive": 4}', "--method=head"], True),
        (["--class_weights=effective", "--loss=focal", "--focal_gamma=1", "--method=head", "--cache=on"], False),
        (["--loss=logit_adjusted", "--method=head"], True),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_train_and_load_back(
    options: list[str], solved: bool, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The record says what corrected the classes, and the plain pipeline answers alike."""
    words = [f"--{name}={value}" for name, value in settings.items() if name not in ("load_back_proof", "method")]
    words = [word for word in words if not solved or "epochs" not in word]
    assert main(["train", *words, *options]) == 0
    said = capsys.readouterr().out
    record = json.loads((Path(settings["output_dir"]) / "run.json").read_text())
    classes = record["classes"]
    assert bool(record["stages"][0]["solver"]) == solved
    assert ("focal loss is not convex" in said) == (not solved)
    assert record["proofs"]["load_back"]["largest_difference"] < 1e-4
    assert (classes["rarest"], classes["rarest_count"], classes["total"]) == ("positive", 5, 50)
    assert classes["loss"] == next((word.split("=")[1] for word in options if "--loss" in word), "cross_entropy")
    if "weights" in options[0]:
        weights = classes["weights"]
        assert (45 * weights["negative"] + 5 * weights["positive"]) / 50 == pytest.approx(1)
        assert weights["positive"] > 3 * weights["negative"]
    else:
        assert classes["weights"] == {}
    scores = {one["label"]: one for one in record["by_class"]["test"]}
    assert scores["positive"]["support"] == 4
    assert f"{scores['positive']['recall']:.3f}" in said


def test_macro_f1_selects_where_classes_are_unequal(
    settings: dict[str, Any], text_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said and recorded; the user's metric wins; equal classes are selected by accuracy as ever."""
    chosen = {}
    for name, own in {"unequal": {}, "own": {"metric_for_best_model": "mcc"}, "equal": {"dataset": text_data}}.items():
        out = f"{settings['output_dir']}-{name}"
        record = finetune(**settings | {"output_dir": out, "max_steps": 1} | own).record
        said = capsys.readouterr().out
        assert ("macro F1 is the default metric" in said) == (name != "equal")
        assert record["classes"]["macro_f1_by_default"] == (name != "equal")
        assert record["rare_class"] is None
        assert f"{record['metric']} " in said
        chosen[name] = record["selection_metric"], record["metric"]
    assert chosen == {"unequal": ("f1_macro",) * 2, "own": ("mcc",) * 2, "equal": ("accuracy",) * 2}


# --- A threshold ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thresholded(text_model: str, unequal: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a threshold that is fitted, half trained, so that it matters."""
    out = tmp_path_factory.mktemp("thresholded") / "out"
    words = ["--task=text_classification", f"--model={text_model}", f"--dataset={unequal}", f"--output_dir={out}"]
    words += ["--method=full", "--max_steps=12", "--per_device_train_batch_size=8", "--load_back_proof=false"]
    assert main(["train", *words, "--threshold=auto", "--learning_rate=1e-3"]) == 0
    return out


def test_a_threshold_is_fitted_scored_and_used(
    thresholded: Path, unequal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both scores are recorded; `predict` and `evaluate` apply it, a plain pipeline does not, the card's lines do."""
    record = json.loads((thresholded / "run.json").read_text())
    rule = record["rare_class"]
    assert rule["fitted"]
    assert (rule["label"], record["threshold"]) == ("positive", None)
    fitted, plain = (
        next(one["f1"] for one in scores["validation"] if one["label"] == "positive")
        for scores in (rule["by_class"], record["by_class"])
    )
    assert fitted > plain  # it is the best on validation, and here the model never answers `positive`
    assert set(rule["metrics"]) == {"validation", "test"}
    assert {"f1_macro", "mcc"} < set(rule["metrics"]["test"]) < set(record["metrics"]["test"])
    assert "roc_auc" not in rule["metrics"]["test"]  # no threshold changes it

    with (Path(unequal) / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert main(["predict", str(thresholded), *(row["text"] for row in rows)]) == 0
    told = capsys.readouterr()
    answers = list(csv.DictReader(io.StringIO(told.out)))
    assert "a plain `pipeline` answers" in told.err
    by_rule = [float(answer["positive"]) >= rule["value"] for answer in answers]
    assert [answer["label"] == "positive" for answer in answers] == by_rule
    right = np.mean([answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True)])
    assert right == pytest.approx(rule["metrics"]["test"]["accuracy"]["value"])

    assert main(["evaluate", str(thresholded), "--dataset", unequal, "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["metrics"] == record["metrics"]["test"]
    assert scored["rare_class"]["metrics"]["test"] == rule["metrics"]["test"]
    assert scored["by_class"] == record["by_class"]["test"]

    lines = (thresholded / "README.md").read_text().split("```python\n")[1].split("```")[0]
    text = rows[-1]["text"]
    code = lines.replace('"."', repr(str(thresholded))).replace('"some text"', repr(text))
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["label"] == answers[-1]["label"]
    classify = pipeline("text-classification", model=str(thresholded))
    assert classify(text)[0]["label"] == max(("negative", "positive"), key=lambda one: float(answers[-1][one]))


def test_a_threshold_that_is_set(settings: dict[str, Any], multi_label_data: str) -> None:
    """It is taken as it is, for the rarer of two classes and for several labels."""
    for name, dataset in {"two": settings["dataset"], "several": multi_label_data}.items():
        out = f"{settings['output_dir']}-{name}"
        own = {"output_dir": out, "dataset": dataset, "max_steps": 1, "threshold": 0.3, "eval_strategy": "no"}
        record = finetune(**settings | own).record
        rule = record["rare_class"]
        assert record["threshold"] == (None if rule else 0.3)
        assert rule is None or (rule["value"], rule["fitted"]) == (0.3, False)
        assert (rule is None) == (name == "several")
