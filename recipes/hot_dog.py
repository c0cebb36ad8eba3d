"""Hot dog or not: a pretrained network fine-tuned beside the same network trained from scratch, on two kinds of images.

    python recipes/hot_dog.py --dataset D [--model M] [--output_dir OUT]

The data set is yours: a folder with a sub-folder for each of two classes in train/ and test/, or one on the Hub. It is
the example by which Dive into Deep Learning explains fine-tuning, with 1,000 photos of hot dogs and 1,000 of other
things (https://d2l.ai/chapter_computer-vision/fine-tuning.html). The head of the fine-tuned one learns at ten times the
rate of the rest, as method `full` has it.
"""

import sys
from pathlib import Path

from hf_ft.cli.app import run
from hf_ft.finetuning import execute
from hf_ft.reports.figures import draw_learning
from hf_ft.reports.run_report import text_table
from hf_ft.settings.merge import build
from hf_ft.settings.parse import command_line

SETTINGS = {"task": "image_classification", "model": "microsoft/resnet-18"}
OUT = "runs/hot_dog"
METHODS = {"full": "pretrained, fine-tuned", "scratch": "the same, from scratch"}


def main(argv: list[str] | None = None) -> None:
    """Train both, print both, draw both."""
    layers = command_line(argv, __doc__ or "")
    out = Path(next((layer["output_dir"] for _, layer in reversed(layers) if layer.get("output_dir")), OUT))
    records = {}
    for method, title in METHODS.items():
        own = {"method": method, "output_dir": str(out / method)}
        records[title] = execute(build(("the recipe", SETTINGS), *layers, ("the recipe", own))).record
    rows = []
    for title, record in records.items():
        split = list(record["metrics"])[-1]
        score = record["metrics"][split]["accuracy"]
        seconds = sum(stage["seconds"] for stage in record["stages"])
        rows.append([title, f"{score['value']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}", f"{seconds:.0f}"])
    print(f"\n{text_table(['', f'{split} accuracy', '95 % interval', 'seconds'], rows)}")
    print(f"\nPicture: {draw_learning(records, out / 'learning.png', out / 'learning.svg')[0]}")


if __name__ == "__main__":
    sys.exit(run(main))
