"""Sampling: which examples are used, in the proportions of their labels and decided by the seed alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from hf_ft.data.duplicates import equal_inputs
from hf_ft.data.validate import LabelledSplit
from hf_ft.errors import UserError, shorten
from hf_ft.settings import DataSettings
from hf_ft.tables import counted
from hf_ft.tasks import IntArray, NamedLabels


def sample_strata(strata: IntArray, sizes: IntArray, seed: int, equal: IntArray | None = None) -> IntArray:
    """Positions of `sizes[k]` random members of each stratum k, ascending; `strata` has the stratum of each member.

    All sampling of examples is done here. With one seed, a smaller sample is a subset of a larger one, so that runs on
    more data see all that runs on less data saw. Members of one group of `equal` are sampled together or not at all,
    which may make the sample smaller; without such groups it is the same as without `equal`.
    """
    generator = np.random.default_rng(seed)
    members = np.split(np.argsort(strata, kind="stable"), np.cumsum(np.bincount(strata, minlength=len(sizes)))[:-1])
    orders = [generator.permutation(group) for group in members]
    if equal is not None and len(np.unique(equal)) < len(equal):
        return _sample_together(strata, sizes, orders, equal)
    sampled = [order[:size] for order, size in zip(orders, sizes, strict=True)]
    return np.sort(np.concatenate(sampled))


def _sample_together(strata: IntArray, sizes: IntArray, orders: list[IntArray], equal: IntArray) -> IntArray:
    """Go through the members of each stratum in order and take whole groups, as long as no stratum gets too many."""
    by_group = np.argsort(equal, kind="stable")
    groups = np.split(by_group, np.cumsum(np.bincount(equal))[:-1])
    taken, left = np.zeros(len(strata), dtype=bool), sizes.copy()
    for number, order in enumerate(orders):
        for member in order:
            if left[number] <= 0:
                break
            group = groups[equal[member]]
            wanted = np.bincount(strata[group], minlength=len(sizes))
            if not taken[member] and (wanted <= left).all():
                taken[group] = True
                left -= wanted
    return np.flatnonzero(taken)


def allocate(total: int, counts: IntArray, least: IntArray, most: IntArray) -> IntArray:
    """Split `total` over strata in proportion to `counts`, within `least` and `most`; the sum comes as near as it can.

    Whole numbers by largest remainder.
    """
    exact = counts * (total / max(1, counts.sum()))
    sizes: IntArray = np.clip(np.floor(exact).astype(np.int64), least, most)
    while sizes.sum() < min(total, most.sum()):
        sizes[np.argmax(np.where(sizes < most, exact - sizes, -np.inf))] += 1
    while sizes.sum() > max(total, least.sum()):
        sizes[np.argmin(np.where(sizes > least, exact - sizes, np.inf))] -= 1
    return sizes


def sample_splits(
    splits: dict[str, LabelledSplit], config: DataSettings, seed: int, notes: list[str]
) -> dict[str, LabelledSplit]:
    """Hold out a validation split if there is none, then reduce each split to the requested size, in that order.

    Raises:
        UserError: a class has fewer examples than requested, or none can be held out.
    """
    if "validation" not in splits:
        splits = splits | _hold_out(splits["train"], config.validation_fraction, seed, notes)
    elif "validation_fraction" in config.explicit:
        notes.append("validation_fraction is not used: the data have a validation split.")
    sampled = splits | {
        "train": _per_class(splits["train"], config.examples_per_class, seed, notes),
        "validation": _per_class(splits["validation"], config.val_examples_per_class, seed, notes),
    }
    limits = {"train": config.max_train_examples}
    return {
        role: subsample(sampled[role], limits.get(role, config.max_eval_examples), seed, notes)
        for role in ("train", "validation", "test")
        if role in sampled
    }


def subsample(split: LabelledSplit, total: int | None, seed: int, notes: list[str]) -> LabelledSplit:
    """At most `total` examples in the proportions of the classes, at least one of each if that is possible."""
    if total is None:
        return split
    if total >= len(split.used):
        notes.append(f"{split.role}: all {len(split.used):,} examples, no more than the {total:,} requested.")
        return split
    strata, counts = _strata(split)
    least = np.minimum(counts, 1) if total >= np.count_nonzero(counts) else np.zeros_like(counts)
    return _reduced(
        split,
        sample_strata(strata, allocate(total, counts, least, counts), seed),
        f"{split.labels.sampling}, seed {seed}",
        notes,
    )


def _strata(split: LabelledSplit) -> tuple[IntArray, IntArray]:
    """The stratum of each row in use, and the strata's sizes."""
    strata, width = split.labels.strata()
    return strata[split.used], np.bincount(strata[split.used], minlength=width)


def _reduced(split: LabelledSplit, positions: IntArray, how: str, notes: list[str]) -> LabelledSplit:
    notes.append(f"{split.role}: {len(positions):,} of {len(split.used):,} examples, {how}.")
    return dataclasses.replace(split, used=split.used[positions])


def _hold_out(train: LabelledSplit, fraction: float, seed: int, notes: list[str]) -> dict[str, LabelledSplit]:
    """LabelledSplit train into train and validation; the last example of a class always stays in train."""
    strata, counts = _strata(train)
    sizes = allocate(max(1, round(fraction * len(strata))), counts, np.zeros_like(counts), np.maximum(counts - 1, 0))
    if sizes.sum() == 0:
        raise UserError(
            f"train has {counted(len(strata), 'example')}, one of each class at most, so none can be held out for "
            "validation. Give a validation split or more examples."
        )
    equal = equal_inputs(train.inputs, train.used)
    positions = sample_strata(strata, sizes, seed, equal)
    together = " Duplicates stay on the same side." if len(np.unique(equal)) < len(equal) else ""
    if len(positions) == 0:  # whole groups of duplicates are too large; what both sides share is reported later
        positions, together = sample_strata(strata, sizes, seed), ""
    held = train.used[positions]
    sampled = f"{train.labels.sampling}, seed {seed}"
    notes.append(f"validation: {len(held):,} of train's {len(strata):,} examples, {sampled}.{together}")
    return {
        "train": dataclasses.replace(train, used=np.setdiff1d(train.used, held)),
        "validation": dataclasses.replace(train, role="validation", used=held),
    }


def _per_class(split: LabelledSplit, each: int | None, seed: int, notes: list[str]) -> LabelledSplit:
    """`each` examples of every class; a class of train with fewer is an error, one of validation leaves a note."""
    if each is None:
        return split
    assert isinstance(split.labels, NamedLabels)  # targets without classes refuse the option
    few = {name: count for name, count in split.labels.label_counts(split.used).items() if count < each}
    listed = shorten((f"{name} has {count:,}" for name, count in few.items()), 10)
    if few and split.role == "train":
        raise UserError(
            f"examples_per_class {each:,} is more than {split.role} has: {listed} left for training. Set at most "
            f"--examples_per_class {min(few.values())}, or add examples of these classes."
        )
    if few:
        notes.append(f"{split.role}: fewer than the {each:,} requested examples per class: {listed}; all are used.")
    strata, counts = _strata(split)
    sizes = np.append(np.minimum(counts[:-1], each), 0)
    return _reduced(split, sample_strata(strata, sizes, seed), f"{each:,} of each class, seed {seed}", notes)
