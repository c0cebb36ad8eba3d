"""The record of a search for the freeze depth, `depth.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hf_ft.records.comparison import ExperimentRecord, TrialResult


@dataclass
class DepthCandidate:
    """A freeze depth in blocks, and the method that freezes that many."""

    frozen: int
    method: str


@dataclass
class LayerProbes:
    """Scores on validation of linear probes on the mean state at each boundary.

    `seconds_per_example` is the time of one forward pass of the whole model; `missing` says why there are no probes.
    """

    scores: list[float] = field(default_factory=list)
    examples: int = 0
    seconds_per_example: float = 0.0
    missing: str = ""
    seconds: float = 0.0


@dataclass
class RungRow:
    """The score of one freeze depth in a rung: mean over seeds with its 95 % interval."""

    frozen: int
    method: str
    trials: list[str]
    values: list[float]
    mean: float
    low: float
    high: float
    seconds: float


@dataclass
class Rung:
    """The freeze depths that were trained for the same share of their own length."""

    share: float
    length: str
    rows: list[RungRow]


@dataclass
class DepthAlternative:
    """A method that freezes more blocks than the chosen one and is indistinguishable from it."""

    frozen: int
    method: str
    value: float
    low: float
    high: float
    inconclusive: bool


@dataclass
class ContradictingProbe:
    """A layer probe that scores beyond the interval of the chosen freeze depth."""

    frozen: int
    score: float


@dataclass
class DepthChoice(RungRow):
    """The chosen freeze depth with its scores."""

    alternative: DepthAlternative | None = None
    contradicting_probe: ContradictingProbe | None = None


@dataclass
class DepthCost:
    """Seconds of training, of the layer probes, in total, and estimated for training all depths in full."""

    training: float
    layer_probes: float
    wall: float
    full_sweep: float


@dataclass
class FreezeDepthRecord(ExperimentRecord):
    """The content of `depth.json`. While the search runs, `choice` and `cost` are None."""

    FILE: ClassVar[str] = "depth.json"
    TITLE: ClassVar[str] = "freeze depth search"
    KIND: ClassVar[str] = "search"
    SCHEMA: ClassVar[int] = 1

    blocks: int
    seeds: list[int]
    candidates: list[DepthCandidate]
    layer_probes: LayerProbes
    rungs: list[Rung] = field(default_factory=list)
    runs: list[TrialResult] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    uncached: list[str] = field(default_factory=list)
    choice: DepthChoice | None = None
    cost: DepthCost | None = None

    @property
    def finished(self) -> bool:
        """Whether a depth has been chosen."""
        return self.choice is not None and self.cost is not None
