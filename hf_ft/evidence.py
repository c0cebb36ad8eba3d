"""Evidence on depths: how well a linear probe does at each boundary, from one pass over some examples.

What is linearly separable at a depth is not where fine-tuning does best from: a probe sees what the frozen part has
made of an example, and not what the part above could learn. So it is shown beside the answer and does not give it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.nn.functional import linear

from hf_ft.arms import Arm, Bench
from hf_ft.boundaries import pooled
from hf_ft.cache import row_lengths
from hf_ft.cutting import CannotCut
from hf_ft.lookup import UserError
from hf_ft.probe import fit_linear

Loss = Callable[..., torch.Tensor]

MOST = 2000
"""Most examples of a split that are looked at."""
BATCH = 32
PENALTIES = tuple(10.0**power for power in range(1, -5, -1))
"""Fewer than a head that is kept deserves."""


def gather_evidence(bench: Bench, seed: int) -> dict[str, Any]:
    """The score of a linear probe on validation at each boundary, from what enters the first block on.

    `probe` has a number for each count of frozen blocks, empty where there is none, and `missing` says why. `seconds`
    are those of everything here; `pass_seconds` those of one example in one forward pass of the whole model.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"probe": [], "examples": 0, "pass_seconds": 0.0, "missing": ""}
    try:
        rows = [_looked_at(part, seed) for part in (bench.splits.train, bench.splits.validation)]
        begun = time.perf_counter()
        states = [_states(bench, part) for part in rows]
        found["pass_seconds"] = (time.perf_counter() - begun) / sum(map(len, rows))
        found["examples"] = len(rows[0])
        loss = _loss(bench, rows[0])
        found["probe"] = [_probed(bench, rows, loss, both) for both in zip(*states, strict=True)]
    except (CannotCut, UserError) as reason:
        found["missing"] = str(reason)
    found["seconds"] = round(time.perf_counter() - started, 3)
    return found


def _loss(bench: Bench, train: Dataset) -> Loss:
    """The loss of the target.

    Raises:
        CannotCut: there is no single label for a pooled example, or no loss of ours.
    """
    if bench.task.gather is not None:
        raise CannotCut("an example has a label for each of its parts")
    settings, splits = bench.settings(Arm("head", 0)), bench.splits
    loss = splits.target.learning(bench.model, train, splits.labels, settings.config, settings.arguments()).loss
    if loss is None:
        raise CannotCut("the loss is the model's own")
    return loss


def _looked_at(rows: Dataset, seed: int) -> Dataset:
    chosen = np.random.default_rng(seed).permutation(len(rows))[:MOST]
    return rows.select(np.sort(chosen))


def _states(bench: Bench, rows: Dataset) -> list[torch.Tensor]:
    """Pooled states at each boundary `(rows, width)`, from one pass."""
    settings = bench.settings(Arm("head", 0))
    config, device = dataclasses.replace(settings.config, augment="none"), settings.arguments().device
    encoded = bench.task.encode(rows, bench.processor, config, False)
    collate, model = bench.task.collator(bench.processor), bench.model
    model.to(device)  # type: ignore[arg-type]  # its annotation is that of a decorator
    lengths = row_lengths(encoded)
    order = np.arange(len(encoded)) if lengths is None else np.argsort(-lengths, kind="stable")
    parts = []
    for begin in range(0, len(order), BATCH):
        batch = collate([encoded[int(place)] for place in order[begin : begin + BATCH]])
        inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        parts.append(pooled(model, bench.groups, inputs))
    back = np.argsort(order)
    return [torch.cat(values)[back] for values in zip(*parts, strict=True)]


def _probed(bench: Bench, rows: Sequence[Dataset], loss: Loss, states: Sequence[torch.Tensor]) -> float:
    """The score on validation of a probe fitted on train; `rows` and `states` are those of both."""
    train, validation = rows
    fit = fit_linear(
        lambda: [(states[0], _labels(train))],
        len(bench.splits.labels),
        loss,
        _validate(loss, states[1], validation),
        penalties=PENALTIES,
    )
    target, outputs = bench.splits.target, linear(states[1], fit.weight, fit.bias).numpy()
    references = validation["labels"][:]
    scores = target.score(outputs, references, bench.splits.labels, target.fit(outputs, references))
    return float(scores[bench.metric].value)


def _labels(rows: Dataset) -> torch.Tensor:
    cells: NDArray[Any] = np.asarray(rows["labels"][:])
    labels = torch.tensor(cells)
    return labels.double() if labels.is_floating_point() else labels


def _validate(loss: Loss, states: torch.Tensor, rows: Dataset) -> Callable[..., float]:
    labels = _labels(rows)

    def validate(weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        logits = SimpleNamespace(logits=linear(states, weight, bias))
        return float(loss(logits, labels, num_items_in_batch=int((labels != -100).sum())))

    return validate
