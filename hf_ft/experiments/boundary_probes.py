"""Evidence on depths: how well a linear probe does at each boundary, from one pass over some examples.

What is linearly separable at a depth is not where fine-tuning does best from: a probe sees what the frozen part has
made of an example, and not what the part above could learn. So it is shown beside the answer and does not give it.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.errors import UserError
from hf_ft.experiments.trials import Experiment, Trial
from hf_ft.heads import MAX_CLASSES, HiddenStateReader, Loss, fit_layer_probes, sample_rows
from hf_ft.models import CannotSplit, scale_of

MOST = 2000
"""Most examples of a split that are looked at."""


def score_boundary_probes(experiment: Experiment, seed: int) -> dict[str, Any]:
    """The score of a linear probe on validation at each boundary, from what enters the first block on.

    `probe` has a number for each count of frozen blocks, empty where there is none, and `missing` says why. `seconds`
    are those of everything here; `pass_seconds` those of one example in one forward pass of the whole model.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"scores": [], "examples": 0, "seconds_per_example": 0.0, "missing": ""}
    try:
        rows = [sample_rows(part, MOST, seed) for part in (experiment.splits.train, experiment.splits.validation)]
        begun, reader = time.perf_counter(), _reader(experiment)
        states = [reader.states(part) for part in rows]
        found["seconds_per_example"] = (time.perf_counter() - begun) / sum(map(len, rows))
        found["examples"] = len(rows[0])
        loss = _loss(experiment, rows[0])
        for both in zip(*states, strict=True):
            found["scores"].append(
                _score(experiment, fit_layer_probes(both, rows, len(experiment.splits.labels), loss), rows[1])
            )
    except (CannotSplit, UserError) as reason:
        found["missing"] = str(reason)
    found["seconds"] = round(time.perf_counter() - started, 3)
    return found


def _reader(experiment: Experiment) -> HiddenStateReader:
    settings = experiment.settings(Trial("head", 0))
    config = dataclasses.replace(settings.config, augment="none")
    return HiddenStateReader(
        experiment.model,
        experiment.groups,
        lambda rows: experiment.task.encode(rows, experiment.processor, config, False),
        experiment.task.collator(experiment.processor),
        settings.arguments().device,
    )


def _loss(experiment: Experiment, train: Dataset) -> Loss:
    """The loss of the target.

    Raises:
        CannotSplit: there is no single label for a pooled example, or no loss of ours.
    """
    if experiment.task.gather is not None:
        raise CannotSplit("an example has a label for each of its parts")
    if len(experiment.splits.labels) > MAX_CLASSES:
        raise CannotSplit(
            f"there are more than {MAX_CLASSES} classes, for which layer probes take long and show little"
        )
    settings, splits = experiment.settings(Trial("head", 0)), experiment.splits
    loss = splits.target.learning(
        scale_of(experiment.model), train, splits.labels, settings.config, settings.arguments()
    ).loss
    if loss is None:
        raise CannotSplit("the loss is the model's own")
    return loss


def _score(experiment: Experiment, outputs: NDArray[np.float32], validation: Dataset) -> float:
    """The score of a probe's outputs on validation."""
    target, references = experiment.splits.target, validation["labels"][:]
    scores = target.score(outputs, references, experiment.splits.labels, target.fit(outputs, references))
    return float(scores[experiment.metric].value)
