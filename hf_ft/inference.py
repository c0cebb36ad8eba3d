"""A trained model on new inputs: `hf-ft predict` and `hf-ft evaluate`, both from the result folder alone."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import transformers
from datasets import Dataset, Image
from transformers import PreTrainedModel

from hf_ft.config import Config
from hf_ft.data import load_rows
from hf_ft.evaluation import Results, add_scores, predict_logits
from hf_ft.lookup import UserError, nearest
from hf_ft.metrics import sigmoid, softmax
from hf_ft.model import quiet_loading
from hf_ft.report import TITLES, text_table
from hf_ft.tasks import Task, get_task

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")


def load_folder(folder: Path) -> tuple[dict[str, Any], Task, PreTrainedModel, Any]:
    """The record, task, model and processor of a result folder."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    task = get_task(record["task"])
    with quiet_loading():
        model = getattr(transformers, task.auto_class).from_pretrained(folder).eval()
        processor_class = transformers.AutoImageProcessor if task.modality == "image" else transformers.AutoTokenizer
        processor = processor_class.from_pretrained(folder)
    return record, task, model, processor


def _config_of(record: Mapping[str, Any], **changes: Any) -> Config:
    settings = {"task": record["task"], "max_length": record["settings"].get("max_length")}
    return Config(**{**settings, **changes})


def evaluate_folder(folder: Path, dataset: str, split: str | None, as_json: bool) -> str:
    """Score a trained model on a data set, labels matched by name; a table, or JSON.

    Raises:
        UserError: data that do not fit the model, such as labels that it does not know.
    """
    record, task, model, processor = load_folder(folder)
    config = _config_of(record, dataset=dataset, test_split=split, problem_type=record["data"]["problem_type"])
    rows = load_rows(dataset, config, record["data"]["labels"])
    logits, references = predict_logits(model, processor, task, rows, config)
    assert references is not None
    results = Results({}, {}, threshold=record["threshold"])
    add_scores(results, "test", logits, references, record["data"]["problem_type"])
    scores = results.metrics["test"]
    if as_json:
        return json.dumps({name: asdict(score) for name, score in scores.items()}, indent=1)
    table = [
        [TITLES.get(name, name), f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"]
        for name, score in scores.items()
    ]
    return f"{dataset}: {len(rows):,} examples\n\n" + text_table(["metric", "value", "95 % interval"], table)


def predict_inputs(folder: Path, inputs: Sequence[str], output: str | None, batch_size: int) -> None:
    """Predict labels and probabilities for files, folders or texts; CSV to the screen, or CSV or JSON lines to a file.

    Raises:
        UserError: an input that does not exist or that the model cannot read.
    """
    record, task, model, processor = load_folder(folder)
    rows = _image_rows(inputs) if task.modality == "image" else _text_rows(inputs, task)
    names = rows.pop("input")
    dataset = Dataset.from_dict(rows)
    if task.modality == "image":
        dataset = dataset.cast_column("image", Image())
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=batch_size, report_to="none", dataloader_pin_memory=False
    )
    logits, _ = predict_logits(model, processor, task, dataset, _config_of(record), arguments)
    predictions = _predictions(names, logits, record)
    if output is None:
        _write_csv(predictions, sys.stdout)
        return
    with Path(output).open("w", encoding="utf-8", newline="") as file:
        if output.endswith(".jsonl"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
        else:
            _write_csv(predictions, file)
    print(f"{len(names):,} predictions are in {output}")


def _predictions(names: Sequence[str], logits: np.ndarray, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per input: what it was, its label (several joined by `|`), and the probability of each class."""
    labels = record["data"]["labels"]
    several = record["data"]["problem_type"] == "multi_label_classification"
    probabilities = sigmoid(logits) if several else softmax(logits)
    for name, row in zip(names, probabilities, strict=True):
        chosen = [labels[i] for i in np.flatnonzero(row >= record["threshold"])] if several else [labels[row.argmax()]]
        yield {"input": name, "label": "|".join(chosen)} | {
            label: round(float(p), 6) for label, p in zip(labels, row, strict=True)
        }


def _write_csv(rows: Iterator[dict[str, Any]], file: TextIO) -> None:
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
        writer.writerow(row)


def _image_rows(inputs: Sequence[str]) -> dict[str, list[str]]:
    paths: list[Path] = []
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            paths += sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            paths.append(path)
        else:
            raise UserError(_missing(path))
    if not paths:
        raise UserError(f"No images in {', '.join(inputs)}. Known are files that end in {', '.join(IMAGE_SUFFIXES)}.")
    return {"input": [str(path) for path in paths], "image": [str(path) for path in paths]}


def _missing(path: Path) -> str:
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    return f"No such file or folder: {path}." + (f" Did you mean {path.parent / near}?" if near else "")


def _text_rows(inputs: Sequence[str], task: Task) -> dict[str, list[str]]:
    """Texts from files (tables by column, other files line by line) or from the command line itself."""
    rows: list[dict[str, str]] = []
    for item in inputs:
        path = Path(item)
        if path.suffix.lower() in TABLE_SUFFIXES:
            rows += _table_rows(path, task)
        elif path.is_file():
            rows += [{"text": line} for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            rows.append({"text": item})
    if not rows:
        raise UserError(f"No text in {', '.join(inputs)}.")
    roles = [role for role in task.inputs if any(role in row for row in rows)]
    return {"input": [" | ".join(row.values()) for row in rows]} | {role: [row[role] for row in rows] for role in roles}


def _table_rows(path: Path, task: Task) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(_missing(path))
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix.lower() in (".csv", ".tsv"):
            found: list[dict[str, Any]] = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        else:
            found = [json.loads(line) for line in file if line.strip()]
    if not found:
        raise UserError(f"{path} holds no rows.")
    columns = {}
    for role, names in task.inputs.items():
        column = next((name for name in names if name in found[0]), None)
        if column is None and role not in task.optional_inputs:
            raise UserError(f"{path} has no column for the {role}: it has {', '.join(found[0])}. Name it '{names[0]}'.")
        if column is not None:
            columns[role] = column
    return [{role: str(row[column]) for role, column in columns.items()} for row in found]
