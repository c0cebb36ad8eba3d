"""A trained model on new inputs: `hf-ft predict` and `hf-ft evaluate`, both from the result folder alone."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import transformers
from datasets import Dataset
from transformers import PreTrainedModel

from hf_ft.data import (
    TABLES,
    Duplicates,
    EvaluationSplit,
    Overlap,
    count_truncated,
    find_duplicates,
    load_contents,
    load_evaluation_split,
    max_input_tokens,
    read_tables,
    usual_columns,
)
from hf_ft.errors import UserError, first_line, shorten
from hf_ft.evaluation.outputs import predict_outputs
from hf_ft.evaluation.scores import Results, add_scores, score_without
from hf_ft.modalities import FileInput
from hf_ft.models import silent_loading
from hf_ft.records import RunRecord, ScoreRecord, Scores, read_record, to_json
from hf_ft.reports import duplicates_note, text_table, title
from hf_ft.settings import DataSettings, EncodingSettings, check_path, not_made
from hf_ft.storage import LOCAL, check_names, files_below, readable
from hf_ft.tasks import Task, get_task

SHAPE = ("label_column", "label_separator", "bad_examples")
"""The settings of a run that say what its data look like, beside its input columns: new data are taken to look so."""

TEXTS = get_task("text_classification").inputs["text"]
"""What a column of texts is usually called."""


def load_folder(folder: Path) -> tuple[RunRecord, Task, PreTrainedModel, Any]:
    """The record, task, model and processor of a result folder.

    Raises:
        UserError: something in it is missing or damaged, its model calls its outputs otherwise than the run did, or
            its tokenizer is not the model's.
    """
    record = read_record(folder, RunRecord)
    task = get_task(record.task)
    try:
        with silent_loading():
            auto = getattr(transformers, task.auto_class)
            model, info = auto.from_pretrained(folder, output_loading_info=True)
            processor = task.modality.load_saved_processor(str(folder), model.config)
    except UserError:
        raise
    except Exception as error:  # whatever damaged files make transformers raise
        told = first_line(f"Cannot load the model in {folder}", error)
        raise UserError(f"{told} Copy the folder anew, or train again.") from error
    if lost := [name for name, _ in model.named_parameters() if name in info["missing_keys"]]:
        raise UserError(f"The weights in {folder} lack {shorten(lost, 3)}, which would be random. Train again.")
    names, trained = list((model.config.id2label or {}).values()), record.data.labels
    if names != trained:
        raise UserError(
            f"The model in {folder} has the labels {shorten(names, 5)} in its config.json, and its run.json says that "
            f"it was trained on {shorten(trained, 5)}. One of the two was changed: train again, or put it right."
        )
    return record, task, model.eval(), processor


@dataclass(frozen=True)
class InputSettings(DataSettings, EncodingSettings):
    """The settings of a training run that new data need: what they look like and how they are encoded."""


def _settings_of(record: RunRecord, **changes: Any) -> InputSettings:
    """The settings of the training run for new data."""
    columns = [f"{role}_column" for role in get_task(record.task).inputs]
    kept = {name: record.settings[name] for name in (*columns, *SHAPE, "max_length") if name in record.settings}
    return InputSettings(task=record.task, problem_type=record.data.problem_type, **kept, **changes)


def evaluate_folder(folder: Path, dataset: str, split: str | None, as_json: bool) -> str:
    """Score a trained model on a data set, labels matched by name; a table, or JSON.

    Raises:
        UserError: data that do not fit the model, such as labels that it does not know.
    """
    record, task, model, processor = load_folder(folder)
    config = _settings_of(record, dataset=dataset, test_split=split)
    rows = load_evaluation_split(dataset, config, record.data.labels)
    _check_inputs([role for role in task.inputs if role in rows.rows.column_names], record, dataset)
    cut = count_truncated(rows.split, rows.rows, task, processor, config)
    notes = [*rows.notes, *([cut.note(max_input_tokens(processor))] if cut else [])]
    outputs = predict_outputs(model, processor, task, rows.rows, config)
    results = Results({}, {}, threshold=record.threshold)
    add_scores(results, "test", outputs, rows.rows, rows.target, rows.labels)
    scores = results.metrics["test"]
    scored = split or rows.split
    copies, fresh = _copies(folder, scored, rows, outputs, record.threshold)
    if copies:
        notes.append(duplicates_note(scored, copies.examples, len(rows.rows), record.metric, fresh))
    if as_json:
        metrics = {name: asdict(score) for name, score in scores.items()}
        what = {"dataset": dataset, "split": scored, "examples": len(rows.rows), "notes": notes}
        told = {"truncation": asdict(cut) if cut else None, "duplicates": asdict(copies) if copies else None}
        return json.dumps({**what, **told, "metrics": metrics, "metrics_without_duplicates": to_json(fresh)}, indent=1)
    table = [
        [title(name), f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"] for name, score in scores.items()
    ]
    head = "\n".join([f"{dataset}, {scored}: {len(rows.rows):,} examples", *notes])
    return f"{head}\n\n" + text_table(["metric", "value", "95 % interval"], table)


def _copies(
    folder: Path, name: str, rows: EvaluationSplit, outputs: Any, threshold: float | None
) -> tuple[Overlap | None, Scores | None]:
    """How many examples the model was trained on, and the scores of the others; None where there are none."""
    train = load_contents(folder / LOCAL)
    found = find_duplicates({"train": train, "given": rows.contents}) if train is not None else Duplicates()
    if "given" not in found.in_train:
        return None, None
    (overlap,) = (one for one in found.overlaps if (one.split, one.of) == ("given", "train"))
    copied = found.in_train["given"]
    if copied.all():
        return dataclasses.replace(overlap, split=name), None
    scores = score_without(copied, outputs, rows.rows, rows.target, rows.labels, threshold)
    fresh = {metric: ScoreRecord(**asdict(score)) for metric, score in scores.items()}
    return dataclasses.replace(overlap, split=name), fresh


def predict_inputs(folder: Path, inputs: Sequence[str], output: str | None, batch_size: int) -> None:
    """Predict for files, folders or texts; CSV to the screen, or CSV or JSON lines to a file.

    Raises:
        UserError: an input that does not exist or that the model cannot read.
    """
    if output is not None:
        check_path(str(Path(output).expanduser().absolute().parent), "folder for the output")
        if Path(output).expanduser().is_dir():
            raise UserError(f"--output {output} is a folder. Name a file in it that ends in .csv or .jsonl.")
        path = Path(output).expanduser().absolute()
        if why := "" if path.is_file() else not_made(path):
            raise UserError(f"--output {output} cannot be written: {why}. Choose another file.")
    record, task, model, processor = load_folder(folder)
    config = _settings_of(record)
    learnt = record.data.inputs
    files = task.modality.files
    rows = _file_rows(inputs, files) if files else _text_rows(inputs, task, config, processor, learnt)
    dataset = Dataset.from_dict(rows)
    if cut := count_truncated("inputs", dataset, task, processor, config):
        print(cut.note(max_input_tokens(processor)), file=sys.stderr)
    if files:
        dataset = dataset.cast_column(files.role, files.feature())
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=batch_size, report_to="none", dataloader_pin_memory=False
    )
    outputs = predict_outputs(model, processor, task, dataset, config, arguments)
    target, labels = task.target(record.data.problem_type), record.data.labels
    predictions, columns = target.predictions(dataset, outputs, labels, record.threshold), target.columns(labels)
    if output is None:
        _write_csv(columns, predictions, sys.stdout)
        return
    with Path(output).expanduser().open("w", encoding="utf-8", newline="") as file:
        if output.endswith(".jsonl"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
        else:
            _write_csv(columns, predictions, file)
    print(f"{len(dataset):,} predictions are in {output}")


def _write_csv(columns: Sequence[str], rows: Iterator[dict[str, Any]], file: TextIO) -> None:
    writer = csv.DictWriter(file, fieldnames=columns)
    writer.writeheader()
    writer.writerows(rows)


def _file_rows(inputs: Sequence[str], kind: FileInput) -> dict[str, list[str]]:
    """Inputs from files and folders, each read once so that a bad one is named before anything is predicted."""
    paths: list[Path] = []
    for item in inputs:
        path = Path(item).expanduser()
        if not path.is_symlink():  # a broken link is told with its name below
            check_path(os.path.abspath(path), "file or folder")
        paths += _files_in(path, kind) if path.is_dir() else [path]
    check_names(map(str, paths))
    if not paths or not all(item.strip() for item in inputs):
        listed = ", ".join(map(repr, inputs))
        raise UserError(f"No {kind.noun}s in {listed}. Known are files that end in {', '.join(kind.extensions)}.")
    contents = (kind.check({"path": str(path), "bytes": None}) for path in paths)
    bad = [f"{path} ({why})" for path, why in zip(paths, contents, strict=True) if isinstance(why, str)]
    if bad:
        raise UserError(f"{len(bad):,} of {len(paths):,} {kind.noun}s cannot be read: {shorten(bad)}.")
    return {"input": [str(path) for path in paths], kind.role: [str(path) for path in paths]}


def _files_in(folder: Path, kind: FileInput) -> list[Path]:
    """The files of that kind in a folder, broken links among them; notes on what is skipped go to standard error."""
    found = files_below(folder)
    for note in found.notes():
        print(f"{readable(str(folder))}: {note}", file=sys.stderr)
    names = sorted([*found.files, *found.broken])
    return [folder / name for name in names if Path(name).suffix.lower() in kind.extensions]


def _text_rows(
    inputs: Sequence[str], task: Task, config: InputSettings, processor: Any, learnt: Sequence[str] | None
) -> dict[str, list[Any]]:
    """Texts from files (tables by column, other files line by line) or from the command line itself.

    Raises:
        UserError: pairs for a model that learnt from single texts, or the other way round.
    """
    rows: list[dict[str, Any]] = []
    for item in inputs:
        check_names([item])
        path = Path(item).expanduser()
        if path.suffix.lower() in TABLES:
            rows += _table_rows(path, task, config, learnt)
        elif os.path.isfile(path):
            rows += _lines(path.read_bytes(), item)
        elif item == "-":
            rows += _lines(sys.stdin.buffer.read(), "standard input")
        elif not item.strip():
            raise UserError("An input is empty. Give files, text itself, or - for lines of standard input.")
        elif path.suffix == ".txt":
            check_path(str(path.absolute()), "file")
        elif os.path.isdir(path):
            raise UserError(f"{item} is a folder. Give files, or text itself.")
        else:
            rows.append({"text": item})
    if not rows:
        raise UserError(f"No text in {', '.join(inputs)}.")
    if task.from_text is not None:
        return task.from_text(rows, processor)
    if learnt is not None:
        _check_pairs(rows, learnt, config)
    roles = [role for role in task.inputs if any(role in row for row in rows)]
    columns = {role: [row.get(role, "") for row in rows] for role in roles}
    return {"input": [" | ".join(row.values()) for row in rows]} | columns


def _lines(content: bytes, name: str) -> list[dict[str, Any]]:
    """The lines of a text in UTF-8, without empty ones."""
    if b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        kind = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "no text but binary data"
        raise UserError(f"{name} is {kind}. Give text in UTF-8, one input on each line.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{name} is not in UTF-8: line {line} holds the byte 0x{content[error.start]:02x}. Save it in UTF-8, for "
            "example with iconv -f latin1 -t utf8."
        ) from None
    return [{"text": line} for line in text.splitlines() if line.strip()]


def _check_pairs(rows: Sequence[Mapping[str, Any]], learnt: Sequence[str], config: DataSettings) -> None:
    """Raise unless all rows are pairs where the model learnt from pairs, and none where it did not."""
    pairs = sum(bool(row.get("text_pair")) for row in rows)
    if "text_pair" in learnt and pairs < len(rows):
        first, second = config.text_column or "text", config.text_pair_column or "text_pair"
        raise UserError(
            f"The model was trained on pairs of texts, and {len(rows) - pairs:,} of {len(rows):,} inputs are single "
            f"texts. Give a file of CSV or JSON lines with the columns {first} and {second}."
        )
    if "text_pair" not in learnt and pairs:
        raise UserError(
            f"The model was trained on single texts, and {pairs:,} of {len(rows):,} inputs are pairs. Give files with "
            "one column of texts."
        )


def _check_inputs(found: Sequence[str], record: RunRecord, dataset: str) -> None:
    """Raise unless a data set has the input columns that the model learnt from: pairs of texts for pairs."""
    learnt = record.data.inputs
    if set(learnt) != set(found):
        raise UserError(
            f"The model was trained on {' and '.join(learnt)}, and {dataset} has {' and '.join(found)} for input. Give "
            "data with the columns of the training data."
        )


def _table_rows(path: Path, task: Task, config: DataSettings, learnt: Sequence[str] | None) -> list[dict[str, Any]]:
    """The inputs of a table, read as in training; columns are those of the training data, else the usual ones.

    A task that takes texts as well as its own inputs (`from_text`) takes a column of texts where there is no other.
    """
    check_path(str(path.absolute()), "file")
    found = read_tables([path.absolute()], path.parent).rows
    if len(found) == 0:
        raise UserError(f"{path} holds no rows.")
    columns = {}
    for role, names in task.inputs.items():
        wanted = getattr(config, f"{role}_column")
        if learnt is not None and role not in learnt and config.text_column:
            continue  # training read the one column that was named, whatever stood beside it
        if known := [wanted] if wanted in found.features else usual_columns(found.features, names, set()):
            columns[role] = known[0]
        elif task.from_text is not None and (texts := usual_columns(found.features, TEXTS, set())):
            columns["text"] = texts[0]
        elif role not in task.optional_inputs:
            listed, name = ", ".join(found.features), wanted or names[0]
            raise UserError(f"{path} has no column for the {role}: it has {listed}. Name it '{name}'.")
    if "tokens" in columns:  # a text would be taken for the list of its characters
        cells = enumerate(found[columns["tokens"]], start=1)
        if bad := [row for row, cell in cells if not (isinstance(cell, list) and cell)]:
            raise UserError(
                f"{path}: column '{columns['tokens']}' holds no list of words in row {shorten(bad)}. Give lists of "
                "words, or texts in a column called 'text'."
            )
    rows = zip(*(found[column] for column in columns.values()), strict=True)
    return [{role: _plain_cell(cell) for role, cell in zip(columns, row, strict=True)} for row in rows]


def _plain_cell(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_plain_cell(word) for word in cell]
    return "" if cell is None else str(cell)
