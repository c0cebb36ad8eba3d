"""The record of a ranking of source models, `rank.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_ft.records.record_files import Machine, Record


@dataclass
class CandidateScores:
    """The measurements of a candidate, or the `error` that prevented them.

    `scores` are those of LogME, k-NN and the linear probe on `examples` feature vectors of size `features`; `baseline`
    is the score of a constant prediction in `metric`. `bytes` is the size of the weights in memory.
    """

    error: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    metric: str = ""
    baseline: float = 0.0
    features: int = 0
    examples: int = 0
    parameters: int = 0
    bytes: int = 0
    ms_per_example: float = 0.0
    seconds: float = 0.0


@dataclass
class Confirmation:
    """The validation score of a fine-tuned candidate, or the `error` that prevented it."""

    error: str = ""
    metric: str = ""
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 0
    seconds: float = 0.0


@dataclass
class Candidate(CandidateScores):
    """A source model in a ranking.

    `identity` changes with the model's files; `location` is a hash of its path or Hub id. `ranks` are its ranks by
    each score, with ties averaged.
    """

    name: str = ""
    identity: str = ""
    location: str = ""
    ranks: dict[str, float] = field(default_factory=dict)
    mean_rank: float = 0.0
    confirmed: Confirmation | None = None


@dataclass
class Agreement:
    """Kendall's tau between two scores; None where one of them is constant."""

    scores: list[str]
    tau: float | None


@dataclass
class RankingData:
    """The training examples that the candidates were scored on."""

    name: str
    fingerprint: str
    examples: int
    predicts: str
    notes: list[str]


@dataclass
class RankingRecord(Record):
    """The content of `rank.json`; scores depend on `settings`, fine-tuning by `--confirm` on `training`."""

    FILE: ClassVar[str] = "rank.json"
    TITLE: ClassVar[str] = "ranking"
    KIND: ClassVar[str] = "ranking"
    SCHEMA: ClassVar[int] = 1

    task: str
    settings: dict[str, Any]
    data: RankingData
    machine: Machine
    versions: dict[str, str]
    candidates: list[Candidate] = field(default_factory=list)
    metric: str = ""
    baseline: float = 0.0
    agreement: list[Agreement] = field(default_factory=list)
    agreement_with_confirmed: dict[str, float | None] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    confirming: int = 0

    def identity(self) -> dict[str, tuple[Any, str]]:
        """Return the data and the settings that scores depend on."""
        data = self.data
        return {
            "dataset": (data.fingerprint, f"'{data.name}' (content {data.fingerprint[:8]})"),
            "training examples": (data.examples, f"{data.examples:,}"),
            **{name: (value, f"'{value}'") for name, value in self.settings.items()},
        }

    @property
    def scored(self) -> list[Candidate]:
        """The candidates that have scores, best first."""
        return [one for one in self.candidates if one.scores]
