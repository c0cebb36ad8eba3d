"""What helps a rare class: weights, a sampler, other losses and a threshold, on real data of which one class is cut.

    python benchmarks/imbalance.py --model MODEL --dataset DATA/sst2 --rare 1 [--methods head last_n:1] [--seeds 0 1 2]

Each seed keeps other examples of the rare class, `--share` of each split, and trains with that seed. All options of a
seed have the same examples; frozen layers run once for all of them. Scores are those of the test split. The table is
printed and written to OUTPUT_DIR/imbalance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset

from hf_ft.data.load import load_splits
from hf_ft.environment.library_output import silence_libraries
from hf_ft.evaluation.outputs import predict_split
from hf_ft.models.load import load_model
from hf_ft.reports.tables import markdown_table
from hf_ft.settings.merge import build
from hf_ft.settings.schema import IN_MEMORY
from hf_ft.training.loop import train
from hf_ft.training.planning import make_plan

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "class_weights balanced": {"class_weights": "balanced"},
    "class_weights sqrt": {"class_weights": "sqrt"},
    "class_weights effective": {"class_weights": "effective"},
    "sampler balanced": {"sampler": "balanced"},
    "loss focal": {"loss": "focal"},
    "loss logit_adjusted": {"loss": "logit_adjusted"},
}
"""Row of the table -> settings. A threshold needs no training of its own: it is fitted for `none`."""


def cut(rows: Dataset, label: str, rare: str, share: float, most: int, seed: int) -> Dataset:
    """At most so many rows, of which a share has the rare class; the others are as frequent as before."""
    random = np.random.default_rng(seed)
    is_rare = np.array([str(value) == rare for value in rows[label]])
    others, members = (random.permutation(np.flatnonzero(mask)) for mask in (~is_rare, is_rare))
    size = min(most, int(len(others) / (1 - share)))
    few = max(1, round(size * share))
    return rows.select(sorted([*others[: size - few].tolist(), *members[:few].tolist()]))


def scores(target: Any, outputs: Any, references: Any, labels: Any, rare: str, threshold: float | None) -> list[float]:
    """Recall, precision and F1 of the rare class, macro F1 and accuracy."""
    (one,) = (one for one in target.by_class(outputs, references, labels, threshold) if one.label == rare)
    found = target.score(outputs, references, labels, threshold)
    return [one.recall, one.precision, one.f1, found["f1_macro"].value, found["accuracy"].value]


@silence_libraries()
def run(method: str, option: str, data: DatasetDict, seed: int, given: argparse.Namespace) -> dict[str, list[float]]:
    """Train once; returns the scores, and for `none` of two classes those with a fitted threshold."""
    settings = {"task": given.task, "model": given.model, "dataset": IN_MEMORY, "method": method, "seed": seed}
    settings |= {"output_dir": str(given.output_dir / "run"), "overwrite_output_dir": True, "disable_tqdm": True}
    if method != "head" and given.epochs:
        settings |= {"num_train_epochs": given.epochs}
    built = build(("the benchmark", settings | OPTIONS[option]))
    config, args = built.config, built.arguments()
    splits = load_splits(config, seed, None, data)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, seed)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    with contextlib.redirect_stdout(io.StringIO()):
        done = train(model, processor, splits, plan, config, args, loaded, others=len(OPTIONS))
    assert splits.test is not None
    outputs = {name: predict_split(done, rows, len(OPTIONS)) for name, rows in _parts(splits)}
    labels, target = splits.labels, splits.target
    found = {option: scores(target, outputs["test"], splits.test["labels"][:], labels, given.rare, None)}
    if option == "none" and len(labels) == 2:
        deciding = target.deciding(given.rare, labels)
        threshold = deciding.fit(outputs["validation"], splits.validation["labels"][:])
        by_threshold = scores(deciding, outputs["test"], splits.test["labels"][:], labels, given.rare, threshold)
        found["threshold auto"] = by_threshold
    return found


def _parts(splits: Any) -> list[tuple[str, Dataset]]:
    return [("validation", splits.validation), ("test", splits.test)]


def main() -> None:
    """Run all options of all seeds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="text_classification")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, help="a folder with splits train and test")
    parser.add_argument("--label", default="label", help="the label column")
    parser.add_argument("--rare", required=True, help="the class to cut")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--examples", type=int, default=1000, help="most examples of train and of test")
    parser.add_argument("--validation", type=int, default=400)
    parser.add_argument("--methods", nargs="+", default=["head"])
    parser.add_argument("--epochs", type=float, default=None, help="of methods other than head")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=None)
    given = parser.parse_args()
    given.output_dir = given.output_dir or Path(tempfile.mkdtemp())
    given.output_dir.mkdir(parents=True, exist_ok=True)
    source = load_dataset(given.dataset)
    if "validation" not in source:  # the same rows for every seed
        halves = source["train"].train_test_split(test_size=0.3, seed=0)
        source = DatasetDict({"train": halves["train"], "validation": halves["test"], "test": source["test"]})
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in given.seeds:
        sizes = {"train": given.examples, "validation": given.validation, "test": given.examples}
        data = DatasetDict(
            {
                name: cut(source[name], given.label, given.rare, given.share, most, seed if name == "train" else 0)
                for name, most in sizes.items()
            }
        )
        for method in given.methods:
            for option in OPTIONS:
                for name, values in run(method, option, data, seed, given).items():
                    found.setdefault((method, name), []).append(values)
                    print(method, name, seed, " ".join(f"{value:.3f}" for value in values), flush=True)
    header = ["method", "option", "recall", "precision", "F1", "F1, seeds from, to", "macro F1", "accuracy"]
    rows = []
    for (method, name), values in found.items():
        mean, f1 = np.mean(values, axis=0), [one[2] for one in values]
        cells = [f"{value:.3f}" for value in mean]
        rows.append([f"`{method}`", name, *cells[:3], f"{min(f1):.3f}, {max(f1):.3f}", *cells[3:]])
    table = markdown_table(header, rows)
    (given.output_dir / "imbalance.md").write_text(table + "\n", encoding="utf-8")
    print("\n" + table)


if __name__ == "__main__":
    main()
