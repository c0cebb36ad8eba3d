"""What the three ways to read long texts are worth where the answer stands at the end of a text.

    python benchmarks/long_texts.py --filler DATA/sst2 --answers DATA/ag_news_small [--texts N] [--seeds S ...]

Each text is made of sentences of `--filler`, shuffled, and ends with one text of `--answers`, whose label is the label
of the whole. So a model that reads the beginning alone can only guess. All seeds share the texts, and each divides them
anew: half of them for training, an eighth for validation, the others to test. Features of frozen layers are computed
once for all seeds; the table has their seconds apart from those of training.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import side_by_side
from datasets import Dataset, load_dataset

import hf_ft
from hf_ft.evaluation.outputs import predict_split
from hf_ft.reports.tables import markdown_table

WAYS = ("truncate", "head_tail", "windows")


def long_texts(filler: str, answers: str, count: int, words: int) -> list[dict[str, Any]]:
    """Texts of about so many words, each with an answer at its end, and as many of each label."""
    draw = random.Random(0)
    sentences = load_dataset(filler, split="train")["text"][:]
    by_label: dict[Any, list[str]] = {}
    for row in load_dataset(answers, split="train"):
        by_label.setdefault(row["label"], []).append(row["text"])
    labels = sorted(by_label)

    def body(length: int) -> Iterator[str]:
        while length > 0:
            sentence = draw.choice(sentences)
            length -= len(sentence.split())
            yield sentence

    rows = []
    for i in range(count):
        label = labels[i % len(labels)]
        answer = by_label[label][i]
        rows.append({"text": " ".join([*body(words - len(answer.split())), answer]), "label": label})
    return rows


def divided(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Dataset]:
    """The same texts in another order: half, an eighth, and the rest."""
    shuffled = random.Random(seed).sample(list(rows), len(rows))
    half, rest = len(rows) // 2, len(rows) // 2 + len(rows) // 8
    parts = {"train": shuffled[:half], "validation": shuffled[half:rest], "test": shuffled[rest:]}
    return {name: Dataset.from_list(part) for name, part in parts.items()}


def measured(
    options: argparse.Namespace, way: str, seed: int, rows: Sequence[dict[str, Any]], out: str
) -> dict[str, Any]:
    """Train one head and score it on the test texts, all from cached features."""
    settings = {"task": "text_classification", "model": options.model, "dataset": options.answers}
    settings |= {"method": options.method, "long_text": way, "max_length": options.max_length, "cache": "on"}
    settings |= {"cache_dir": f"{out}/cache"}
    config, args = hf_ft.parse(settings, {"seed": seed, "output_dir": f"{out}/{way}-{seed}", "disable_tqdm": True}, [])
    splits = hf_ft.load_splits(config, seed, data=divided(rows, seed))
    model, processor, loaded = hf_ft.load_model(config, splits.labels, splits.problem_type, seed)
    plan = hf_ft.make_plan(config, args, loaded.groups, len(splits.train))
    run = hf_ft.train(model, processor, splits, plan, config, args, loaded)
    assert run.splits.test is not None
    outputs = predict_split(run, run.splits.test, others=1)
    scores = splits.target.score(outputs, run.splits.test["labels"][:], splits.labels)
    cut = [found for found in run.splits.truncation or () if found.split == "test"]
    facts = [stage.cache or {} for stage in run.stages]
    return {
        "accuracy": scores["accuracy"].value,
        "lost": cut[0].lost / cut[0].tokens if cut else 0.0,
        "windows": cut[0].windows / cut[0].examples if cut and cut[0].windows else 1.0,
        "features": sum(fact.get("seconds", 0.0) for fact in facts),
        "seconds": sum(stage.seconds for stage in run.stages),
    }


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """One row per way: accuracy of each seed, the share of tokens that is not read, and seconds."""
    rows = []
    for way, runs in found.items():
        scores = [run["accuracy"] for run in runs]
        rows.append(
            [
                way,
                f"{statistics.mean(scores):.3f}",
                ", ".join(f"{score:.3f}" for score in scores),
                f"{100 * runs[0]['lost']:.0f} %",
                f"{runs[0]['windows']:.1f}",
                f"{max(run['features'] for run in runs):.0f}",
                f"{statistics.mean(run['seconds'] - run['features'] for run in runs):.1f}",
            ]
        )
    header = [
        "--long_text",
        "test accuracy",
        "of each seed",
        "tokens not read",
        "rows a text",
        "features s",
        "training s",
    ]
    return markdown_table(header, rows)


def main() -> None:
    """Train on the same texts in all ways, with all seeds, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--filler", required=True, help="Hub id or folder with a column text")
    add("--answers", required=True, help="Hub id or folder with columns text and label")
    add("--model", help="Hub id or folder (default: MiniLM)")
    add("--method", default="head", help="(default: %(default)s)")
    add("--texts", type=int, default=240, help="(default: %(default)s)")
    add("--words", type=int, default=1500, help="of a text (default: %(default)s)")
    add("--max_length", type=int, default=256, help="(default: %(default)s)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    options = parser.parse_args()
    options.model = options.model or side_by_side.minilm()
    rows = long_texts(options.filler, options.answers, options.texts, options.words)
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="hf-ft-benchmark-") as out:
        for way in WAYS:
            found[way] = [measured(options, way, seed, rows, out) for seed in options.seeds]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(
        f"\n{len(rows)} texts of about {options.words:,} words, {Path(options.model).name}, method {options.method}, "
        f"at most {options.max_length} tokens, {threads} thread(s); {datetime.date.today()}\n\n{table(found)}"
    )


if __name__ == "__main__":
    main()
