"""The data sets of quality.py as plain files that every side reads, and the scores of what it predicts for them.

`prepare` samples a data set by hf_ft's own sampling and writes a folder for each size and seed:

    facts.json          task, kind of labels, their names, the metric, and what is right in the test split
    files/train/        images in class folders; `validation/` and `test/` likewise
    files/splits.csv    file, split and label of each image, sorted by file
    files/train.jsonl   texts: `text` and `label`, `text` and `labels`, or `tokens` and `ner_tags`; the others likewise

The test split is the same for every size and seed, so that predictions are paired over sizes and seeds.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Facts = Mapping[str, Any]
IMAGES, TEXTS, TAGS = "image_classification", "text_classification", "token_classification"
ONE, SEVERAL = "single_label_classification", "multi_label_classification"
LABELS = {
    ONE: "label",
    SEVERAL: "labels",
    TAGS: "ner_tags",
}
"""Kind of labels -> the column of the written files."""
FILES = "files"
"""Folder of the written files, beside `facts.json`."""
FILE_ENDINGS = {"JPEG": ".jpg", "PNG": ".png"}


@dataclass(frozen=True)
class DataSet:
    """A folder below `--data`.

    Args:
        folder: Its name.
        task: The task of hf_ft.
        unequal: For classes of unequal size, or several labels an example: by how many to multiply the examples of a
            class to get those of the training split, which is then sampled in the proportions of the classes; None to
            sample as many of each class.
        scored: The split of unseen examples; if it is not `test`, validation is held out of the training split.
    """

    folder: str
    task: str
    unequal: int | None = None
    scored: str = "test"


SETS = [
    DataSet("hymenoptera", IMAGES, scored="val"),
    DataSet("cifar10_small", IMAGES),
    DataSet("sign_digits", IMAGES),
    DataSet("clothing", IMAGES),
    DataSet("sst2", TEXTS),
    DataSet("ag_news_small", TEXTS),
    DataSet("trec", TEXTS),
    DataSet("banking77", TEXTS, unequal=77),
    DataSet("go_emotions", TEXTS, unequal=10),
    DataSet("btc_ner", TAGS, unequal=10),
]


def prepare(data: DataSet, source: Path, size: int | None, seed: int, scored: int, folder: Path) -> Facts:
    """Write a data set at a size (examples of each class, None for all) unless it is written; returns its facts.

    Args:
        source: The folder of the data set.
        scored: Most examples of the test split.
        folder: Where to write it.

    Raises:
        UserError: The data set has fewer examples, or cannot be read.
    """
    if not (folder / "facts.json").exists():
        splits, labels, target = _sampled(data, source, size, seed, scored)
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        (part / FILES).mkdir(parents=True)
        write = _write_images if data.task == IMAGES else _write_texts
        references = write(part / FILES, splits, labels, target.name)
        facts = {
            "set": data.folder,
            "task": data.task,
            "size": size,
            "kind": target.name,
            "labels": list(labels),
            "metric": target.default_metric,
            "examples": {name: len(rows) for name, rows in splits.items()},
            "references": references,
        }
        (part / "facts.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    found: Facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return found


def _sampled(
    data: DataSet, source: Path, size: int | None, seed: int, scored: int
) -> tuple[dict[str, Any], Sequence[str], Any]:
    """Training and validation examples of a seed, the test examples of seed 0; the labels and their kind."""
    from hf_ft.data.load import load_evaluation_split, load_splits
    from hf_ft.settings.merge import build

    settings: dict[str, Any] = {"task": data.task, "model": "builtin", "dataset": str(source), "output_dir": "unused"}
    settings |= {"max_eval_examples": scored, "test_split": data.scored}
    if size is not None and data.unequal:
        settings["max_train_examples"] = size * data.unequal
    elif size is not None:
        settings |= {"examples_per_class": size, "val_examples_per_class": max(5, size // 5)}
    config = build(("the benchmark", settings)).config
    found = load_splits(config, seed)
    test = load_evaluation_split(str(source), config, found.labels, 0).rows
    validation = found.validation
    most = max(20, len(found.train) // 5)
    if len(validation) > most:  # a fifth of the training split, as for sets of equal classes
        validation = validation.select(np.random.default_rng(seed).permutation(len(validation))[:most])
    return {"train": found.train, "validation": validation, "test": test}, found.labels, found.target


def _write_images(folder: Path, splits: Mapping[str, Any], labels: Sequence[str], _: str) -> list[int]:
    """Write images as they are, sorted by name as hf_ft reads them; returns the classes of the test split."""
    from datasets import Image
    from PIL import Image as Pillow

    lines = []
    for split, rows in splits.items():
        for number, row in enumerate(rows.cast_column("image", Image(decode=False))):
            content = row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
            ending = FILE_ENDINGS[Pillow.open(io.BytesIO(content)).format or ""]
            label = labels[row["labels"]]
            file = f"{split}/{label}/{number:05d}{ending}"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
            lines.append([file, split, label])
    lines.sort()
    with (folder / "splits.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([["file", "split", "label"], *lines])
    return [labels.index(label) for _, split, label in lines if split == "test"]


def _write_texts(folder: Path, splits: Mapping[str, Any], labels: Sequence[str], kind: str) -> list[Any]:
    """Write texts with their labels by name; returns the labels of the test split by number."""
    references = []
    for split, rows in splits.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                found = row.pop("labels")
                if kind == SEVERAL:
                    found = [number for number, has in enumerate(found) if has]
                names = [labels[number] for number in found] if isinstance(found, list) else labels[found]
                file.write(json.dumps(row | {LABELS[kind]: names}, ensure_ascii=False) + "\n")
                if split == "test":
                    references.append(found)
    return references


def predictions_of(out: Path, files: Path, facts: Facts) -> list[Any]:
    """What the result of an hf_ft run predicts for the test split, as numbers of labels, in the order of `references`.

    Raises:
        RuntimeError: The predictions do not have the score that the run reports.
    """
    from hf_ft.data.load import load_evaluation_split
    from hf_ft.evaluation.outputs import predict_outputs
    from hf_ft.evaluation.result_folder import input_settings, load_folder

    record, task, model, processor = load_folder(out)
    config = input_settings(record, dataset=str(files))
    names = record.data.labels  # in the order of the model's outputs
    rows = load_evaluation_split(str(files), config, names)
    outputs = predict_outputs(model, processor, task, rows.rows, config)
    named: list[Any]
    if facts["kind"] == TAGS:
        named = [[names[int(tag)] for tag, _ in sentence] for sentence in outputs]
    elif facts["kind"] == SEVERAL:
        shares = rows.target.probabilities(outputs)
        named = [[names[number] for number in np.flatnonzero(row >= record.threshold)] for row in shares]
    else:
        named = [names[number] for number in outputs.argmax(-1)]
    predicted = numbered(named, facts)
    value, reported = score(facts, predicted)[0], record.metrics["test"][facts["metric"]].value
    if abs(value - reported) > 1e-6:
        raise RuntimeError(f"{out}: the predictions have {facts['metric']} {value}, and the run reports {reported}.")
    return predicted


def score(facts: Facts, predicted: Sequence[Any]) -> tuple[float, Any, tuple[float, float]]:
    """The metric of the data set for predictions as numbers of labels.

    Returns:
        Its value, its values on resamples `(resamples,)`, and its 95 % interval over examples.
    """
    from hf_ft.metrics import classification, tagging
    from hf_ft.metrics.bootstrap import intervals

    kind, metric, references = facts["kind"], facts["metric"], facts["references"]
    if kind == TAGS:
        found = tagging.score(predicted, references, facts["labels"])[metric]
        return found.value, tagging.bootstrap(predicted, references, facts["labels"], metric), (found.low, found.high)
    several = kind == SEVERAL
    chosen, right = ([_members(row, facts) for row in rows] for rows in (predicted, references))
    logits = np.where(np.array(chosen, dtype=bool), 9.0, -9.0)
    expected = np.array(right) if several else np.array(references)
    draws = classification.bootstrap(logits, expected, kind, names=[metric])[metric]
    spec = classification.METRICS[kind][metric]
    value = float(spec.value(expected, np.array(chosen) if several else logits.argmax(-1)))
    if value in (0, 1) and not spec.share:  # the ends are not those of the resamples, which are all equal
        found = classification.score(logits, expected, kind)[metric]
    else:
        shares = [metric] if spec.share else []
        found = intervals({metric: value}, {metric: draws}, len(references), shares=shares)[metric]
    return value, draws, (found.low, found.high)


def _members(row: Any, facts: Facts) -> list[int]:
    """1 for each label of an example, else 0."""
    having = set(row if isinstance(row, list) else [row])
    return [int(number in having) for number in range(len(facts["labels"]))]


def numbered(predicted: Sequence[Any], facts: Facts) -> list[Any]:
    """Predictions by name as numbers of labels.

    Raises:
        ValueError: They are not as many as the test split has, or name a label that it does not have.
    """
    if len(predicted) != len(facts["references"]):
        raise ValueError(f"{len(predicted):,} predictions for {len(facts['references']):,} test examples.")
    numbers = {name: number for number, name in enumerate(facts["labels"])}
    try:
        return [[numbers[name] for name in row] if isinstance(row, list) else numbers[row] for row in predicted]
    except KeyError as error:
        raise ValueError(f"No label is called {error}.") from None


def backbone(model: str, folder: Path) -> dict[str, Any]:
    """The model as every side loads it: its folder, and for a timm model its architecture, weights and image size."""
    from hf_ft.models.model_config import resolve_model

    found = resolve_model(model)
    config_file = Path(found) / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    if "pretrained_cfg" not in config:
        return {"folder": found, "architecture": None}
    from safetensors.torch import load_file, save_file

    weights = folder / f"{config['architecture']}.safetensors"
    if not weights.exists():
        tensors = load_file(Path(found) / "model.safetensors")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name.removeprefix("timm_model."): tensor for name, tensor in tensors.items()}, weights)
    size = config["pretrained_cfg"]["input_size"][-1]
    return {"folder": found, "architecture": config["architecture"], "weights": str(weights), "image_size": size}
