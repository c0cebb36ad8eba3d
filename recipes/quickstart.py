"""Handwritten digits from ten examples each: transfer learning beside training from scratch and a classical baseline.

    python recipes/quickstart.py --output_dir OUT

Needs no network: the source model ships with hf_ft, the digits with scikit-learn. The source model has never seen a
digit; it was trained on photographs of a hundred kinds of things.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_ft.cli import run
from hf_ft.config import build, command_line
from hf_ft.report import comparison_figure, text_table
from hf_ft.run import execute

SETTINGS = {
    "task": "image_classification",
    "model": "builtin",
    "examples_per_class": 10,
    "val_examples_per_class": 10,
    "augment": "none",  # a mirrored digit is another digit, or none
    "per_device_train_batch_size": 25,
    "load_back_proof": True,
    "seed": 0,
}
TEST_EXAMPLES = 800


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
    """Score of a logistic regression on the raw pixels of the very images that the models see, validation included."""
    from sklearn.linear_model import LogisticRegression

    from hf_ft.data import load_splits
    from hf_ft.metrics import score

    settings = build(
        ("the recipe", {**SETTINGS, "dataset": str(digits)}), *layers, ("the recipe", {"output_dir": str(out)})
    )
    splits = load_splits(settings.config, settings.training["seed"])

    def pixels(split: Any) -> np.ndarray:
        return np.stack([np.asarray(image.convert("L"), dtype=float).ravel() / 255 for image in split["image"]])

    assert splits.test is not None
    seen = np.concatenate([pixels(splits.train), pixels(splits.validation)])
    labels = [*splits.train["labels"], *splits.validation["labels"]]
    fitted = LogisticRegression(max_iter=2000).fit(seen, labels)
    logits = np.log(fitted.predict_proba(pixels(splits.test)) + 1e-12)
    found = score(logits, np.asarray(splits.test["labels"]), "single_label_classification")["accuracy"]
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def main(argv: list[str] | None = None) -> None:
    """Fine-tune, train from scratch, fit the baseline; print all three and draw them."""
    layers = command_line(argv, __doc__ or "")
    out = Path(layers[-1][1].get("output_dir", "runs/quickstart"))
    digits = write_digits(out / "digits")
    scores = {}
    for method, title in (("lp_ft", "pretrained, fine-tuned (lp_ft)"), ("scratch", "the same, from scratch")):
        recipe = {**SETTINGS, "dataset": str(digits), "method": method}
        record = execute(build(("the recipe", recipe), *layers, ("the recipe", {"output_dir": str(out / method)})))
        scores[title] = record["metrics"]["test"]["accuracy"]
    scores["logistic regression on pixels"] = logistic_regression(layers, digits, out / "baseline")
    rows = [[name, f"{s['value']:.4f}", f"{s['low']:.4f} to {s['high']:.4f}"] for name, s in scores.items()]
    print(f"\nTest accuracy on {TEST_EXAMPLES} digits, from 10 training and 10 validation examples of each\n")
    print(text_table(["", "accuracy", "95 % interval"], rows))
    print(f"\nPicture: {comparison_figure(scores, out / 'comparison.png')}")


if __name__ == "__main__":
    sys.exit(run(main))
