"""The proof that a saved model, used without hf_ft, returns the names, scores and logits of the trained model."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_ft.data import Splits
from hf_ft.errors import shorten
from hf_ft.evaluation.plain_process import PlainProcess, claimed_process
from hf_ft.settings import EncodingSettings
from hf_ft.tasks import Raw, Task

EXAMPLES = 8
TOLERANCE = 1e-4
"""Largest difference of scores or logits, relative to their scale, that counts as rounding."""

Answers = Sequence[Sequence[Any]]


class LoadBackFailure(RuntimeError):
    """The saved model, used without hf_ft, differs from the model that was trained."""


def start_prover(model: PreTrainedModel, ahead: PlainProcess | None = None) -> PlainProcess:
    """Start the process that `load_back_begun` will ask, or take the one that was started ahead.

    It imports what the model needs while something else runs.
    """
    module = type(model).__module__
    return claimed_process([module] if module.startswith("transformers.") else [], ahead)


def verify_load_back(
    folder: Path, model: PreTrainedModel, processor: Any, task: Task, splits: Splits, config: EncodingSettings
) -> dict[str, Any]:
    """Prove that a saved model loads back, and return the record of the proof; see `load_back_begun`."""
    with load_back_begun(folder, model, processor, task, splits, config) as finish:
        return finish()


@contextmanager
def load_back_begun(
    folder: Path,
    model: PreTrainedModel,
    processor: Any,
    task: Task,
    splits: Splits,
    config: EncodingSettings,
    prover: PlainProcess | None = None,
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run raw examples through the plain `pipeline` of a saved model in a fresh process, and compare the output.

    The fresh process works while the block does something else; the function that the block gets waits for it. The
    expected output is that of the model in memory for the same examples, one by one, with the run's own labels. Texts
    beyond the model's limit are truncated on both sides.

    Args:
        folder: The folder of the saved model.
        model: The model in memory.
        processor: Its tokenizer or image processor.
        task: The task, which makes the raw examples.
        splits: The data; examples come from test, else from validation.
        config: How inputs are encoded.
        prover: The process, if it has been started before.

    Yields:
        A function that returns the record of the proof, with the largest differences. It raises `LoadBackFailure` if
        names, labels, scores or logits differ, or if the folder does not load.
    """
    prover = prover or start_prover(model)
    config = dataclasses.replace(config, long_text="truncate")  # which is all that a plain pipeline offers
    split = splits.test if splits.test is not None else splits.validation
    rows = split.select(range(min(EXAMPLES, len(split))))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            raw = task.raw(rows, processor, config, Path(scratch))
            kept, outputs = _outputs(model, processor, task, raw, config)
            request = {
                "folder": str(folder.resolve()),  # the process starts in another folder
                "pipeline": task.pipeline,
                "inputs": [raw.inputs[i] for i in kept],
                "options": dict(raw.options),
            }
            prover.ask(request)
            yield lambda: _judged(prover.answer(), outputs, len(kept), task, splits)
    finally:
        prover.stop()


def _judged(found: dict[str, Any], outputs: Any, examples: int, task: Task, splits: Splits) -> dict[str, Any]:
    """The record of the proof.

    Raises:
        LoadBackFailure: Names, labels, scores or logits differ, or the folder does not load.
    """
    if "error" in found:
        raise LoadBackFailure(f"The saved model does not load in a fresh process: {found['error']}")
    if found["names"] != list(splits.labels):
        raise LoadBackFailure(
            f"The saved model calls its outputs {shorten(found['names'], 5)} when loaded by AutoConfig, and the data "
            f"call them {shorten(splits.labels, 5)}."
        )
    difference = _compare(found["answers"], splits.target.answers(outputs, splits.labels))
    logits = found["logits"] and _difference(found["logits"], outputs, "logits")
    return {
        "examples": examples,
        "pipeline": task.pipeline,
        "compared": ["id2label", "labels", "scores", *(["logits"] if found["logits"] else [])],
        "largest_difference": difference,
        "largest_difference_of_logits": logits,
        "passed": True,
    }


def _outputs(
    model: PreTrainedModel, processor: Any, task: Task, raw: Raw, config: EncodingSettings
) -> tuple[list[int], Any]:
    """Return the outputs of the model in memory, as `predict_outputs` returns them, one example at a time.

    Single examples have no padding, which would change some logits. The positions of the examples come first, because
    some models fail on a single text of few tokens (Funnel pools it away).
    """
    encoded, collate = task.encode(raw.rows, processor, config, False), task.collator(processor)
    found: dict[int, Any] = {}
    reason: Exception | None = None
    with _on_cpu(model), torch.inference_mode():
        for i in range(len(encoded)):
            batch = dict(collate([encoded[i]]))
            labels = batch.pop("labels", None)
            try:
                logits = model.eval()(**batch).logits
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = error
                continue
            found[i] = (logits if task.reduce is None else task.reduce(logits, labels))[0].float().cpu().numpy()
    if not found:
        raise LoadBackFailure("The trained model answers none of the examples alone.") from reason
    kept, outputs = list(found), list(found.values())
    return kept, np.stack(outputs) if task.gather is None else task.gather(encoded.select(kept), outputs)


@contextmanager
def _on_cpu(model: PreTrainedModel) -> Iterator[None]:
    """Move the model to the CPU within the block, where the fresh process runs: TF32 on a GPU differs more."""
    device: Any = model.device
    model.to("cpu")  # type: ignore[arg-type]  # its annotation is that of a decorator
    try:
        yield
    finally:
        model.to(device)


def _compare(found: Answers, expected: Answers) -> float:
    """Return the largest difference of scores, over all answers of the pipeline: words without a token have none."""
    told: list[tuple[Any, Any]] = []
    for number, (answer, wanted) in enumerate(zip(found, expected, strict=True), start=1):
        if len(answer) != len(wanted):
            raise LoadBackFailure(
                f"For example {number} the saved model's pipeline gives {len(answer)} labels in place of {len(wanted)}."
            )
        pairs = [(one, other) for one, other in zip(answer, wanted, strict=True) if one is not None]
        if wrong := next(((one[0], other[0]) for one, other in pairs if one[0] != other[0]), None):
            raise LoadBackFailure(
                f"For example {number} the saved model's pipeline answers '{wrong[0]}', and the trained model "
                f"'{wrong[1]}'."
            )
        told += pairs
    return _difference([one[1] for one, _ in told], [other[1] for _, other in told], "scores")


def _difference(found: Any, expected: Any, what: str) -> float:
    one, other = (np.asarray(values, dtype=np.float64) for values in (found, expected))
    scale = max(1.0, float(np.abs(other).max(initial=0.0)))
    difference = float(np.abs(one - other).max()) if one.shape == other.shape and one.size else float("inf")
    if not difference <= TOLERANCE * scale:
        raise LoadBackFailure(
            f"The saved model gives other {what} in a plain pipeline: they differ by up to {difference:.3g}."
        )
    return difference
