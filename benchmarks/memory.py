"""Whether memory grows with the data: the peak of method `head` on a thousand and on fifty thousand sentences.

python benchmarks/memory.py [--model MODEL] [--sizes 1000 50000]

The sentences are synthetic, made from a list of words with a fixed seed, so no data set is needed. What is sampled is
RssAnon of the training process, every 50 ms, from its parent: the memory that is the process's own. Its resident size
(VmRSS, `ru_maxrss`) would count pages of mapped files as well, which the system keeps while it has room and drops when
it has not: the Arrow file of the data and the feature cache, which grow with the data by design.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import side_by_side
from side_by_side import Variant

from hf_ft.reports.tables import markdown_table

QUICK = {"sizes": [500, 5000], "num_train_epochs": 1}
GOOD = "bright calm clear fine fresh gentle good grand happy kind lively lovely rich smart sweet warm"
BAD = "bitter bleak broken cold dull empty flat grim harsh loud mean poor sad slow sour weak"
OTHER = (
    "the a this that film book song meal street house morning story garden winter teacher river train city window "
    "friend was seemed looked felt became and but with without under near after before quite rather very almost"
)


def write_sentences(file: Path, count: int, generator: random.Random) -> None:
    """Write a CSV file of sentences of 6 to 30 words, labelled by the kind of words in them."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "label"])
        for number in range(count):
            label = ("bad", "good")[number % 2]
            kind = (BAD, GOOD)[number % 2].split()
            words = generator.choices(kind, k=2) + generator.choices(OTHER.split(), k=generator.randint(4, 28))
            generator.shuffle(words)
            rows.writerow([" ".join(words), label])


def main() -> None:
    """Train on each size, and compare the peaks."""
    parser = side_by_side.parser(__doc__ or "", num_train_epochs=5, seeds=[0], data=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 50000], help="(default: 1000 50000)")
    parser.add_argument("--head_solver", choices=("auto", "exact", "sgd"), default="auto", help="(default: auto)")
    options = side_by_side.parse(parser, QUICK, data=False)
    options.model = options.model or side_by_side.minilm()
    plan = {"method": "head", "learning_rate": None}
    with side_by_side.Benchmark(__file__, options, "text_classification") as benchmark:
        for seed, repetition in side_by_side.turns(options.seeds, options.repetitions):
            for size in options.sizes:
                folder = benchmark.folder / f"sentences-{size}"
                folder.mkdir(exist_ok=True)
                for part, count in (("train", size), ("validation", 200), ("test", 200)):
                    write_sentences(folder / f"{part}.csv", count, random.Random(f"{part} {size}"))
                variant = Variant(f"{size:,} examples", "hf_ft", {"cache": "on", "head_solver": options.head_solver})
                benchmark.run("memory", variant, seed, repetition, plan=plan, dataset=str(folder))
    report(benchmark.runs, [f"{size:,} examples" for size in options.sizes])


def report(runs: list[dict], variants: list[str]) -> None:
    """Print the table of peaks, and the largest size's over the smallest's."""
    peaks = {name: [run["peaks"] for run in runs if run["variant"] == name] for name in variants}
    rows = []
    for name in variants:
        columns = [[peak[phase] / 2**20 for peak in peaks[name]] for phase in ("imports", "loading", "train")]
        seconds = [run["seconds"] for run in runs if run["variant"] == name]
        rows.append([name, *(side_by_side.spread(column, 0) for column in columns), side_by_side.spread(seconds, 1)])
    header = ["", "importing, MiB", "loading, MiB", "training, MiB", "training s"]
    print("\n" + markdown_table(header, rows))
    pairs = zip(peaks[variants[0]], peaks[variants[-1]], strict=True)
    growth = side_by_side.spread([last["train"] / first["train"] for first, last in pairs], 2)
    print(f"\npeak in training, {variants[-1]} / {variants[0]}: {growth}")


if __name__ == "__main__":
    main()
