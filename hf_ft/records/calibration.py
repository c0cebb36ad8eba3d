"""The record of a calibration: what was done to the logits, and how well probabilities fit before and after."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReliabilityPointRecord:
    """Predictions of similar probability: their mean probability, how often they were right, and how many they are."""

    predicted: float
    observed: float
    predictions: int


@dataclass
class CalibrationScoreRecord:
    """How well probabilities fit frequencies; for the scores see `hf_ft.metrics.CalibrationScore`.

    `ece` is over 15 bins of equal width, `ece_equal_mass` over 15 bins of equally many predictions, `points` is the
    reliability curve.
    """

    log_loss: float
    ece: float
    ece_equal_mass: float
    brier: float
    points: list[ReliabilityPointRecord]


@dataclass
class CalibratedSplit:
    """The scores of a split of `examples` before and after, and how many predicted classes `changed`.

    `changed` is None for several labels per example.
    `unmoved` are those of calibrated probabilities before a threshold was moved to 0.5, None where none was.
    """

    examples: int
    before: CalibrationScoreRecord
    after: CalibrationScoreRecord
    changed: int | None
    unmoved: CalibrationScoreRecord | None = None


@dataclass
class CalibrationRecord:
    """A calibration that is part of the weights: the last layer has it, so that a plain `pipeline` is calibrated.

    Logits were divided by `temperature`, and `bias` was added, one number for each class or none. `threshold` is the
    probability that was moved to 0.5 by `moved`, which is added too: for several labels that of all of them, for two
    classes that of the class `label`. All are fitted on `examples` examples of validation, except a threshold that the
    user set.
    """

    temperature: float
    bias: list[float]
    threshold: float | None
    moved: list[float]
    label: str | None
    examples: int
    splits: dict[str, CalibratedSplit] = field(default_factory=dict)
