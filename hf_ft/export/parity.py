"""The comparison of an exported model with the PyTorch model on real examples: logits, answers, metrics and time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_ft.export.examples import TRACED, Examples
from hf_ft.export.graph import CannotExport
from hf_ft.export.runtimes import Arrays, Runtime

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit, that counts as rounding: other kernels add otherwise."""
WARM_UP = 3
"""Examples that run before any is timed."""


@dataclass(frozen=True)
class Answers:
    """The logits of each encoded row alone, and the median milliseconds that one took."""

    logits: list[NDArray[np.float32]]
    milliseconds: float


@dataclass(frozen=True)
class Difference:
    """The largest difference of logits, and the largest logit (at least 1), which says what that means."""

    largest: float
    scale: float

    @property
    def is_rounding(self) -> bool:
        """Whether it is within `TOLERANCE`; a difference that is not a number is not."""
        return self.largest <= TOLERANCE * self.scale


def torch_runtime(model: PreTrainedModel) -> Runtime:
    """Return the model itself as it answers a batch of arrays."""

    def run(arrays: Arrays) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(**{name: torch.from_numpy(value) for name, value in arrays.items()}).logits
        found: NDArray[np.float32] = logits.float().numpy()
        return found

    return run


def answers_of(run: Runtime, examples: Examples) -> Answers:
    """Return what a model answers for each row alone, which has no padding.

    Raises:
        CannotExport: The runtime fails on an example.
    """
    batches = [_arrays(examples.batch([place])[0]) for place in range(len(examples.encoded))]
    logits, seconds = [], []
    try:
        for arrays in batches[:WARM_UP]:
            run(arrays)
        for arrays in batches:
            start = time.perf_counter()
            found = run(arrays)
            seconds.append(time.perf_counter() - start)
            logits.append(found[0])
    except Exception as error:  # what a runtime raises is a property of the exported model
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CannotExport(f"it fails on an example alone: {lines[0][:300]}") from error
    return Answers(logits, 1000 * median(seconds))


def difference(one: Answers, other: Answers) -> Difference:
    """Return the largest difference between two models on the same rows."""
    shapes = [(a.shape, b.shape) for a, b in zip(one.logits, other.logits, strict=True) if a.shape != b.shape]
    if shapes:
        raise CannotExport(f"its logits have the shape {shapes[0][1]} in place of {shapes[0][0]}")
    scale = max(1.0, *(float(np.abs(row).max(initial=0)) for row in one.logits))
    each = [float(np.abs(a - b).max(initial=0)) for a, b in zip(one.logits, other.logits, strict=True)]
    return Difference(max(each) if np.isfinite(each).all() else float("inf"), scale)


def batch_difference(model: Runtime, exported: Runtime, examples: Examples) -> Difference:
    """Return the largest difference on a padded batch of another size than the traced one.

    Raises:
        CannotExport: The runtime fails on it.
    """
    count = len(examples.encoded)
    batch = _arrays(examples.batch([place % count for place in range(TRACED + 2)])[0])
    wanted = model(batch)
    try:
        found = exported(batch)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CannotExport(f"it fails on a batch: {lines[0][:300]}") from error
    if wanted.ndim == 3:  # logits of padding mean nothing
        real = batch["attention_mask"].astype(bool)
        wanted, found = wanted[real], found[real]
    return difference(Answers([wanted], 0), Answers([found], 0))


def outputs_of(answers: Answers, examples: Examples) -> Any:
    """Return the outputs of examples, as `evaluation.predict_outputs` does, from the logits of their rows."""
    task = examples.task
    outputs: list[Any] = list(answers.logits)
    if task.reduce is not None:
        places = range(len(outputs))
        labels = [examples.batch([place])[1] for place in places]
        outputs = [
            np.asarray(task.reduce(torch.from_numpy(logits)[None], label)[0])
            for logits, label in zip(answers.logits, labels, strict=True)
        ]
        return task.gather(examples.encoded, outputs) if task.gather is not None else outputs
    stacked = np.stack(outputs)
    return stacked if task.gather is None else task.gather(examples.encoded, stacked)


def metrics_of(outputs: Any, examples: Examples, threshold: float | None) -> Mapping[str, float]:
    """Return the metrics of some outputs."""
    scores = examples.target.score(outputs, examples.rows["labels"][:], examples.labels, threshold)
    return {name: score.value for name, score in scores.items()}


def same_answers(one: Any, other: Any, examples: Examples, threshold: float | None) -> int | None:
    """Return the number of examples for which two models have the same answer; None for numbers."""
    references = examples.rows["labels"][:]
    first, second = (
        examples.target.decode(outputs, references, examples.labels, threshold)[0] for outputs in (one, other)
    )
    if np.asarray(first[0]).dtype.kind == "f" and examples.target.counts(examples.rows, examples.labels) is None:
        return None
    return sum(bool(np.array_equal(a, b)) for a, b in zip(first, second, strict=True))


def _arrays(batch: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: value.numpy() for name, value in batch.items()}
