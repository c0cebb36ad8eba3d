"""What the feature cache saves a second run: its seconds, and how many examples went through the frozen layers.

python benchmarks/warm.py --dataset DATASET [--model MODEL] [--frozen head]

Two processes train alike, one after the other, with the same cache folder, which is empty at first. Ends with exit
code 1 when the second computed anything that the first had stored, or the first nothing.
"""

import sys
from pathlib import Path

import side_by_side
from side_by_side import Variant

from hf_ft.reports.tables import markdown_table

QUICK = {"max_train_examples": 300, "max_eval_examples": 200, "num_train_epochs": 5, "seeds": [0]}
FIRST, SECOND = "first run, cold cache", "second run, warm cache"


def main() -> None:
    """Train twice for each seed, and compare."""
    parser = side_by_side.parser(__doc__ or "", seeds=[0])
    parser.add_argument(
        "--task", choices=("text_classification", "image_classification"), default="text_classification"
    )
    parser.add_argument("--frozen", default="head", help="`head` (all blocks) or how many (default: head)")
    parser.add_argument("--head_solver", choices=("auto", "exact", "sgd"), default="auto", help="(default: auto)")
    options = side_by_side.parse(parser, QUICK)
    if options.task == "text_classification":
        options.model = options.model or side_by_side.minilm()
    if options.model is None:
        parser.error("give --model, a Hub id, a folder or `builtin`")
    with side_by_side.Benchmark(__file__, options, options.task) as benchmark:
        runs = train_twice(benchmark)
    rows = []
    for name in (FIRST, SECOND):
        mine = [run for run in runs if run["variant"] == name]
        rows.append([name, side_by_side.spread([run["seconds"] for run in mine], 2)])
        rows[-1] += [side_by_side.spread([run[what] for run in mine], digits) for what, digits in COLUMNS.values()]
    print("\n" + markdown_table(["run", "training s", *COLUMNS], rows))
    ratio = side_by_side.spread(side_by_side.ratios(runs, FIRST, SECOND), 2)
    print(f"\nfirst / second: {ratio}")
    computed = {name: [run["computed"] for run in runs if run["variant"] == name] for name in (FIRST, SECOND)}
    if any(computed[SECOND]) or not all(computed[FIRST]):
        sys.exit(f"The cache was not used as it should be: examples computed {computed}.")


COLUMNS = {"of it cache s": ("building", 2), "examples computed": ("computed", 0), "accuracy": ("accuracy", 3)}
"""Title of a column -> the field of a run, and its digits."""


def train_twice(benchmark: side_by_side.Benchmark) -> list[dict]:
    """Train twice with one cache folder, in every repetition of every seed; returns the runs."""
    options = benchmark.options
    for seed, repetition in side_by_side.turns(options.seeds, options.repetitions):
        plans = benchmark.prepare(seed)["plans"]
        if options.frozen not in plans or options.frozen == "none":
            sys.exit(f"--frozen takes one of {', '.join(name for name in plans if name != 'none')}.")
        settings = {"cache": "on", "cache_dir": str(Path(benchmark.folder, f"cache-{seed}-{repetition}"))}
        if options.frozen == "head":
            settings["head_solver"] = options.head_solver
        for name in (FIRST, SECOND):
            benchmark.run("cache", Variant(name, "hf_ft", settings), seed, repetition, plan=plans[options.frozen])
    return benchmark.runs


if __name__ == "__main__":
    main()
