"""Layer probes beside the input of the head of a frozen model, which may be a state that was never trained.

A sentence encoder is trained with the mean over its tokens, while `BertForSequenceClassification` reads the pooler of
the first token. With MiniLM on 300 questions of six classes a linear probe scores 0.44 there (mean of 3 samples), and
0.85 on the mean over tokens one block below. A head on frozen layers cannot recover that information, and its score
alone does not show the problem.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from hf_ft.errors import UserError
from hf_ft.feature_cache import CachedStage
from hf_ft.heads import PROBED, SAMPLE_SEED, HiddenStateReader, fit_layer_probes, sample_rows
from hf_ft.models import CannotSplit, HeadSplit, scale_of

if TYPE_CHECKING:
    from hf_ft.training import Run

LEAST, SECONDS = 100, 20.0
"""Least number of examples per split, and the target in seconds: slow inputs such as photos get fewer in a pass of
their own."""
BOUNDARIES = 9
"""Maximum number of boundaries to probe, evenly spread in deeper models."""
PENALTIES, TOLERANCE = (1.0, 0.1, 0.01), 1e-3
"""Penalties and tolerance of the probes: strong penalties for few examples, and a loose tolerance for speed."""
LEAST_BLOCKS = 2
"""Minimum number of blocks in a suggested `last_n`.

With MiniLM on these questions `last_n:1` scores 0.74 and `last_n:2` 0.91 (seed 0): one block is not enough to move
information from the other tokens to the one that the head reads.
"""


def compare_head_input(run: Run) -> dict[str, Any] | None:
    """Compare linear probes on validation: on the input of the head, and on the mean state at each boundary.

    Returns:
        The entries of `HeadInputRecord`; None if a block trains, because that block can supply what the head lacks, or
        if the probes do not apply. `reads_less` is whether the probe on the head's input is significantly worse than
        the best layer probe, `difference` the 95 % interval of the difference, widened for the number of layers
        compared, and `suggested_method` the method that trains the blocks in between.
    """
    if not run.probes_layers:
        return None
    target, splits = run.splits.target, run.splits
    # With `keep_head`, `learning` of a regression would change the head to prepare it for training.
    config = dataclasses.replace(run.config, augment="none", keep_head=False, long_text="truncate")
    started = time.perf_counter()
    try:
        rows, every = _states(run, config)
        blocks = len(every) - 2
        places = sorted({round(place) for place in np.linspace(0, blocks, min(BOUNDARIES, blocks + 1))})
        loss = target.learning(scale_of(run.model), rows[0], splits.labels, config, run.args).of_fixed_features
        if loss is None:
            return None
        pairs = [every[place] for place in (*places, -1)]
        outputs = [fit_layer_probes(both, rows, len(splits.labels), loss, PENALTIES, TOLERANCE) for both in pairs]
    except (CannotSplit, UserError):
        return None
    references = rows[1]["labels"][:]
    scores, draws = [], []
    for found in outputs:
        threshold = target.fit(found, references)
        scores.append(float(target.score(found, references, splits.labels, threshold)[run.shown].value))
        draws.append(target.bootstrap(found, references, splits.labels, run.shown, threshold))
    sign = 1 if target.higher_is_better(run.shown) else -1
    return {
        **_judged(sign * np.array(scores), sign * np.stack(draws), places),
        "metric": run.shown,
        "head_score": scores[-1],
        "boundaries": places,
        "boundary_scores": scores[:-1],
        "examples": [len(part) for part in rows],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _states(run: Run, config: Any) -> tuple[list[Dataset], list[tuple[torch.Tensor, ...]]]:
    """Samples of the training and the validation split, and their states at each boundary and at the head's input.

    Taken from the cache, or from a pass of their own.

    Returns:
        The samples; for each boundary, and last for the head, the states of both, `(examples, width)`.

    Raises:
        CannotSplit: The model has no such states.
    """
    parts = run.splits.train, run.splits.validation
    rows = [sample_rows(part, PROBED, SAMPLE_SEED) for part in parts]
    encoded = [run.task.encode(part, run.processor, config, False) for part in rows]
    cached = [_cached_states(run.cached, part) for part in encoded] if run.cached else []
    if cached and None not in cached:
        return rows, list(zip(*(states for states in cached if states is not None), strict=True))
    size = _sample_size(run)
    if size < PROBED:
        rows = [sample_rows(part, size, SAMPLE_SEED) for part in parts]
    reader = HiddenStateReader(
        run.model,
        run.groups,
        lambda part: run.task.encode(part, run.processor, config, False),
        run.task.collator(run.processor),
        run.args.device,
        head=True,
    )
    states = [reader.states(part) for part in rows]
    if run.cached and size >= PROBED:
        for part, found in zip(encoded, states, strict=True):
            run.cached.keep_summaries(part, found[:-1])
    return rows, list(zip(*states, strict=True))


def _cached_states(cached: CachedStage, encoded: Dataset) -> list[torch.Tensor] | None:
    """The states of encoded rows from the cache: those of the boundaries, and the features, where the head reads them.

    None if they are not there, or if the features are not one vector for each example.
    """
    layouts = cached.split.layouts
    if cached.split.name != HeadSplit.name or len(layouts) != 1 or layouts[0].ragged:
        return None
    if math.prod(layouts[0].shape) != layouts[0].shape[0]:  # maps of one position, as ResNet's head reads, are vectors
        return None
    states = cached.summaries_of(encoded)
    features = cached.rows_of(encoded) if states else None
    if states is None or features is None:
        return None
    return [*states, *(read.flatten(1) for read in features.features.take(range(len(encoded))))]


def _sample_size(run: Run) -> int:
    """Return how many examples of a split to probe in a pass, from the time that the features of one took."""
    facts = run.stages[-1].cache
    if not facts:
        return LEAST
    return max(LEAST, min(PROBED, int(SECONDS / max(facts["build_seconds"] / facts["examples"], 1e-6))))


def _judged(scores: NDArray[np.float64], draws: NDArray[np.float64], places: Sequence[int]) -> dict[str, Any]:
    """Compare the score of the head's input with the best boundary; higher is better.

    The suggested method trains all blocks above the deepest boundary that is indistinguishable from the best.

    Args:
        scores: Of each boundary, and last of the head's input, `(boundaries + 1,)`.
        draws: The same scores on the same resampled examples, `(boundaries + 1, resamples)`.
        places: The number of blocks below each boundary.
    """
    layers, blocks = len(places), places[-1]
    best = int(scores[:-1].argmax())
    tail = 0.025 / layers
    gap = np.quantile(draws[best] - draws[-1], (tail, 1 - tail))
    same = [place for i, place in enumerate(places) if np.quantile(draws[best] - draws[i], tail) <= 0]
    trains = max(LEAST_BLOCKS, blocks - max(same))
    return {
        "reads_less": bool(gap[0] > 0),
        "best_boundary": places[best],
        "difference": [float(gap[0]), float(gap[1])],
        "suggested_method": "full" if trains >= blocks else f"last_n:{trains}",
    }
