"""`hf-ft rank` with real models on real files: what comes first, what fails, and what is not computed again."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

import hf_ft
from hf_ft import UserError
from hf_ft.cli.app import main
from hf_ft.experiments.candidate_names import short_names
from hf_ft.records import Candidate, RankingRecord, read_record
from hf_ft.reports.point_labels import label_points
from hf_ft.reports.ranking_summary import verdict
from hf_ft.reports.style import INK, new_figure
from hf_ft.tasks.registry import task_names

NOUNS = {
    "animal": "cat dog horse lion tiger wolf rabbit mouse eagle shark whale goat sheep bear monkey snake frog duck",
    "vehicle": "car truck bicycle train airplane boat ship van taxi tractor motorcycle helicopter tram canoe jeep "
    "ferry scooter wagon",
}


@pytest.fixture(scope="module")
def nouns(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sentences about animals and vehicles in train.csv and validation.csv, each noun in one sentence only."""
    folder = tmp_path_factory.mktemp("data") / "nouns"
    folder.mkdir()
    for split, places in (("train", range(3, 18)), ("validation", range(3))):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for kind, words in NOUNS.items():
                rows.writerows([f"they saw a {words.split()[place]} there", kind] for place in places)
    return str(folder)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> str:
    """A BERT with random weights, wider than the tiny one and of another seed."""
    folder = tmp_path_factory.mktemp("models") / "random-bert"
    torch.manual_seed(7)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory, text_model: str) -> str:
    """The tiny BERT with other random weights."""
    folder = tmp_path_factory.mktemp("models") / "other-bert"
    shutil.copytree(text_model, folder)
    torch.manual_seed(11)
    BertModel(BertConfig.from_pretrained(text_model)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def ranked(
    nouns: str,
    minilm: str,
    text_model: str,
    random_model: str,
    image_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, RankingRecord]:
    """The folder and record of a ranking of three models that can be scored and three that cannot."""
    folder = tmp_path_factory.mktemp("ranking")
    bare = folder / "no-weights"
    shutil.copytree(text_model, bare)
    (bare / "model.safetensors").unlink()
    torn = folder / "torn"
    shutil.copytree(text_model, torn)
    (torn / "tokenizer.json").write_text("{}")
    out = folder / "out"
    models = [random_model, image_model, minilm, str(bare), str(torn), text_model]
    return out, hf_ft.rank(models, task="text_classification", dataset=nouns, output_dir=str(out))


def words(*models: str, data: str, out: Path, **options: Any) -> list[str]:
    """A command of `hf-ft rank`."""
    given = {"task": "text_classification", "dataset": data, "output_dir": out, **options}
    return ["rank", *models, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def by_name(record: RankingRecord) -> dict[str, Candidate]:
    """The rows of a ranking by model."""
    return {row.name: row for row in record.candidates}


def test_the_pretrained_model_comes_first(ranked: tuple[Path, RankingRecord]) -> None:
    """MiniLM knows what animals have in common; networks with random weights tell no noun that they did not see."""
    _, record = ranked
    rows = by_name(record)
    assert record.candidates[0].name == "model"  # the folder of MiniLM is called so
    assert rows["model"].ranks == {"logme": 1.0, "knn": 1.0, "probe": 1.0}
    assert rows["model"].scores["probe"] > 0.85
    for name in ("random-bert", "tiny-bert"):
        assert max(rows[name].scores["knn"], rows[name].scores["probe"]) < 0.75
    assert record.baseline == 0.5
    assert record.metric == "accuracy"
    assert record.data.examples == rows["model"].examples == 30


def test_what_a_candidate_costs(ranked: tuple[Path, RankingRecord], minilm: str) -> None:
    """Parameters are those of the model with its head, memory is theirs, and the larger model takes longer."""
    rows = by_name(ranked[1])
    model = hf_ft.load_model(
        hf_ft.Config(task="text_classification", model=minilm),
        ("a", "b"),
        "single_label_classification",
    )[0]
    assert rows["model"].parameters == sum(value.numel() for value in model.parameters())
    assert rows["model"].bytes == 4 * rows["model"].parameters
    assert rows["model"].features == 384
    assert rows["model"].ms_per_example > rows["random-bert"].ms_per_example > 0


def test_candidates_that_cannot_be_scored_are_named(ranked: tuple[Path, RankingRecord]) -> None:
    """They stand last with the reason; the others went on."""
    out, record = ranked
    rows = by_name(record)
    assert [row.name for row in record.candidates if row.error] == ["tiny-resnet", "no-weights", "torn"]
    assert re.search("model of type resnet, which does not support text_classification", rows["tiny-resnet"].error)
    assert re.search("Cannot load weights of 'no-weights'.*safetensors", rows["no-weights"].error)
    assert rows["torn"].error  # whatever the library raises
    assert all(f"Not scored: {name}: " in (out / "rank.md").read_text() for name in ("tiny-resnet", "torn"))


def test_agreement_is_that_of_the_scores(ranked: tuple[Path, RankingRecord]) -> None:
    """Each pair once, as Kendall's tau of the values in the table."""
    from scipy.stats import kendalltau

    _, record = ranked
    scored = [row.scores for row in record.candidates if row.scores]
    assert [pair.scores for pair in record.agreement] == [["logme", "knn"], ["logme", "probe"], ["knn", "probe"]]
    for pair in record.agreement:
        values = [[scores[name] for scores in scored] for name in pair.scores]
        expected = float(kendalltau(*values).statistic)
        assert pair.tau == pytest.approx(expected)
    means = [row.mean_rank for row in record.candidates if row.scores]
    assert means == sorted(means)


def test_files_and_table(
    ranked: tuple[Path, RankingRecord],
    nouns: str,
    random_model: str,
    text_model: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """JSON, Markdown and pictures are written; the table fits 80 columns, and no local path is in any of them."""
    out, record = ranked
    assert read_record(out, RankingRecord) == record
    assert {path.name for path in (out / "figures").iterdir()} == {"rank.png", "rank.svg"}
    assert all(path.stat().st_size > 5000 for path in (out / "figures").iterdir())
    assert all(str(out.parents[1]) not in (out / name).read_text() for name in ("rank.json", "rank.md"))
    capsys.readouterr()
    long = out.parent / ("a-model-with-a-name-that-is-much-too-long-for-a-terminal" * 2)
    shutil.copytree(text_model, long)
    assert main(words(str(long), random_model, data=nouns, out=out.parent / "long")) == 0
    printed = capsys.readouterr().out.splitlines()
    top = next(i for i, line in enumerate(printed) if line.startswith("model"))
    assert all(len(line) <= 80 for line in printed[top : top + 6])
    assert printed[top].split() == ["model", "LogME", "k-NN", "probe", "rank", "ms", "params", "memory"]
    assert any(line.startswith("Scores are estimates") for line in printed)
    assert "- All scores rank model first." in (out / "rank.md").read_text()
    assert "| model | LogME | k-NN | probe |" in (out / "rank.md").read_text()


def test_what_is_finished_is_not_computed_again(
    nouns: str, text_model: str, random_model: str, other_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ended early goes on, and a third candidate joins; the others keep what they have, times included."""
    out = tmp_path / "out"
    assert main(words(text_model, str(tmp_path / "nowhere"), data=nouns, out=out)) == 2
    assert not (out / "rank.md").exists()
    capsys.readouterr()
    assert main(words(text_model, random_model, data=nouns, out=out)) == 0
    assert "tiny-bert: as before" in capsys.readouterr().out
    first = by_name(read_record(out, RankingRecord))
    capsys.readouterr()
    listed = tmp_path / "models.txt"
    listed.write_text(f"# mine\n{other_model}\n\n{random_model}  # wide\n")
    assert main(words(text_model, data=nouns, out=out, list=listed)) == 0
    printed = capsys.readouterr().out
    second = by_name(read_record(out, RankingRecord))
    assert set(second) == {*first, "other-bert"}
    for name in first:
        assert replace(second[name], ranks={}, mean_rank=0) == replace(first[name], ranks={}, mean_rank=0)
        assert f"{name}: as before" in printed
    assert "other-bert: as before" not in printed
    changed = shutil.copytree(other_model, tmp_path / "random-bert")
    (changed / "config.json").write_text((changed / "config.json").read_text() + "\n")
    assert main(words(text_model, str(changed), data=nouns, out=out)) == 0
    printed = capsys.readouterr().out
    assert "tiny-bert: as before" in printed
    assert "random-bert: as before" not in printed  # the name of one and the weights of another
    last = read_record(out, RankingRecord).candidates
    former = next(row for row in last if row.name.startswith("random-bert ("))  # another has its name now
    assert former.scores == first["random-bert"].scores
    assert sorted(row.name for row in last) == ["other-bert", "random-bert", former.name, "tiny-bert"]
    assert "| other-bert |" in (out / "rank.md").read_text()


def test_other_settings_or_data_are_refused(
    nouns: str, text_data: str, text_model: str, random_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what differs, and the ranking stays as it was until it is to be replaced."""
    out = tmp_path / "out"
    models = (text_model, random_model)
    assert main(words(*models, data=nouns, out=out)) == 0
    before = (out / "rank.json").read_bytes()
    for options, message in (
        ({"data": nouns, "max_length": 16}, r"max_length was not set, now '16'"),
        ({"data": text_data}, r"dataset was 'nouns'.*, now 'opinions'.*, training examples was 30, now 36"),
    ):
        capsys.readouterr()
        assert main(words(*models, out=out, **options)) == 2
        assert re.search(
            rf"error: .*out holds a ranking with other settings or data: .*{message}", capsys.readouterr().err
        )
        assert (out / "rank.json").read_bytes() == before
    (out / "mine.txt").write_text("mine")
    assert main(words(*models, data=text_data, out=out, overwrite_output_dir="true")) == 0
    assert read_record(out, RankingRecord).data.name == "opinions"
    assert (out / "mine.txt").read_text() == "mine"


def test_confirm_fine_tunes_the_first(
    nouns: str, text_model: str, random_model: str, other_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first two are trained, scored on validation and compared with; a second time nothing is trained."""
    out = tmp_path / "out"
    settings = {"confirm": 2, "method": "full", "max_steps": 2, "load_back_proof": "false"}
    assert main(words(text_model, random_model, other_model, data=nouns, out=out, **settings)) == 0
    record = read_record(out, RankingRecord)
    confirmed = [row.name for row in record.candidates if row.confirmed]
    assert confirmed == [row.name for row in record.candidates[:2]]
    for name in confirmed:
        (run_file,) = (out / "confirm").glob(f"{name}-*/run.json")
        run = json.loads(run_file.read_text())
        assert run["method"] == "full"
        score = run["metrics"]["validation"]["accuracy"]
        assert {key: getattr(by_name(record)[name].confirmed, key) for key in score} == score
    assert set(record.agreement_with_confirmed) == {"logme", "knn", "probe"}
    told = capsys.readouterr().out
    assert "tuned" in told
    assert re.search(r"Scores that order the 2 fine-tuned models correctly", told)  # a tau of two is no figure
    (ended_early,) = (out / "confirm").glob(f"{confirmed[1]}-*/run.json")
    lost = json.loads(ended_early.read_text())["metrics"]
    ended_early.unlink()
    assert main(words(text_model, random_model, other_model, data=nouns, out=out, **settings)) == 0
    assert json.loads(ended_early.read_text())["metrics"] == lost
    times = {path: path.stat().st_mtime_ns for path in out.glob("confirm/*/run.json")}
    assert len(times) == 2
    assert main(words(text_model, random_model, other_model, data=nouns, out=out, **settings)) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("confirm/*/run.json")} == times
    assert main(words(text_model, random_model, other_model, data=nouns, out=out)) == 0  # without --confirm they stay
    assert read_record(out, RankingRecord).agreement_with_confirmed
    capsys.readouterr()
    settings["method"] = "head"
    assert main(words(text_model, random_model, other_model, data=nouns, out=out, **settings)) == 2
    assert "method was 'full', now 'head'" in capsys.readouterr().err


def test_confirmed_scores_belong_to_weights(
    nouns: str, text_model: str, random_model: str, other_model: str, tmp_path: Path
) -> None:
    """A model that gets the name of another is trained itself, and does not get the other's score."""
    out, moved = tmp_path / "out", tmp_path / "mine" / "tiny-bert"
    settings = {"task": "text_classification", "dataset": nouns, "method": "full", "max_steps": 2}
    settings |= {"load_back_proof": False, "output_dir": str(out)}
    hf_ft.rank([text_model, random_model], confirm=2, **settings)
    before = set(out.glob("confirm/*/run.json"))
    shutil.copytree(other_model, moved)
    record = hf_ft.rank([str(moved), random_model], confirm=2, **settings)
    (former,) = (row for row in record.candidates if row.name.startswith("tiny-bert ("))
    assert len(record.candidates) == 3
    old = json.loads(next(path for path in before if path.parent.name.startswith("tiny-bert-")).read_text())
    assert former.confirmed.value == old["metrics"]["validation"]["accuracy"]["value"]
    (new,) = set(out.glob("confirm/*/run.json")) - before
    assert new.parent.name.startswith("tiny-bert-")
    score = json.loads(new.read_text())["metrics"]["validation"]["accuracy"]["value"]
    assert by_name(record)["tiny-bert"].confirmed.value == score


def test_fine_tuning_that_fails_leaves_the_ranking(
    nouns: str,
    text_model: str,
    random_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The table stands before anything is trained; what fails is a reason, and the others are trained."""
    out, execute = tmp_path / "out", hf_ft.finetuning.execute

    def failing(settings: Any) -> Any:
        assert (out / "rank.md").exists()
        if "random-bert" in settings.config.model:
            raise RuntimeError("CUDA out of memory")
        return execute(settings)

    monkeypatch.setattr(hf_ft.finetuning, "execute", failing)
    settings = {"confirm": 2, "method": "full", "max_steps": 2, "load_back_proof": "false"}
    assert main(words(text_model, random_model, data=nouns, out=out, **settings)) == 0
    told, errors = capsys.readouterr()
    assert "Not fine-tuned: random-bert: RuntimeError: CUDA out of memory" in told
    assert "Traceback" in errors
    found = by_name(read_record(out, RankingRecord))
    assert not found["tiny-bert"].confirmed.error
    assert "Decide by fine-tuning" not in told[: told.index("Fine-tuning tiny-bert")]  # it is about to
    capsys.readouterr()
    assert main(words(text_model, random_model, data=nouns, out=out)) == 0
    assert "Not fine-tuned" not in capsys.readouterr().out  # nobody asked for it
    assert "95 % intervals over examples: tiny-bert" in " ".join(told.split())


@pytest.mark.parametrize("task", task_names())
def test_every_task_is_ranked(task: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each kind of label has its metric, and features one row for each that is labelled."""
    data, metric = {
        "image_classification": ("image_data", "accuracy"),
        "text_classification": ("multi_label_data", "map"),
        "text_regression": ("regression_data", "r2"),
        "token_classification": ("token_data", "f1_macro"),
    }[task]
    model = request.getfixturevalue("image_model" if task.startswith("image") else "text_model")
    other = "builtin" if task.startswith("image") else request.getfixturevalue("random_model")
    record = hf_ft.rank(
        [model, other], task=task, dataset=request.getfixturevalue(data), output_dir=str(tmp_path / "o")
    )
    assert [row.error for row in record.candidates] == ["", ""]
    assert record.metric == metric
    assert all(np.isfinite(list(row.scores.values())).all() for row in record.candidates)
    examples = record.candidates[0].examples
    assert examples > 4 * record.data.examples if metric == "f1_macro" else examples == record.data.examples
    if metric in ("map", "f1_macro"):  # a word says by itself what it is
        assert max(row.scores["probe"] for row in record.candidates) > record.baseline + 0.1


def test_only_so_many_examples_are_scored(nouns: str, text_model: str, random_model: str, tmp_path: Path) -> None:
    """`max_train_examples` limits what is read of train."""
    settings = {"task": "text_classification", "dataset": nouns, "max_train_examples": 20}
    record = hf_ft.rank([text_model, random_model], output_dir=str(tmp_path / "out"), **settings)
    assert [row.examples for row in record.candidates] == [20, 20]


MISTAKES = {
    "no model": ([], {}, r"A ranking needs at least two different models, and none was passed\. See hf-ft models\."),
    "one model": (
        ["MODEL"],
        {},
        r"A ranking needs at least two different models, and only '.*tiny-bert' was passed\. .*",
    ),
    "one model twice": (
        ["MODEL", "MODEL/"],
        {},
        r"A ranking needs at least two .*, and only '.*tiny-bert' was passed\. .*",
    ),
    "no models left": (
        ["MODEL", "nowhere/at/all"],
        {},
        r"Only 1 of 2 models could be scored, and a ranking needs two\. all: No such model: all.*",
    ),
    "model as an option": (
        ["MODEL", "OTHER"],
        {"model": "x"},
        r"`--model` is not supported by hf-ft rank\. List the models .*",
    ),
    "negative confirm": (["MODEL", "OTHER"], {"confirm": -1}, r"--confirm must be at least 0, not -1\."),
    "confirm of words": (["MODEL", "OTHER"], {"confirm": "all"}, r"Argument --confirm: invalid int value: 'all'\. .*"),
    "no cache": (["MODEL", "OTHER"], {"cache": "off"}, r"A ranking reads features from the cache\. Leave out .*"),
    "list that is not there": (["MODEL"], {"list": "nowhere.txt"}, r"No such list of models: .*/nowhere\.txt\. .*"),
    "size beside models": (["MODEL"], {"size": "small"}, r"Pass either models or --size, which takes those of the .*"),
    "unknown size": ([], {"size": "tiny"}, r"Unknown value for --size: 'tiny'\. .*"),
    "unknown option": (["MODEL", "OTHER"], {"confrim": 1}, r"Unknown option '--confrim' in the command line\. .*"),
    "unknown task": (["MODEL", "OTHER"], {"task": "txt"}, r"Unknown task 'txt'\. .*"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(
    mistake: str,
    nouns: str,
    text_model: str,
    random_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, exit code 2."""
    monkeypatch.chdir(tmp_path)
    names, options, message = MISTAKES[mistake]
    models = [name.replace("MODEL", text_model).replace("OTHER", random_model) for name in names]
    capsys.readouterr()
    assert main(words(*models, data=nouns, out=tmp_path / "out", **options)) == 2
    lines = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.startswith("error")]
    assert len(lines) == 1
    assert re.fullmatch(f"error: {message}", lines[0]), lines[0]
    assert len(MISTAKES) == 13


def test_a_folder_with_other_files_is_left_alone(
    nouns: str, text_model: str, random_model: str, tmp_path: Path
) -> None:
    """It holds no ranking, so none is written into it."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that hf_ft did not write"):
        hf_ft.rank([text_model, random_model], task="text_classification", dataset=nouns, output_dir=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_short_names_tell_models_apart(tmp_path: Path) -> None:
    """As few parts of the name as will do; the same folder in two spellings is one model."""
    for name in ("a/model", "b/model", "c/other"):
        (tmp_path / name).mkdir(parents=True)
    folders = [str(tmp_path / "a/model"), str(tmp_path / "b/model")]
    assert list(short_names(folders).values()) == ["a/model", "b/model"]
    assert list(short_names([folders[0], str(tmp_path / "c/other")]).values()) == ["model", "other"]
    assert list(short_names([folders[0], str(tmp_path / "a/../a/model/")])) == [folders[0]]
    assert short_names(["org/one", "org/two"]) == {"org/one": "one", "org/two": "two"}
    assert short_names([]) == {}


def test_verdict_says_what_the_scores_say() -> None:
    """They agree, they disagree and how far down that reaches, or some tell nothing apart."""

    def told(*rows: tuple[str, float, float, float]) -> str:
        names = ("logme", "knn", "probe")
        return verdict([Candidate(name=row[0], scores=dict(zip(names, row[1:], strict=True))) for row in rows])

    assert told(("a", 3, 3, 3), ("b", 2, 2, 3), ("c", 1, 1, 1)) == "All scores rank a first."
    disagree = told(("a", 3, 3, 3), ("b", 2, 2, 2), ("c", 1, 4, 1), ("d", 0, 0, 0))
    assert disagree == (
        "The scores disagree on the first (LogME and probe: a; k-NN: c). Decide by fine-tuning: --confirm 3."
    )
    assert told(("a", 3, 1, 1), ("b", 2, 1, 1)) == "First: LogME: a. The same for all: k-NN and probe."
    assert told(("a", 1, 1, 1), ("b", 1, 1, 1)) == "The same for all: LogME and k-NN and probe."


def test_labels_of_the_picture_stay_apart() -> None:
    """Names of points that nearly coincide cover neither each other nor a point, and none is left out."""
    drawn, axis = new_figure(1, 6.0, 4.0)
    points = [(1.0 + 0.01 * i, 0.5 + 0.001 * i, f"model_{i}", INK) for i in range(4)]
    axis.scatter([x for x, *_ in points], [y for _, y, *_ in points])
    axis.margins(x=0.4, y=0.4)
    label_points(drawn, axis, points)
    drawn.canvas.draw()
    names = {text.get_text(): text.get_window_extent() for text in axis.texts}
    assert sorted(names) == [name for _, _, name, _ in points]
    centres = [axis.transData.transform(point[:2]) for point in points]
    for name, box in names.items():
        assert not any(box.overlaps(other) for one, other in names.items() if one != name)
        assert not any(box.contains(*centre) for centre in centres)
