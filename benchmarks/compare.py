"""A whole comparison of methods with the feature cache and without it, each in one process.

    python benchmarks/compare.py --task T --model M --dataset D [--methods A,B] [--examples_per_class N,M] [options]

Every other option goes to `hf-ft compare`. The table has the seconds of training of each method, all seeds and sizes
together, and the limit that arithmetic sets: what would be left if methods with a frozen prefix took no time at all.
Methods that have none train alike with the cache and without (but that images are decoded once), so they run once and
count on both sides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_ft.reports.tables import markdown_table


def run(options: Sequence[str], cache: str, folder: Path) -> dict[str, Any]:
    """One comparison in a process of its own, with an empty cache; its `compare.json`."""
    own = ["--cache", cache, "--cache_dir", str(folder / "cache"), "--output_dir", str(folder / cache)]
    subprocess.run([sys.executable, "-m", "hf_ft", "compare", *options, *own], check=True)
    found: dict[str, Any] = json.loads((folder / cache / "compare.json").read_text(encoding="utf-8"))
    return found


def seconds(record: Mapping[str, Any], method: str) -> float:
    """Training seconds of all runs of a method."""
    return float(sum(run["seconds"] for run in record["runs"] if run["method"] == method))


def scores(record: Mapping[str, Any], method: str) -> str:
    """Mean score of a method at each size."""
    return ", ".join(f"{row['mean']:.3f}" for row in record["rows"] if row["method"] == method)


def sharing(cached: Mapping[str, Any]) -> list[str]:
    """The methods of which a stage read features of frozen layers."""
    return list(dict.fromkeys(run["method"] for run in cached["runs"] if run["features"]))


def table(live: Mapping[str, Any], cached: Mapping[str, Any]) -> str:
    """One row per method, then the total of those with a frozen prefix, then of all."""
    methods, shared = list(dict.fromkeys(run["method"] for run in cached["runs"])), sharing(cached)
    without = {method: seconds(live if method in shared else cached, method) for method in methods}
    rows = []
    for method in methods:
        other = seconds(cached, method)
        both = [f"{other / without[method]:.2f}", scores(live, method)] if method in shared else ["the same", ""]
        rows.append([method, f"{without[method]:.1f}", f"{other:.1f}", *both, scores(cached, method)])
    for name, of in (("with a frozen prefix", shared), ("all methods", methods)):
        one, other = sum(without[method] for method in of), sum(seconds(cached, method) for method in of)
        rows.append([name, f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}", "", ""])
    limit = 1 - sum(without[method] for method in shared) / sum(without.values())
    header = ["method", "without cache s", "with cache s", "ratio", "score without", "score with"]
    return f"{markdown_table(header, rows)}\n\nLimit by arithmetic for all methods: {limit:.2f}"


def main() -> None:
    """Run both sides and print the table."""
    more = (
        "Other options go to `hf-ft compare`: --task, --model, --dataset, --methods, --seeds, --examples_per_class ..."
    )
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], epilog=more, allow_abbrev=False)
    parser.add_argument("--output", metavar="FOLDER", help="keep both comparisons in FOLDER")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.output or scratch)
        cached = run(rest, "auto", folder)
        live = run([*rest, "--methods", ",".join(sharing(cached))], "off", folder)
    machine, versions = live["machine"], live["versions"]
    print(
        f"\n{machine['device']}, {machine['cores']} cores; torch {versions['torch']}, transformers "
        f"{versions['transformers']}; {live['date']}\n\n{table(live, cached)}"
    )


if __name__ == "__main__":
    main()
