"""One candidate among source models: the features that its head would read, how well they fit, and what it costs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, TrainingArguments

from hf_ft.data import Splits
from hf_ft.errors import UserError
from hf_ft.feature_cache import CachedRows, CacheRequest, NotCached, make_tuner, open_cache
from hf_ft.heads import constant_score, transferability_scores
from hf_ft.methods import MethodSpec, plan_method
from hf_ft.modalities import check_tokens
from hf_ft.models import check_supports_task, evaluating, find_config, load_model
from hf_ft.records import CandidateScores
from hf_ft.settings import Config
from hf_ft.tasks import get_task

BEFORE_THE_HEAD = "before the head"
CHUNK = 1024
"""Rows that are read at once."""
WORDS = 5000
"""Most words of token classification that are scored, in whole sentences."""
TIMED, ROUNDS, WARM_UP = 8, 7, 2
"""Examples of the batch that is timed, how often it runs, and how often before."""

Groups = NDArray[np.int64] | None


def score_candidate(config: Config, args: TrainingArguments, splits: Splits) -> CandidateScores:
    """Return the scores of one model on train, read from the feature cache, and its time and size.

    Features are what enters the head that method `head` would train, computed once per example without augmentation.
    Validation and test are not read.

    Raises:
        UserError: the model cannot be loaded, is of another kind, or cannot be split before its head; or its features
            are not finite.
    """
    started = time.perf_counter()
    task = get_task(config.task)
    config = dataclasses.replace(
        config,
        method=MethodSpec("head"),
        plan=None,
        augment="none",
        cache="auto",
        keep_head=False,
        long_text="truncate",
    )
    check_supports_task(find_config(config.model, config.model_revision, config.trust_remote_code), task, config.model)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
    rows = task.encode(splits.train, processor, config, False)
    check_tokens(rows, processor, config.model)
    stage = plan_method("head", loaded.groups, 1, 1.0).stages[0]
    # Two passes, since a cache that is read once would not be built.
    collator = task.collator(processor)
    job = CacheRequest(
        *(model, loaded.groups, stage, (rows,), processor, collator, config, None, args, 2, 0),
        encode=task.encode,
        tuner=make_tuner(config, args),
    )
    try:
        cached = open_cache(job)
    except NotCached as reason:
        raise UserError(f"its features cannot be cached: {reason}") from reason
    if cached.split.name != BEFORE_THE_HEAD or len(cached.split.layouts) != 1:
        raise UserError(f"it cannot be split before its head ({'; '.join(cached.split.notes) or cached.split.name})")
    features, labels, groups = read_features(cached.train, args.seed)
    if not np.isfinite(features).all():
        raise UserError("its features are not all finite: it overflows on these inputs")
    metric = metric_of(labels, groups)
    parameters = list(model.parameters())
    return CandidateScores(
        scores=transferability_scores(features, labels, metric, groups, args.seed),
        metric=metric,
        baseline=constant_score(labels, metric),
        features=features.shape[1],
        examples=len(features),
        parameters=sum(value.numel() for value in parameters),
        bytes=sum(value.numel() * value.element_size() for value in parameters),
        ms_per_example=milliseconds(model, job),
        seconds=round(time.perf_counter() - started, 1),
    )


def metric_of(labels: NDArray[Any], groups: Groups) -> str:
    """What k-NN and probe are scored by: macro F1 for tags, of which one is everywhere, else by the kind of labels."""
    if groups is not None:
        return "f1_macro"
    return "map" if labels.ndim == 2 else "accuracy" if np.issubdtype(labels.dtype, np.integer) else "r2"


def read_features(rows: CachedRows, seed: int) -> tuple[NDArray[np.float32], NDArray[Any], Groups]:
    """Features `(n, d)`, labels `(n,)` or `(n, labels)`, and, where words are labelled, the sentence of each.

    Where the head reads the states of all tokens and answers once, their mean is taken.
    """
    cells = rows.rows["labels"][:]
    if rows.features.lengths is None:
        found = [flat.numpy() for flat in _by_chunk(rows, lambda value, lengths: value.flatten(1))]
        return np.concatenate(found), np.asarray(cells), None
    if not isinstance(cells[0], list) or isinstance(cells[0][0], float):
        found = [flat.numpy() for flat in _by_chunk(rows, _mean)]
        return np.concatenate(found), np.asarray(cells), None
    return _words(rows, cells, seed)


def _by_chunk(rows: CachedRows, pool: Callable[[torch.Tensor, Any], torch.Tensor]) -> list[torch.Tensor]:
    found = []
    for begin in range(0, len(rows), CHUNK):
        part = np.arange(begin, min(begin + CHUNK, len(rows)))
        lengths = None if rows.features.lengths is None else rows.features.lengths[part]
        found.append(pool(rows.features.take(part)[0].float(), lengths))
    return found


def _mean(states: torch.Tensor, lengths: Any) -> torch.Tensor:
    return torch.stack([one.mean(0).flatten() for one in states.split(lengths.tolist())])


def _words(rows: CachedRows, cells: list[list[int]], seed: int) -> tuple[NDArray[np.float32], NDArray[Any], Groups]:
    """The first sub-tokens of words, which carry the tags, of sentences in random order."""
    features, labels, groups, count = [], [], [], 0
    for row in np.random.default_rng(seed).permutation(len(rows)):
        tags = np.asarray(cells[row])
        states = rows.features.take([row])[0].float().flatten(1).numpy()[tags >= 0]
        features.append(states)
        labels.append(tags[tags >= 0])
        groups.append(np.full(len(states), row))
        count += len(states)
        if count >= WORDS:
            break
    return np.concatenate(features), np.concatenate(labels), np.concatenate(groups)


def milliseconds(model: PreTrainedModel, job: CacheRequest) -> float:
    """Milliseconds per example of a forward pass of the whole model: the quickest of several, on the same few examples.

    They are spread evenly over train. Reading and preparing them is not part of it, and no cache is.
    """
    count = min(TIMED, len(job.datasets[0]))
    places = np.linspace(0, len(job.datasets[0]) - 1, count).astype(int).tolist()
    columns = job.datasets[0][places]
    batch = job.collate([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    best = math.inf
    with torch.no_grad(), evaluating(model):
        for number in range(WARM_UP + ROUNDS):
            _wait(job.args.device)
            started = time.perf_counter()
            model(**batch)
            _wait(job.args.device)
            if number >= WARM_UP:
                best = min(best, time.perf_counter() - started)
    return 1000 * best / count


def _wait(device: torch.device) -> None:
    """Wait until the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
