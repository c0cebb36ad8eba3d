"""All methods on one model and one dataset: accuracy with interval, trained share, seconds, memory.

    python benchmarks/methods.py --model MODEL --dataset DATASET [--jobs 2] [any option of training]

Each run is a process of its own with `threads` threads, so that its peak memory is its own; `--jobs` run at a time.
Runs that are finished are not repeated. The table is printed and written to OUTPUT_DIR/methods.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hf_ft.methods.peft_methods import mergeable
from hf_ft.methods.registry import METHODS
from hf_ft.reports.tables import markdown_table

ARGUMENTS = {"last_n": "last_n:2", "first_n": "first_n:3", "train": "train:*attention*", "peft": None, "auto": None}
"""Method that takes an argument -> the value to run; PEFT methods are listed one by one, and `auto` is skipped."""


def all_methods() -> list[str]:
    """Every method, with an argument where it takes one."""
    named = [ARGUMENTS.get(name, name) for name in METHODS]
    return [name for name in named if name] + [f"peft:{name}" for name in mergeable() if name != "lora"]


def run(method: str, options: argparse.Namespace, rest: list[str]) -> dict[str, Any] | str:
    """Train with one method in its own process; returns the record of the run, or the last line of its error."""
    out = options.output_dir / method.replace(":", "-").replace("*", "")
    if not (out / "run.json").exists():
        command = [sys.executable, "-m", "hf_ft", "train", "--task", options.task, "--method", method]
        command += ["--model", options.model, "--dataset", options.dataset, "--output_dir", str(out), *rest]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run([*command, "--overwrite_output_dir"], capture_output=True, text=True, env=environment)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no output"])[-1]
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


def row(method: str, record: dict[str, Any] | str) -> list[str]:
    """One row of the table."""
    if isinstance(record, str):
        return [f"`{method}`", record[:60], "", "", "", ""]
    score, stages = record["metrics"]["test"][record["metric"]], record["stages"]
    share = max(stage["trainable"] / stage["total"] for stage in stages)
    return [
        f"`{method}`",
        f"{score['value']:.3f}",
        f"{score['low']:.3f} to {score['high']:.3f}",
        f"{share:.2%}",
        f"{sum(stage['seconds'] for stage in stages):.0f}",
        f"{max(stage['peak_memory'] for stage in stages) / 2**20:,.0f}",
    ]


def main() -> None:
    """Run all methods and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="text_classification")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/methods"))
    parser.add_argument("--methods", nargs="*", default=None, help="default: all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options, rest = parser.parse_known_args()
    methods = options.methods or all_methods()
    rows = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for method, record in zip(methods, pool.map(lambda method: run(method, options, rest), methods), strict=True):
            rows.append(row(method, record))
            print("  ".join(rows[-1]), flush=True)
    header = ["method", "test", "95 % interval", "trains at most", "training s", "peak MiB"]
    table = markdown_table(header, rows)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "methods.md").write_text(table + "\n", encoding="utf-8")
    print("\n" + table)


if __name__ == "__main__":
    main()
