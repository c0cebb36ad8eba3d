"""Long texts by their head and tail, or in windows: in training, caching, scoring, `predict` and the saved model."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_ft.cli.app import main
from hf_ft.data.truncation import count_truncated
from hf_ft.feature_cache.cache_key import fingerprints
from hf_ft.settings.schema import Config
from hf_ft.tasks.classes import OneOfSeveral
from hf_ft.tasks.long_texts import Pieces, encode_long, mean_of_windows, pieces
from hf_ft.tasks.registry import get_task
from hf_ft.training import stage_runner

LIMIT = 16
FILLER = ["film", "play", "music", "long", "story", "scene"]


def text(i: int, words: int) -> str:
    """The word that decides stands at the end; every word and number is one token of MiniLM."""
    return " ".join([f"{i}", *(FILLER[(i + k) % 6] for k in range(words - 2)), ("bad", "good")[i % 2]])


def rows_of(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of 5 to 40 words, every second one longer than the limit."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = int(random.integers(20, 40)) if i % 4 < 2 else 5
        label: Any = {"classes": ("bad", "good")[i % 2], "numbers": 100.0 + 50 * (i % 2) + i % 3}.get(kind)
        label = [("bad", "good")[i % 2], *(["third"] if i % 3 == 0 else [])] if label is None else label
        rows.append({"text": text(i, words), "label": label})
    return rows


def write(folder: Path, kind: str) -> Path:
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": 40, "validation": 16, "test": 12}.items()):
        lines = map(json.dumps, rows_of(kind, count, seed))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


TASKS = {"classes": "text_classification", "numbers": "text_regression", "several": "text_classification"}


def train(out: Path, data: Path, model: str, kind: str, way: str, **settings: Any) -> int:
    usual: dict[str, Any] = {"task": TASKS[kind], "model": model, "dataset": data, "method": "head", "seed": 3}
    usual |= {"long_text": way, "max_length": LIMIT, "disable_tqdm": "true", "output_dir": out, **settings}
    return main(["train", *(f"--{name}={value}" for name, value in usual.items() if value is not None)])


def record_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


# --- Tokens -----------------------------------------------------------------------------------------------------------


def encoded(tokenizer: Any, texts: list[str], way: str) -> Dataset:
    rows = Dataset.from_dict({"text": texts, "labels": list(range(len(texts)))})
    return encode_long(rows, tokenizer, LIMIT, way)


@pytest.mark.parametrize("words", [5, 14, 15, 25, 26, 37, 38])
def test_windows_are_those_of_the_tokenizers_own_stride(words: int, text_model: str) -> None:
    """As `stride` and `return_overflowing_tokens` make them, from texts that fit to several windows."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    found = encoded(tokenizer, [text(0, words), text(1, 3)], "windows")
    stride = pieces(tokenizer, LIMIT, "windows").overlap
    options = {"truncation": True, "max_length": LIMIT, "stride": stride, "return_overflowing_tokens": True}
    own = tokenizer([text(0, words), text(1, 3)], **options)
    assert found["input_ids"][:] == own["input_ids"]
    assert found["attention_mask"][:] == own["attention_mask"]
    assert found["example"][:] == own["overflow_to_sample_mapping"] == found["labels"][:]


def test_head_and_tail_join_the_first_and_the_last_tokens(text_model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    whole = tokenizer(text(0, 30))["input_ids"]
    found = encoded(tokenizer, [text(0, 30), text(1, 3)], "head_tail")
    first = 1 + 14 // 4  # [CLS] and a quarter of the others
    assert found["input_ids"][0] == whole[:first] + whole[-(LIMIT - first) :]
    assert found["input_ids"][1] == tokenizer(text(1, 3))["input_ids"]
    assert "example" not in found.column_names


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 1), (0, 1), (1, 2)])
@pytest.mark.parametrize("count", [16, 17, 40, 61])
def test_windows_cover_every_token_with_special_ones_around(before: int, after: int, count: int) -> None:
    division = Pieces(16, 16 - before - after, before, "windows")
    windows = division.of(count)
    assert {place for window in windows for place in window} == set(range(count))
    for window in windows:
        assert len(window) <= 16
        assert window[:before] == list(range(before))
        assert window[len(window) - after :] == list(range(count - after, count))
    (head_tail,) = Pieces(16, 16 - before - after, before, "head_tail").of(count)
    assert len(head_tail) == len(set(head_tail)) == min(count, 16)


def test_outputs_of_windows_are_averaged() -> None:
    rows = Dataset.from_dict({"example": [4, 4, 7, 4]})
    outputs = np.array([[1.0, 0], [2.0, 0], [5.0, 1], [6.0, 3]], dtype=np.float32)
    assert mean_of_windows(rows, outputs).tolist() == [[3, 1], [5, 1]]
    assert mean_of_windows(rows.remove_columns("example"), outputs) is outputs


def test_the_place_of_a_text_is_no_part_of_its_fingerprint(text_model: str) -> None:
    """So that another split or a subset finds the cached features of its windows."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    one, other = (encoded(tokenizer, texts, "windows") for texts in ([text(0, 30)], [text(1, 3), text(0, 30)]))
    assert (fingerprints(one) == fingerprints(other)[1:]).all()


def test_what_is_cut_is_counted(text_model: str) -> None:
    tokenizer, task = AutoTokenizer.from_pretrained(text_model), get_task("text_classification")
    rows = Dataset.from_dict({"text": [text(0, 30), text(1, 38), text(2, 5)]})
    tokens = 32 + 40 + 7

    def counted(way: str) -> Any:
        return count_truncated("x", rows, task, tokenizer, Config(task=task.name, max_length=LIMIT, long_text=way))

    for way in ("truncate", "head_tail"):
        found = counted(way)
        assert (found.examples, found.of, found.lost, found.tokens) == (2, 3, 32 + 40 - 2 * LIMIT, tokens)
        assert f"loses {100 * found.lost / tokens:.2g} % of all tokens" in found.note(512)
    assert "the first 4 and the last 12 are read" in counted("head_tail").note(512)
    found = counted("windows")
    assert (found.examples, found.lost, found.tokens, found.windows) == (2, 0, tokens, 3 + 4)
    assert "nothing is cut" in found.note(512)


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "way"),
    [("classes", "windows"), ("classes", "head_tail"), ("numbers", "windows"), ("several", "windows")],
)
def test_a_run_answers_for_long_texts_everywhere_alike(
    kind: str, way: str, text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_proof: None
) -> None:
    """Scores are over texts; `evaluate`, `predict` and the lines of the card give the answers that were scored."""
    data, out = write(tmp_path / "data", kind), tmp_path / "out"
    assert train(out, data, text_model, kind, way, cache="on") == 0
    printed, record = capsys.readouterr().out, record_of(out)
    (told,) = (found for found in record["data"]["truncation"] if found["split"] == "test")
    assert (told["long_text"], told["examples"], told["of"]) == (way, 6, 12)
    assert (told["lost"] == 0) == (way == "windows")
    assert any(note in printed for note in record["data"]["notes"] if note.startswith("test: 6 of 12 texts"))
    assert record["data"]["sizes"] == {"train": 40, "validation": 16, "test": 12}
    assert all(score["n"] == 12 for score in record["metrics"]["test"].values())
    assert record["proofs"]["load_back"]["passed"]
    (stage,) = record["stages"]
    further = [found["windows"] - found["examples"] for found in record["data"]["truncation"] if found["windows"]]
    rows = sum(further[:2])
    assert stage["cache"]["examples"] == 40 + 16 + rows
    # The evaluation of training and the scores of the result are of the same outputs, a text each.
    metric, history = {"numbers": "mse"}.get(kind, record["metric"]), stage["history"][-1]
    scored = record["metrics"]["validation"]
    if kind != "several":  # whose threshold is fitted on validation
        assert history[f"eval_{metric}"] == pytest.approx(scored[metric]["value"], rel=2e-2)
    if kind == "classes":
        assert history["eval_loss"] == pytest.approx(scored["log_loss"]["value"], rel=1e-4)
    assert main(["evaluate", str(out), "--dataset", str(data), "--split", "test", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert (scored["examples"], scored["truncation"]["long_text"]) == (12, way)
    for name, score in scored["metrics"].items():
        assert score["value"] == pytest.approx(record["metrics"]["test"][name]["value"], rel=1e-3, abs=1e-5)
    assert main(["predict", str(out), str(data / "test.jsonl")]) == 0
    answered = capsys.readouterr()
    predicted = list(csv.DictReader(answered.out.splitlines()))
    assert len(predicted) == 12
    assert "6 of 12 texts are longer than 16 tokens" in answered.err
    logits = card_logits(out, predicted[0]["input"])
    shares = {"numbers": logits, "several": logits.sigmoid()}.get(kind, logits.softmax(-1)).tolist()
    names = record["data"]["labels"]
    wanted = [float(predicted[0]["prediction" if kind == "numbers" else name]) for name in names]
    assert shares == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def card_logits(out: Path, long: str) -> torch.Tensor:
    """What the lines of the card answer for a long text, without hf_ft."""
    _, _, section = (out / "README.md").read_text().partition("`hf-ft predict` and these lines")
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code.group(1).replace('"."', repr(str(out))).replace('"some text"', repr(long)), names)
    logits: torch.Tensor = names["logits"]
    return logits


def test_cached_and_uncached_training_answer_alike(text_model: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "classes")
    options = {"method": "last_n:1", "num_train_epochs": 2, "load_back_proof": "false"}
    for cache in ("on", "off"):
        assert train(tmp_path / cache, data, text_model, "classes", "windows", cache=cache, **options) == 0
    one, other = (record_of(tmp_path / cache) for cache in ("on", "off"))
    assert one["stages"][0]["steps"] == other["stages"][0]["steps"] > 0
    losses = [[entry["loss"] for entry in run["stages"][0]["history"] if "loss" in entry] for run in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_resumed_run_has_the_same_tensors(text_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within an epoch of windows; another way to read long texts is another run."""
    data = write(tmp_path / "data", "classes")
    options: dict[str, Any] = {"method": "full", "num_train_epochs": 2, "load_back_proof": "false"}
    options |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}
    assert train(tmp_path / "whole", data, text_model, "classes", "windows", **options) == 0

    class Ending(stage_runner.Lines):  # type: ignore[name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(stage_runner, "Lines", Ending)
        assert train(out, data, text_model, "classes", "windows", **options) == 143
    assert train(out, data, text_model, "classes", "truncate", **options, resume="true") == 2
    assert train(out, data, text_model, "classes", "windows", **options, resume="true") == 0
    one, other = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_class_weights_count_windows(text_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They balance what the loss is a mean of."""
    data, counted, counts = write(tmp_path / "data", "classes"), [], OneOfSeveral.counts

    def noted(target: OneOfSeveral, split: Dataset, labels: Any) -> list[int]:
        counted.append(len(split))
        return counts(target, split, labels)

    monkeypatch.setattr(OneOfSeveral, "counts", noted)
    options = {"class_weights": "balanced", "load_back_proof": "false"}
    assert train(tmp_path / "out", data, text_model, "classes", "windows", **options) == 0
    windows = record_of(tmp_path / "out")["data"]["truncation"][0]
    assert 40 + windows["windows"] - windows["examples"] in counted


def test_mistakes_are_one_line(
    text_model: str, token_data: str, image_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for split in ("train", "test"):
        lines = [json.dumps(row | {"text_pair": "a"}) for row in rows_of("classes", 8, 0)]
        (pairs / f"{split}.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    for task, data, way, said in (
        ("text_classification", pairs, "windows", "pairs"),
        ("text_classification", pairs, "head_tail", "pairs"),
        ("text_classification", pairs, "window", "windows"),
        ("token_classification", token_data, "windows", "token_classification"),
        ("image_classification", image_data, "windows", "image_classification"),
    ):
        capsys.readouterr()
        given = [f"--task={task}", f"--model={text_model}", f"--dataset={data}", f"--output_dir={out}"]
        assert main(["train", *given, f"--long_text={way}", "--method=head"]) == 2
        error = capsys.readouterr().err
        assert "long_text" in error
        assert said in error
        assert len([line for line in error.splitlines() if line.strip() and "Tokenising" not in line]) == 1
    assert not (out / "run.json").exists()
