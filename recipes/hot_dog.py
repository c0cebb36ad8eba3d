"""Hot dog or not: fine-tuning a pretrained network compared with training it from scratch, on images of two classes.

    python recipes/hot_dog.py --dataset D [--model M] [--output_dir OUT]

The dataset is yours: a folder with one sub-folder per class in train/ and test/, or a dataset on the Hub. Dive into
Deep Learning explains fine-tuning by this example, with 1,000 photos of hot dogs and 1,000 of other things
(https://d2l.ai/chapter_computer-vision/fine-tuning.html). The head of the fine-tuned network has ten times the
learning rate of the rest, the default of method `full`.
"""

import sys
from pathlib import Path

from hf_ft.cli.app import run
from hf_ft.finetuning import execute
from hf_ft.records import RunRecord, read_record
from hf_ft.reports.learning_curves import several_learning_curves
from hf_ft.reports.style import save_figure
from hf_ft.reports.tables import text_table
from hf_ft.settings.merge import build
from hf_ft.settings.parse import command_line

SETTINGS = {"task": "image_classification", "model": "microsoft/resnet-18"}
OUT = "runs/hot_dog"
METHODS = {"full": "pretrained, fine-tuned", "scratch": "the same, from scratch"}


def main(argv: list[str] | None = None) -> None:
    """Train both, then print and draw the comparison."""
    layers = command_line(argv, __doc__ or "")
    out = Path(next((layer["output_dir"] for _, layer in reversed(layers) if layer.get("output_dir")), OUT))
    records = {}
    for method, title in METHODS.items():
        own = {"method": method, "output_dir": str(out / method)}
        execute(build(("the recipe", SETTINGS), *layers, ("the recipe", own)))
        records[title] = read_record(out / method, RunRecord)
    rows = []
    for title, record in records.items():
        split = list(record.metrics)[-1]
        score = record.metrics[split]["accuracy"]
        seconds = sum(stage.seconds for stage in record.stages)
        rows.append([title, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}", f"{seconds:.0f}"])
    print(f"\n{text_table(['', f'{split} accuracy', '95 % interval', 'seconds'], rows)}")
    files = save_figure(several_learning_curves(records), out / "learning.png", out / "learning.svg")
    print(f"\nFigure: {files[0]}")


if __name__ == "__main__":
    sys.exit(run(main))
