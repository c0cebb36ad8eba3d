"""`--calibrate`: scale and shift of the logits fitted on validation, folded into the last layer, and scored.

It comes before everything is scored, so that all scores and proofs are those of the calibrated model.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.evaluation.outputs import predict_trained
from hf_ft.metrics import Calibration, CalibrationScore
from hf_ft.models import HeadAffine, affine_of_head
from hf_ft.records import CalibratedSplit, CalibrationRecord, CalibrationScoreRecord, ReliabilityPointRecord
from hf_ft.tasks import Target

if TYPE_CHECKING:
    from hf_ft.autotune import Autotuner
    from hf_ft.training import Run


class Calibrated:
    """A calibration that is in the weights of a model.

    Args:
        found: What was done to the logits.
        affine: The change of the last layer, which the head of an adapter gets too.
        target: The kind of labels.
        label: Of two classes, the one that a threshold decides for.
        examples: The number of validation examples.
    """

    def __init__(
        self, found: Calibration, affine: HeadAffine, target: Target, label: str | None, examples: int
    ) -> None:
        self.found, self.affine, self.target = found, affine, target
        self.record = CalibrationRecord(
            temperature=1 / found.scale,
            bias=[] if found.bias is None else found.bias.tolist(),
            threshold=found.threshold,
            moved=[] if found.moved is None else found.moved.tolist(),
            label=None if found.threshold is None else label,
            examples=examples,
        )

    def measure(self, split: str, outputs: Any, references: Any) -> None:
        """Add the scores of a split, whose outputs are those of the calibrated model."""
        before, several = self.found.undone(outputs), self.found.bias is not None
        self.record.splits[split] = CalibratedSplit(
            examples=len(before),
            before=self._score(before, references),
            after=self._score(outputs, references),
            changed=None if several else int((before.argmax(axis=1) != np.asarray(outputs).argmax(axis=1)).sum()),
            unmoved=None if self.found.moved is None else self._score(self.found.unmoved(outputs), references),
        )

    def _score(self, outputs: Any, references: Any) -> CalibrationScoreRecord:
        found: CalibrationScore = self.target.calibration_score(outputs, references)
        points = [ReliabilityPointRecord(**asdict(point)) for point in found.points]
        return CalibrationScoreRecord(found.log_loss, found.ece, found.ece_equal_mass, found.brier, points)


def calibrate(run: Run, tuner: Autotuner | None = None) -> Calibrated:
    """Fit a calibration on validation and fold it into the last layer of the run's model."""
    splits, target = run.splits, run.splits.target
    outputs, references = predict_trained(run, splits.validation, tuner=tuner), splits.validation["labels"][:]
    label = target.rarer_class(splits.train, splits.labels)
    found = target.calibration(outputs, references, splits.labels, run.config.threshold, label)
    affine = affine_of_head(run.model, found.scale, found.shift)
    affine.fold(run.model)
    return Calibrated(found, affine, target, label, len(splits.validation))
