"""`FeatureCache`: the feature cache for a `Trainer` of your own."""

from __future__ import annotations

from inspect import signature
from types import TracebackType
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import DataCollatorWithPadding, PreTrainedModel, TrainingArguments, default_data_collator

from hf_ft.errors import UserError, shorten
from hf_ft.feature_cache.build import open_cache
from hf_ft.feature_cache.cache_request import CacheRequest
from hf_ft.feature_cache.policy import NotCached
from hf_ft.feature_cache.rows import PrebatchedCollator
from hf_ft.methods import plan_method
from hf_ft.modalities import ImageTransform
from hf_ft.models import DepthGroups, FrozenMode, depth_groups, freeze, modules_in_eval
from hf_ft.settings import CacheSettings
from hf_ft.tables import file_column
from hf_ft.tasks import summed_loss


class FeatureCache:
    """The outputs of a model's frozen layers, computed once per example; with `freeze` alone they run in every epoch.

    Use it as a context manager. Within it, train `model` on `train` (and evaluate on `validation`) with `collator` and
    `loss`; afterwards the whole model has the new weights. `facts` says where the model was split, and how many
    examples ran through the frozen layers.

    Args:
        model: a classifier of transformers.
        method: what trains, as in `freeze`.
        train: rows with `labels` and either what the model takes, tokenised but not padded, or a column `image`; other
            columns, such as the raw text, are left out.
        validation: the same for evaluation.
        processor: the tokenizer, or the image processor, which prepares images without augmentation.
        args: the settings of the `Trainer` to come; epochs, precision and device are read, and `remove_unused_columns`
            is set to False: `Trainer` would take the features for columns that the model does not know.
        collator: makes a batch of tokenised rows; by default it pads to the longest.
        cache_dir: the folder of the features; by default that of `hf-ft cache`.
        groups: the depth groups, if they are known.

    Raises:
        UserError: rows without labels or inputs, no frozen layers, or ones that are no fixed function of their input.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        method: str,
        train: Dataset,
        validation: Dataset | None = None,
        *,
        processor: Any,
        args: TrainingArguments,
        collator: Any = None,
        cache_dir: str | None = None,
        groups: DepthGroups | None = None,
    ) -> None:
        groups = groups if groups is not None else depth_groups(model)
        freeze(model, method, groups).remove()
        stage = plan_method(method, groups, args.num_train_epochs, 1.0).stages[0]
        parts = [_read_columns(rows, model) for rows in (train, validation) if rows is not None]
        args.remove_unused_columns = False
        if file_column(train):
            parts = [rows.with_transform(ImageTransform(processor, "none")) for rows in parts]
        collator = collator or (default_data_collator if file_column(train) else DataCollatorWithPadding(processor))
        settings = CacheSettings(cache_dir=cache_dir)
        settings.check()
        passes = max(2.0, args.num_train_epochs)  # a cache that is read once would not be built
        try:
            cached = open_cache(
                CacheRequest(model, groups, stage, parts, processor, collator, settings, None, args, passes, passes)
            )
        except NotCached as reason:
            raise UserError(
                f"FeatureCache cannot be used with method '{method}': {str(reason) or 'nothing below is frozen'}. Use "
                "freeze() alone."
            ) from reason
        self.model, self.train, self.validation = cached.upper, cached.train, cached.validation
        self.facts = cached.facts
        self.collator, self.loss = PrebatchedCollator(collator), usual_loss
        self._quiet, self._installed = modules_in_eval(model, stage), cached.split.installed()

    def __enter__(self) -> FeatureCache:
        self._frozen = FrozenMode(self.model, self._quiet)
        self._installed.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._installed.__exit__(kind, error, trace)
        self._frozen.remove()


def _read_columns(rows: Dataset, model: PreTrainedModel) -> Dataset:
    """Rows with the columns alone that training reads.

    Raises:
        UserError: labels or inputs are missing.
    """
    there = shorten(rows.column_names)
    if "labels" not in rows.column_names:
        raise UserError(
            f"FeatureCache needs a column 'labels', and the rows have {there}. Rename theirs: "
            "rows.rename_column('label', 'labels')."
        )
    taken = (
        [files]
        if (files := file_column(rows))
        else [name for name in signature(model.forward).parameters if name != "labels"]
    )
    inputs = [name for name in rows.column_names if name in taken]
    if not inputs:
        raise UserError(
            f"FeatureCache needs rows with a column 'image', or with what the tokenizer makes of a text (input_ids, "
            f"attention_mask); these have {there}. Tokenise them: rows.map(lambda row: tokenizer(row['text']))."
        )
    return rows.select_columns([*inputs, "labels"])


def _total(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if not labels.is_floating_point():
        return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
    if labels.shape == logits.shape and labels.shape[-1] > 1:
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return functional.mse_loss(logits.flatten(), labels.flatten(), reduction="sum")


usual_loss = summed_loss(_total)
"""The usual loss for `Trainer(compute_loss_func=...)`: cross entropy, one for each label, or squared error.

Integers are classes, of examples or of tokens (-100: none); numbers are labels of which several may hold, `(n,
labels)`, or what a regression learns, `(n,)`.
"""
