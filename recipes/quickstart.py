"""Handwritten digits from ten images each: fine-tuning, training from scratch, and a classical baseline.

    python recipes/quickstart.py --output_dir OUT

Needs no network: the source model ships with hf_ft, the digits with scikit-learn. The source model has never seen a
digit; it was pretrained on photographs of a hundred classes.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ft.cli.app import run
from hf_ft.finetuning import execute
from hf_ft.records import RunRecord, ScoreRecord, read_record
from hf_ft.reports.score_bars import score_bars
from hf_ft.reports.style import save_figure
from hf_ft.reports.tables import text_table
from hf_ft.settings.merge import build
from hf_ft.settings.parse import command_line

SETTINGS = {
    "task": "image_classification",
    "model": "builtin",
    "examples_per_class": 10,
    "val_examples_per_class": 10,
    "augment": "none",  # a mirrored digit is another digit, or none at all
    "per_device_train_batch_size": 25,
    "load_back_proof": True,
    "seed": 0,
}
TEST_EXAMPLES = 800
FINETUNING = {"num_train_epochs": 43, "batch_norm": "train"}
"""More than the defaults, which are for data like the source model's: strokes on black are unlike any photograph."""


def write_digits(folder: Path) -> Path:
    """Write scikit-learn's 1,797 digits (8 x 8 pixels) as an image folder with train/ and test/; returns it."""
    from sklearn.datasets import load_digits

    shutil.rmtree(folder, ignore_errors=True)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    for i, position in enumerate(order):
        target = folder / ("test" if i < TEST_EXAMPLES else "train") / str(digits.target[position])
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.round(digits.images[position] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{position}.png")
    return folder


def logistic_regression(layers: list[tuple[str, Mapping[str, Any]]], digits: Path, out: Path) -> dict[str, Any]:
    """Scores of logistic regression on raw pixels: fitted on the training images, and on the validation images as well.

    Fine-tuning uses the validation images only to choose the epoch, so the second has an advantage.
    """
    from sklearn.linear_model import LogisticRegression

    from hf_ft.data.load import load_splits
    from hf_ft.metrics.classification import score

    recipe = {**SETTINGS, "dataset": str(digits)}
    settings = build(("the recipe", recipe), *layers, ("the recipe", {"output_dir": str(out)}))
    splits = load_splits(settings.config, settings.training["seed"])
    assert splits.test is not None
    scores = {}
    for title, seen in (
        ("logistic regression on pixels", [splits.train]),
        ("the same, on validation as well", [splits.train, splits.validation]),
    ):
        labels = np.concatenate([split["labels"] for split in seen])
        fitted = LogisticRegression(max_iter=2000).fit(np.concatenate([pixels(split) for split in seen]), labels)
        logits = np.log(fitted.predict_proba(pixels(splits.test)) + 1e-12)
        found = score(logits, np.asarray(splits.test["labels"]), splits.problem_type)["accuracy"]
        scores[title] = ScoreRecord(**asdict(found))
    return scores


def pixels(split: Any) -> np.ndarray:
    """Grey values between 0 and 1, one row (64) for each image."""
    return np.stack([np.asarray(image.convert("L"), dtype=float).ravel() / 255 for image in split["image"]])


def main(argv: list[str] | None = None) -> None:
    """Fine-tune, train from scratch, fit the baselines; print and plot the scores."""
    layers = command_line(argv, __doc__ or "")
    out = Path(layers[-1][1].get("output_dir", "runs/quickstart"))
    digits = write_digits(out / "digits")
    scores = {}
    for method, title in (("lp_ft", "pretrained, fine-tuned (lp_ft)"), ("scratch", "the same, from scratch")):
        recipe = {**SETTINGS, "dataset": str(digits), "method": method} | (FINETUNING if method == "lp_ft" else {})
        execute(build(("the recipe", recipe), *layers, ("the recipe", {"output_dir": str(out / method)})))
        record = read_record(out / method, RunRecord)
        scores[title] = record.metrics["test"]["accuracy"]
    scores |= logistic_regression(layers, digits, out / "baseline")
    rows = [[name, f"{s.value:.4f}", f"{s.low:.4f} to {s.high:.4f}"] for name, s in scores.items()]
    each = record.settings["examples_per_class"]
    print(f"\nTest accuracy on {TEST_EXAMPLES} handwritten digits, from {each} training images of each\n")
    print(text_table(["", "accuracy", "95 % interval"], rows))
    print(f"\nFigure: {save_figure(score_bars(scores), out / 'comparison.png')[0]}")


if __name__ == "__main__":
    sys.exit(run(main))
