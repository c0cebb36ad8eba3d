"""Layer probes of a model: the score of a linear probe at each boundary, from one pass over some examples.

They are shown as evidence and do not decide the freeze depth: a probe measures what is linearly separable at a depth,
not what the layers above could still learn from it.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.errors import UserError
from hf_ft.experiments.training_experiment import TrainingExperiment
from hf_ft.experiments.trials import Trial
from hf_ft.heads import MAX_CLASSES, HiddenStateReader, Loss, fit_layer_probes, sample_rows
from hf_ft.models import CannotSplit, scale_of
from hf_ft.records import FreezeDepthRecord, LayerProbes

MAX_EXAMPLES = 2000
"""Most examples of a split that are read."""


def score_boundary_probes(experiment: TrainingExperiment[FreezeDepthRecord], seed: int) -> LayerProbes:
    """Return the score of a linear probe on validation at each boundary, from the input of the first block on.

    A model or task without layer probes gets none, and the reason.
    """
    started, found = time.perf_counter(), LayerProbes()
    try:
        splits = (experiment.splits.train, experiment.splits.validation)
        rows = [sample_rows(part, MAX_EXAMPLES, seed) for part in splits]
        begun, reader = time.perf_counter(), _reader(experiment)
        states = [reader.states(part) for part in rows]
        found.seconds_per_example = (time.perf_counter() - begun) / sum(map(len, rows))
        found.examples = len(rows[0])
        loss = _loss(experiment, rows[0])
        for both in zip(*states, strict=True):
            outputs = fit_layer_probes(both, rows, len(experiment.splits.labels), loss)
            found.scores.append(_score(experiment, outputs, rows[1]))
    except (CannotSplit, UserError) as reason:
        found.missing = str(reason)
    found.seconds = round(time.perf_counter() - started, 3)
    return found


def _reader(experiment: TrainingExperiment[FreezeDepthRecord]) -> HiddenStateReader:
    settings = experiment.settings(Trial("head", 0))
    config = dataclasses.replace(settings.config, augment="none", long_text="truncate")
    return HiddenStateReader(
        experiment.model,
        experiment.groups,
        lambda rows: experiment.task.encode(rows, experiment.processor, config, False),
        experiment.task.collator(experiment.processor),
        settings.arguments().device,
    )


def _loss(experiment: TrainingExperiment[FreezeDepthRecord], train: Dataset) -> Loss:
    """The loss of the target.

    Raises:
        CannotSplit: An example has several labels, or the loss is the model's own.
    """
    if experiment.task.reduce is not None:
        raise CannotSplit("an example has a label for each of its parts")
    if len(experiment.splits.labels) > MAX_CLASSES:
        raise CannotSplit(f"layer probes of more than {MAX_CLASSES} classes take long and show little")
    settings, splits = experiment.settings(Trial("head", 0)), experiment.splits
    loss = splits.target.learning(
        scale_of(experiment.model), train, splits.labels, settings.config, settings.arguments()
    ).of_fixed_features
    if loss is None:
        raise CannotSplit("the loss is the model's own")
    return loss


def _score(
    experiment: TrainingExperiment[FreezeDepthRecord], outputs: NDArray[np.float32], validation: Dataset
) -> float:
    """The score of a probe's outputs on validation."""
    target, references = experiment.splits.target, validation["labels"][:]
    scores = target.score(outputs, references, experiment.splits.labels, target.fit(outputs, references))
    return float(scores[experiment.metric].value)
