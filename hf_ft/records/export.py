"""The record of an export, `parity.json`: the exported model beside the PyTorch model on real examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hf_ft.records.record_files import Machine, Record


@dataclass
class ExportSide:
    """One of the two models: the bytes of its files, the median milliseconds of one example, and its metrics."""

    bytes: int
    ms_per_example: float
    metrics: dict[str, float]


@dataclass
class ParityRecord:
    """The comparison of the two models on `examples` examples of a split, one at a time and in one padded batch.

    `largest_difference` is that of any logit, `scale` the largest logit. `batch_difference` is the same for the padded
    batch; None if it was not compared, as with quantised models. `same_answers` is the number of examples with the same
    answer; None for numbers. `tolerance` is relative to the scale; None for a quantised model, whose logits may differ.
    """

    dataset: str
    split: str
    examples: int
    largest_difference: float
    scale: float
    batch_difference: float | None
    same_answers: int | None
    tolerance: float | None


@dataclass(kw_only=True)
class ExportRecord(Record):
    """The content of `parity.json`, without local paths.

    `quantization` says how a model of `int8` was quantised; empty for float32. `metric` is the one that the training
    run reports. `input_code` lists the packages that the code in `README.md` needs to prepare inputs.
    """

    FILE: ClassVar[str] = "parity.json"
    TITLE: ClassVar[str] = "export"
    KIND: ClassVar[str] = "export"
    SCHEMA: ClassVar[int] = 1

    model: str
    class_name: str
    task: str
    problem_type: str
    format: str
    quantization: str
    metric: str
    parity: ParityRecord
    pytorch: ExportSide
    exported: ExportSide
    input_code: list[str]
    machine: Machine
    threads: int
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
