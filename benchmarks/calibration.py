"""What `--calibrate` does to the probabilities of a plain `pipeline`: log loss, calibration error and answers.

    python benchmarks/calibration.py --task text_classification --model builtin:minilm --dataset DATA/sst2 \\
        [--seeds 0 1 2] [options of hf-ft train]

Each seed trains twice, without and with `--calibrate`. Both results answer the test split in a process of their own in
which hf_ft is never imported, by the plain `pipeline` on raw inputs; the scores are computed from its answers alone.
The table is printed and written to OUTPUT_DIR/calibration.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hf_ft import finetune, load
from hf_ft.data.load import load_splits
from hf_ft.evaluation.plain_process import PlainProcess
from hf_ft.metrics.calibration import CalibrationScore, calibration_score
from hf_ft.reports.tables import markdown_table
from hf_ft.settings.argument_parser import Parser
from hf_ft.settings.merge import build
from hf_ft.settings.parse import add_settings, settings_layers
from hf_ft.tasks.registry import get_task

COLUMNS = {"log_loss": "log loss", "ece": "ECE", "ece_equal_mass": "ECE, equal mass", "brier": "Brier"}
SMALLEST = 1e-12


def answers(folder: Path, pipeline: str, inputs: list[Any], options: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """The labels of a saved model, and the probabilities `(examples, labels)` that its plain pipeline gives."""
    process = PlainProcess()
    process.ask({"folder": str(folder.resolve()), "pipeline": pipeline, "inputs": inputs, "options": options})
    found = process.answer()
    process.stop()
    if "error" in found:
        raise SystemExit(f"{folder}: {found['error']}")
    rows = [[dict(answer)[name] for name in found["names"]] for answer in found["answers"]]
    return found["names"], np.array(rows)


def trained(layers: Any, seed: int, calibrate: bool, folder: Path) -> dict[str, Any]:
    """The record of a run of these settings with a seed."""
    settings = {name: value for _, layer in layers for name, value in layer.items()}
    return finetune(**{**settings, **_own(seed, folder), "calibrate": calibrate}).record


def _own(seed: int, folder: Path) -> dict[str, Any]:
    """The settings of one run; a finished one is not trained again."""
    return {"seed": seed, "output_dir": str(folder), "resume_from_checkpoint": True}


def run(layers: Any, seed: int, out: Path) -> tuple[list[CalibrationScore], list[float], int, float]:
    """Scores without and with calibration on test, their accuracies, how many answers differ, and the temperature."""
    places = [out / f"seed-{seed}" / name for name in ("plain", "calibrated")]
    records = [trained(layers, seed, place.name == "calibrated", place) for place in places]
    config = build(*layers, ("the benchmark", {**_own(seed, places[0]), "calibrate": False})).config
    splits, task = load_splits(config, seed), get_task(config.task)
    if splits.test is None:
        raise SystemExit(f"{config.dataset} has no test split, and the scores on validation are those of the fit.")
    references = np.asarray(splits.test["labels"][:])
    scores, chosen = [], []
    with tempfile.TemporaryDirectory() as scratch:
        raw = task.raw(splits.test, load(places[0]).processor, config, Path(scratch))
        for place in places:
            names, shares = answers(place, task.pipeline, raw.inputs, dict(raw.options))
            assert names == list(splits.labels)
            scores.append(calibration_score(np.log(shares.clip(SMALLEST)), references, splits.target.name))
            chosen.append(shares.argmax(axis=1))
    accuracies = [float((one == references).mean()) for one in chosen]
    return scores, accuracies, int((chosen[0] != chosen[1]).sum()), records[1]["calibration"]["temperature"]


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=None)
    given, rest = parser.parse_known_args()
    settings = Parser("hf-ft train")
    add_settings(settings)
    options, unknown = settings.parse_known_args(rest)
    settings.refuse(unknown)
    layers = tuple(settings_layers(vars(options)))
    out = given.output_dir or Path(tempfile.mkdtemp())
    found = [run(layers, seed, out) for seed in given.seeds]
    rows = []
    for column, name in COLUMNS.items():
        before, after = ([getattr(scores[i], column) for scores, *_ in found] for i in (0, 1))
        rows.append([name, *(f"{np.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for v in (before, after))])
    accuracies = [[both[i] for _, both, *_ in found] for i in (0, 1)]
    rows.append(["accuracy", *(f"{np.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for v in accuracies)])
    table = markdown_table(["test, plain `pipeline`", "without", "with `--calibrate`"], rows)
    temperatures = ", ".join(f"{temperature:.3f}" for *_, temperature in found)
    notes = f"Answers that differ, by seed: {', '.join(str(changed) for *_, changed, _ in found)}. "
    text = f"{table}\n\n{notes}Temperatures: {temperatures}.\n"
    (out / "calibration.md").write_text(text, encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
