"""`hf-ft evaluate`: a trained model scored on a dataset, from its folder alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_ft.data import (
    Duplicates,
    EvaluationSplit,
    Overlap,
    count_truncated,
    find_duplicates,
    load_contents,
    load_evaluation_split,
    max_input_tokens,
)
from hf_ft.errors import UserError
from hf_ft.evaluation.loaded_model import open_folder
from hf_ft.evaluation.result_folder import command_tuner
from hf_ft.evaluation.scores import RareClass, Results, add_scores, score_without
from hf_ft.evaluation.views import VIEWS_NOTE
from hf_ft.metrics import Score
from hf_ft.records import ClassScoreRecord, ScoreRecord, Scores, to_json
from hf_ft.reports import class_table, duplicates_note, text_table, threshold_note, title, undefined_note
from hf_ft.storage import LOCAL


def evaluate_folder(
    folder: Path,
    dataset: str,
    split: str | None,
    as_json: bool,
    views: int = 1,
    tune: bool = True,
    name: str | None = None,
) -> str:
    """Score a trained model on a dataset, whose labels are matched by name; returns a table, or JSON.

    Args:
        views: of each image, over which predictions are averaged (test-time augmentation); 1 takes the image alone.
        tune: whether to run the model in its fastest form, see `hf_ft.autotune`.
        name: what the user calls the model in the folder.

    Raises:
        UserError: data that do not fit the model, such as labels that it does not know.
    """
    model = open_folder(folder, name)
    task, processor = model.task, model.processor
    config = dataclasses.replace(model.settings, dataset=dataset, test_split=split)
    rows = load_evaluation_split(dataset, config, model.labels)
    _check_inputs([role for role in task.inputs if role in rows.rows.column_names], model.inputs, dataset)
    cut = count_truncated(rows.split, rows.rows, task, processor, config)
    notes = [*rows.notes, *([cut.note(max_input_tokens(processor))] if cut else [])]
    outputs = model.outputs(rows.rows, views=views, tuner=command_tuner(tune))
    if views > 1:
        notes.append(VIEWS_NOTE.format(views))
    rule = model.rare_class
    rare = None if rule is None else RareClass(rule.label, rule.value, rule.fitted)
    results = Results({}, {}, threshold=model.threshold, rare_class=rare)
    add_scores(results, "test", outputs, rows.rows, rows.target, rows.labels)
    scores = results.metrics["test"]
    scored = split or rows.split
    copies, fresh = _duplicates(folder, scored, rows, outputs, model.threshold)
    if copies:
        metric = model.record.metric if model.record else rows.target.default_metric
        notes.append(duplicates_note(scored, copies.examples, len(rows.rows), metric, fresh))
    if (missing := undefined_note("this split", results.undefined["test"])) is not None:
        notes.append(missing)
    if as_json:
        metrics = {name: asdict(score) for name, score in scores.items()}
        what = {"dataset": dataset, "split": scored, "examples": len(rows.rows), "tta": views, "notes": notes}
        told = {"truncation": asdict(cut) if cut else None, "duplicates": asdict(copies) if copies else None}
        found = {"metrics": metrics, "metrics_without_duplicates": to_json(fresh)}
        found["by_class"] = [asdict(score) for score in results.by_class.get("test", [])]
        found["rare_class"] = to_json(rare) if rare else None
        return json.dumps({**what, **told, **found}, indent=1)
    head = "\n".join([f"{dataset}, {scored}: {len(rows.rows):,} examples", *notes])
    return "\n\n".join([head, *_tables(results)])


def _tables(results: Results) -> list[str]:
    """The tables of a split: all metrics, those with a threshold for a rare class, and the scores of each class."""
    found, rare = [_table(results.metrics["test"])], results.rare_class
    if by_class := results.by_class.get("test"):
        found.append(class_table([ClassScoreRecord(**asdict(one)) for one in by_class]))
    if rare is not None:
        found += [threshold_note(rare), _table(rare.metrics["test"])]
        found.append(class_table([ClassScoreRecord(**asdict(one)) for one in rare.by_class["test"]]))
    return found


def _table(scores: Mapping[str, Score]) -> str:
    rows = [
        [title(name), f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"] for name, score in scores.items()
    ]
    return text_table(["metric", "value", "95 % interval"], rows)


def _check_inputs(found: Sequence[str], learnt: Sequence[str] | None, dataset: str) -> None:
    """Raise unless a dataset has the input columns of the training data: pairs of texts for pairs."""
    if learnt is not None and set(learnt) != set(found):
        raise UserError(
            f"The model was trained on {' and '.join(learnt)}, and {dataset} has {' and '.join(found)} for input. Give "
            "data with the columns of the training data."
        )


def _duplicates(
    folder: Path, name: str, rows: EvaluationSplit, outputs: Any, threshold: float | None
) -> tuple[Overlap | None, Scores | None]:
    """How many examples were in the training split, and the scores of the others; None where there are none."""
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
