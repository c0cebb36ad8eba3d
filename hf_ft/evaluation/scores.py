"""Scores with intervals on validation and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from hf_ft.environment import phase, training_memory
from hf_ft.evaluation.calibration import Calibrated, calibrate
from hf_ft.evaluation.card_examples import choose_examples
from hf_ft.evaluation.head_input import compare_head_input
from hf_ft.evaluation.load_back import start_prover
from hf_ft.evaluation.outputs import predict_trained
from hf_ft.evaluation.plain_process import PlainProcess
from hf_ft.feature_cache import make_tuner
from hf_ft.metrics import ClassScore, Score
from hf_ft.records import AutotuneRecord, ExamplesRecord
from hf_ft.tasks import BoolArray, Target

if TYPE_CHECKING:
    from hf_ft.autotune import Autotuner
    from hf_ft.training import Run


@dataclass
class Results:
    """Scores by split: `metrics[split][name]`, those that need no model beside them, and what figures are drawn from.

    `threshold` is the probability above which a label counts as predicted (several labels per example), fitted on
    validation; `confusion[split]` lists true class, predicted class and how often that was. `without_copies[split]` are
    the scores on the examples that do not stand in train as well, for splits that have others. `head_input` is that of
    `compare_head_input`. `custom[split]` holds the metrics that the caller brought. `by_class[split]` are the scores of
    each class, `undefined[split]` the metrics that its labels do not define, with the reason, and `rare_class` the
    scores with a threshold for the rarer of two classes. `autotune` is how the predictions ran where that was tried,
    `examples` those that the user allowed to be shown. `calibration` is what `--calibrate` did: it is in the weights
    before anything is scored. `prover` is the process that will prove that the saved model loads back: it starts while
    scores are computed.
    """

    metrics: dict[str, dict[str, Score]]
    baseline: dict[str, dict[str, float]]
    threshold: float | None = None
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    without_copies: dict[str, dict[str, Score]] = field(default_factory=dict)
    head_input: dict[str, Any] | None = None
    custom: dict[str, dict[str, float]] = field(default_factory=dict)
    by_class: dict[str, list[ClassScore]] = field(default_factory=dict)
    undefined: dict[str, dict[str, str]] = field(default_factory=dict)
    rare_class: RareClass | None = None
    autotune: list[AutotuneRecord] = field(default_factory=list)
    calibration: Calibrated | None = None
    examples: ExamplesRecord | None = None
    prover: PlainProcess | None = field(default=None, repr=False, compare=False)


@dataclass
class RareClass:
    """The scores of predictions by a threshold for the rarer of two classes, as in `ThresholdRecord`."""

    label: str
    value: float
    fitted: bool
    metrics: dict[str, dict[str, Score]] = field(default_factory=dict)
    by_class: dict[str, list[ClassScore]] = field(default_factory=dict)


def score(run: Run, prover: PlainProcess | None = None) -> Results:
    """Score a trained model on validation and on test, with 95 % intervals and a baseline that needs no model.

    A threshold for several labels per example, or for the rarer of two classes, is fitted on validation alone. Where
    all blocks were frozen, what the head reads is compared with what the layers offer. The process of the load-back
    proof starts here unless it has been started ahead, and imports what it needs meanwhile.

    Args:
        run: The finished training.
        prover: The process of the load-back proof, if it has been started ahead.
    """
    results = Results({}, {})
    if run.config.load_back_proof and run.args.should_save:
        results.prover = start_prover(run.model, prover)
    with training_memory():
        with phase("head input"):
            results.head_input = compare_head_input(run)
        repeated = None if run.forms is None else {"prediction": {}, **run.forms.get("", {})}
        tuner = make_tuner(run.config, run.args, repeated)
        if run.config.calibrate:
            with phase("calibration"):
                results.calibration = calibrate(run, tuner)
        with phase("scores"):
            _score_splits(run, results, tuner)
    return results


def _score_splits(run: Run, results: Results, tuner: Autotuner | None) -> None:
    """Add the scores on validation and test."""
    splits = run.splits
    for name, split in (("validation", splits.validation), ("test", splits.test)):
        if split is None:
            continue
        found: dict[str, float] = {}
        own = run.extensions.metrics(splits.target, splits.labels)
        hook = _collected(own, found) if own else None
        outputs = predict_trained(run, split, hook, tuner)
        if own:
            results.custom[name] = found
        if name == "validation":
            _fit_threshold(run, results, outputs)
        if results.calibration is not None:
            results.calibration.measure(name, outputs, split["labels"][:])
        add_scores(results, name, outputs, split, splits.target, splits.labels)
        copied = splits.duplicates.in_train.get(name)
        if copied is not None and not copied.all():
            results.without_copies[name] = score_without(
                copied, outputs, split, splits.target, splits.labels, results.threshold
            )
        results.baseline[name] = splits.target.baseline(splits.train, split, splits.labels)
        if run.config.card_examples:  # of the last split
            results.examples = choose_examples(run, name, split, outputs, results.threshold)
    results.autotune = tuner.choices if tuner else []


def _fit_threshold(run: Run, results: Results, outputs: Any) -> None:
    """Add the threshold for several labels per example, or for the rarer of two classes; `outputs` are of validation.

    A calibration has moved it: to 0.5 for several labels, and the rarer of two classes needs none.
    """
    if results.calibration is not None:
        moved = results.calibration.found.threshold is not None
        results.threshold = 0.5 if moved and results.calibration.record.label is None else None
        return
    results.threshold = run.splits.target.fit(outputs, run.splits.validation["labels"][:], run.config.threshold)
    results.rare_class = _rare_class(run, outputs)


def _rare_class(run: Run, outputs: Any) -> RareClass | None:
    """The threshold for the rarer of two classes, fitted on validation and still without scores; None if none is set.

    `outputs` are those of validation.
    """
    splits, chosen = run.splits, run.config.threshold
    rarer = splits.target.rarer_class(splits.train, splits.labels)
    if chosen is None or rarer is None:
        return None
    deciding = splits.target.deciding(rarer, splits.labels)
    value = deciding.fit(outputs, splits.validation["labels"][:], chosen)
    return None if value is None else RareClass(rarer, value, fitted=not isinstance(chosen, float))


def _collected(compute: Callable[[Any], Mapping[str, float]], found: dict[str, float]) -> Callable[[Any], Any]:
    """The caller's metrics for `Trainer`, which also go into `found`."""

    def compute_metrics(prediction: Any) -> dict[str, float]:
        found.update(compute(prediction))
        return dict(found)

    return compute_metrics


def score_without(
    copied: BoolArray, outputs: Any, split: Dataset, target: Target, labels: Sequence[str], threshold: float | None
) -> dict[str, Score]:
    """Score the examples that are not `copied`, of which there must be some."""
    fresh, references = np.flatnonzero(~copied), split["labels"][:]
    return target.score([outputs[i] for i in fresh], [references[i] for i in fresh], labels, threshold)


def add_scores(
    results: Results, name: str, outputs: Any, split: Dataset, target: Target, labels: Sequence[str]
) -> None:
    """Score one split and add it to `results`."""
    references = split["labels"][:]
    results.metrics[name] = target.score(outputs, references, labels, results.threshold)
    results.undefined[name] = target.undefined(references, labels, by_data=True)
    if (by_class := target.by_class(outputs, references, labels, results.threshold)) is not None:
        results.by_class[name] = by_class
    if (rare := results.rare_class) is not None:
        deciding = target.deciding(rare.label, labels)
        rare.metrics[name] = deciding.score(outputs, references, labels, rare.value)
        rare.by_class[name] = deciding.by_class(outputs, references, labels, rare.value) or []
    confusion = target.confusion(outputs, references)
    if confusion is not None:
        results.confusion[name] = confusion
