"""What the feature cache is asked for: a stage, its model and data, and how often it reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments

from hf_ft.autotune import Autotuner
from hf_ft.feature_cache.eviction import cache_root
from hf_ft.feature_cache.watching import Summary
from hf_ft.methods import AppliedStage
from hf_ft.models import DepthGroups, ModelSplit
from hf_ft.settings import CacheSettings


@dataclass(frozen=True)
class CacheRequest:
    """A stage that may read cached features in place of running its frozen layers.

    Args:
        datasets: the encoded training split and, where the stage evaluates, the validation split.
        collator: the task's, from a list of rows to a batch.
        augment: the augmentation of the training images; None and `none` leave them alone.
        views: how many fixed views of each training image are cached in place of an augmentation that is new in each
            epoch; 0 for none.
        erasing: the probability of random erasing of the training images.
        mixes: the options that mix training images, such as `mixup`; the images alone can be cached.
        passes: how often the stage reads the training split, in epochs; may be a fraction.
        evaluations: how often it reads the validation split.
        find_linear_head: given where the head is to be solved. It looks for a linear head in the split model; if there
            is one, the frozen layers would run only once in any case.
        encode: the task's, which belongs to the identity of examples that it changes as they are read.
        tuner: decides how the frozen layers run; None runs them in the usual form.
        summary: what a pass through the frozen layers yields besides the features, to be cached too.
        uncacheable: why the training split may give other inputs each time it is read; empty where it does not.
        unsplittable: why the upper part of the model cannot train alone, whatever the data; empty where it can.
    """

    model: PreTrainedModel
    groups: DepthGroups
    stage: AppliedStage
    datasets: Sequence[Dataset]
    processor: Any
    collator: Callable[[list[dict[str, Any]]], Any]
    settings: CacheSettings
    augment: str | None
    args: TrainingArguments
    passes: float
    evaluations: float
    find_linear_head: Callable[[ModelSplit], object] | None = None
    encode: Callable[..., Any] | None = None
    uncacheable: str = ""
    unsplittable: str = ""
    tuner: Autotuner | None = None
    erasing: float = 0.0
    mixes: Sequence[str] = ()
    views: int = 0
    summary: Summary | None = None

    @property
    def reads(self) -> list[float]:
        """How often each of the datasets is read."""
        return [self.passes, self.evaluations][: len(self.datasets)]

    @property
    def augments(self) -> bool:
        """Whether the training images differ from epoch to epoch."""
        return self.augment not in (None, "none") or self.erasing > 0

    @property
    def data_seed(self) -> int:
        """The seed of the order of the data and of random transforms."""
        return int(self.args.seed if self.args.data_seed is None else self.args.data_seed)

    @property
    def root(self) -> Path:
        """The folder of the cache."""
        return cache_root(self.settings)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch without labels, on the device of the stage."""
        return self.on_device(self.collator(rows))

    def on_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch without labels, on the device of the stage."""
        return {name: value.to(self.args.device) for name, value in batch.items() if name != "labels"}
