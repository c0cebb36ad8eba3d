"""Method `contrastive` beside SetFit on a few labelled texts of each class: accuracy and seconds of training.

    python -m venv setfit && setfit/bin/pip install setfit==1.2.0
    python benchmarks/few_shot_text.py --dataset DATA/sst2 --setfit setfit/bin/python

Both sides start from the same sentence encoder, get the same texts (sampled by class with the seed) and are scored on
the same test texts. They take turns, each run in a process of its own with the defaults of its side. Seconds run from
texts in memory and a loaded model to the trained one. `hf_ft` needs a validation split, which has one more text of
each class here: too few to choose anything by, so they decide nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

Texts = list[dict[str, Any]]


def read(dataset: str, examples: int, seed: int, most: int) -> dict[str, Texts]:
    """Training and validation texts of each class, and at most `most` test texts, the same for every seed."""
    from datasets import load_dataset

    splits = load_dataset(dataset)
    labels = np.array(splits["train"]["label"])
    rows: dict[str, list[int]] = {"train": [], "validation": []}
    random = np.random.default_rng(seed)
    for label in sorted(set(labels.tolist())):
        found = random.permutation(np.flatnonzero(labels == label))
        rows["train"] += found[:examples].tolist()
        rows["validation"] += found[examples : examples + 1].tolist()
    texts = {role: splits["train"].select(chosen).to_list() for role, chosen in rows.items()}
    places = np.random.default_rng(0).permutation(len(splits["test"]))[:most]
    return texts | {"test": splits["test"].select(places).to_list()}


def of_hf_ft(model: str, texts: dict[str, Texts], seed: int) -> tuple[float, float]:
    """Accuracy and seconds of method `contrastive`."""
    from datasets import Dataset

    from hf_ft import finetune

    data = {role: Dataset.from_list(rows) for role, rows in texts.items()}
    more: dict[str, Any] = {"model": model, "seed": seed, "load_back_proof": False, "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as out:
        record = finetune(
            task="text_classification", dataset=data, method="contrastive", output_dir=out, cache_dir=out, **more
        ).record
    seconds = sum(stage["seconds"] for stage in record["stages"])
    return record["metrics"]["test"]["accuracy"]["value"], seconds


def of_setfit(folder: str, texts: dict[str, Texts], seed: int) -> tuple[float, float]:
    """Accuracy and seconds of SetFit."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    names = sorted({row["label"] for row in texts["train"]})
    data = Dataset.from_list([{"text": row["text"], "label": names.index(row["label"])} for row in texts["train"]])
    with tempfile.TemporaryDirectory() as out:
        model = SetFitModel.from_pretrained(folder)
        args = TrainingArguments(output_dir=out, seed=seed, save_strategy="no", report_to="none")
        trainer = Trainer(model=model, args=args, train_dataset=data)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        found = model.predict([row["text"] for row in texts["test"]])
    right = [names[int(one)] == row["label"] for one, row in zip(found, texts["test"], strict=True)]
    return sum(right) / len(right), seconds


SIDES = {"hf_ft contrastive": of_hf_ft, "SetFit": of_setfit}


def answer(request: dict[str, Any]) -> None:
    """Run one side, in a process of its own, and print its accuracy and seconds as the last line."""
    import torch

    torch.set_num_threads(request["threads"])
    texts = read(request["dataset"], request["examples"], request["seed"], request["test"])
    accuracy, seconds = SIDES[request["side"]](request["model"], texts, request["seed"])
    print("\n" + json.dumps({"accuracy": accuracy, "seconds": seconds}), flush=True)


def ask(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process to a request; an error ends the benchmark with its last lines."""
    command = [python, __file__, "--run", json.dumps(request)]
    threads = str(request["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return request | found


def table(runs: list[dict[str, Any]]) -> str:
    """A row for each size and side: mean accuracy, each seed, median seconds, and the ratio of each seed's seconds."""
    from side_by_side import spread

    from hf_ft.reports.tables import markdown_table

    rows = []
    for examples in dict.fromkeys(run["examples"] for run in runs):
        seconds = {side: [run["seconds"] for run in runs if run["examples"] == examples and run["side"] == side]
                   for side in SIDES}  # fmt: skip
        for side in SIDES:
            scores = [run["accuracy"] for run in runs if run["examples"] == examples and run["side"] == side]
            ours, theirs = seconds["hf_ft contrastive"], seconds["SetFit"]
            ratio = [a / b for a, b in zip(theirs, ours, strict=False)] if side != "SetFit" else []
            deviation = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            each = ", ".join(f"{score:.3f}" for score in scores)
            mean = f"{statistics.mean(scores):.3f}" if scores else ""
            rows.append([str(examples), side, mean, deviation, each, spread(seconds[side], 1), spread(ratio, 2)])
    header = ["texts a class", "side", "mean accuracy", "deviation", "by seed", "training s", "SetFit / hf_ft"]
    return markdown_table(header, rows)


def main() -> None:
    """Run both sides in turn and print the table."""
    if sys.argv[1:2] == ["--run"]:
        answer(json.loads(sys.argv[2]))
        return
    from side_by_side import machine_line, minilm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", help="folder or Hub id of a sentence encoder (default: MiniLM)")
    parser.add_argument("--dataset", required=True, help="folder or Hub id with columns text and label")
    parser.add_argument("--setfit", help="Python with SetFit (default: this one)", default=sys.executable)
    parser.add_argument("--examples", type=int, nargs="+", default=[8, 32], help="of each class (default: 8 32)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="(default: 0 1 2 3 4)")
    parser.add_argument("--test", type=int, default=1000, help="most test texts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each side (default: %(default)s)")
    parser.add_argument("--only", choices=list(SIDES), help="one side")
    options = parser.parse_args()
    options.model, options.device = options.model or minilm(), "cpu"
    print(machine_line(options) + "\n", flush=True)
    runs: list[dict[str, Any]] = []
    shared = {name: getattr(options, name) for name in ("model", "dataset", "test", "threads")}
    for examples in options.examples:
        for seed in options.seeds:
            for side in [options.only] if options.only else SIDES:
                python = options.setfit if side == "SetFit" else sys.executable
                runs.append(ask(python, {**shared, "side": side, "examples": examples, "seed": seed}))
                said = f"{examples} a class, seed {seed}: {side} {runs[-1]['accuracy']:.3f}"
                print(f"{said} in {runs[-1]['seconds']:.1f} s", flush=True)
    print("\n" + table(runs), flush=True)


if __name__ == "__main__":
    main()
