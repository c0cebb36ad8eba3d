"""What the head reads beside what the layers offer: where a frozen model's head reads a state that was never trained.

A sentence encoder is trained for the mean over its tokens, while `BertForSequenceClassification` reads the pooler of
the first one: with MiniLM on 300 questions of six classes a linear probe scores 0.44 there (mean of 3 draws), and 0.85
on the mean of the tokens a block below. A head on frozen layers cannot make up for that, and its score alone does not
show it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_ft.errors import UserError
from hf_ft.heads import MAX_CLASSES, HiddenStateReader, fit_layer_probes, sample_rows
from hf_ft.models import CannotSplit, scale_of

if TYPE_CHECKING:
    from hf_ft.training import Run

MOST, LEAST, SECONDS = 500, 100, 20.0
"""Examples of train and of validation that are looked at: fewer where they take longer, as large photos do."""
BOUNDARIES = 9
"""Most boundaries that are probed; in deeper models they are spread evenly."""
PENALTIES, TOLERANCE = (1.0, 0.1, 0.01), 1e-3
"""Of the probes, which are to tell much from little, and are cheap so."""
LEAST_BLOCKS = 2
"""Blocks that the remedy trains at least.

With MiniLM on those questions `last_n:1` scores 0.74 and `last_n:2` 0.91 (seed 0): one block hardly moves what stands
at the other tokens to the one that is read.
"""


def compare_head_input(run: Run) -> dict[str, Any] | None:
    """The scores of linear probes on validation: on what the head reads, and on the mean state at each boundary.

    None where the question does not arise: blocks that train can bring to the head what it needs. `reads_less` says
    whether the head reads less than the best layer offers, beyond noise; then `suggested_method` is the method that
    trains what lies between, and `difference` the 95 % interval of the difference, widened for the number of layers
    that are compared.
    """
    target, splits = run.splits.target, run.splits
    blocks = [setting for group, setting in run.plan.combined() if group.role == "block"]
    trained = not all(setting.frozen for setting in blocks)
    if trained or not blocks or run.task.gather is not None or run.learning.loss is None or run.args.world_size > 1:
        return None
    if len(splits.labels) > MAX_CLASSES:
        return None
    # A head that was kept would be changed by `learning` of a regression, as for a training that is to come.
    config = dataclasses.replace(run.config, augment="none", keep_head=False)
    reader = HiddenStateReader(
        run.model,
        run.groups,
        lambda rows: run.task.encode(rows, run.processor, config, False),
        run.task.collator(run.processor),
        run.args.device,
        head=True,
    )
    started = time.perf_counter()
    rows = [sample_rows(part, _most(run), run.args.seed) for part in (splits.train, splits.validation)]
    try:
        every = list(zip(*(reader.states(part) for part in rows), strict=True))
        places = sorted({round(place) for place in np.linspace(0, len(blocks), min(BOUNDARIES, len(blocks) + 1))})
        loss = target.learning(scale_of(run.model), rows[0], splits.labels, config, run.args).loss
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


def _most(run: Run) -> int:
    """How many examples of a split to look at, by what the features of one took."""
    facts = run.stages[-1].cache
    if not facts:
        return LEAST
    return max(LEAST, min(MOST, int(SECONDS / max(facts["build_seconds"] / facts["examples"], 1e-6))))


def _judged(scores: NDArray[np.float64], draws: NDArray[np.float64], places: Sequence[int]) -> dict[str, Any]:
    """Whether the last of some scores, that of the head, is below the best of the others; higher is better.

    `places` are the numbers of blocks below each layer. `best_boundary` is the layer of the best score; the remedy
    trains from the highest layer on that is within its noise.
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
