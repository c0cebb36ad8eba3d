"""Classification metrics, each with its direction and a bootstrap interval.

`METRICS` lists them all. An entry defines what a metric reads, its direction, its value (by scikit-learn) and how it is
resampled (by counting, so that a thousand resamples take less than a second).

- `score` returns values with intervals, for reports; `bootstrap` returns the resampled values behind them.
- `compute_metrics` returns values only, for `Trainer`; `evaluate_metrics` exports entries as `evaluate.Metric`s.
- `fit_threshold` is needed for multi-label scores, `majority_baseline` to interpret any accuracy.
- `undefined` says which metrics a split does not define; they are left out everywhere, never NaN.

Macro averages are over the classes that occur in the references or in the predictions, so that a validation split may
lack a class.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hf_ft.errors import UserError, choose
from hf_ft.metrics import by_rank
from hf_ft.metrics.bootstrap import Floats, Score, Statistic, even_size, intervals, resample
from hf_ft.metrics.counts import Counts, grouping

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from transformers import EvalPrediction

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"

Array: TypeAlias = npt.NDArray[Any]
ECE_BINS = 15


@dataclass(frozen=True)
class MetricSpec:
    """One metric of one problem type.

    Args:
        name: The name of the metric.
        problem_type: `SINGLE_LABEL` or `MULTI_LABEL`.
        higher_is_better: The direction.
        description: One sentence for users.
        reads: Whether `value` takes predicted labels, or logits `(examples, classes)`.
        value: A function of references and predictions.
        resample: Computes everything that does not depend on the weights, and returns the function of the weights.
        size: For metrics between 0 and 1, the number of examples that the value averages.
        share: Whether the value is a proportion of all examples.
        undefined: Says why these references do not define the metric; empty if they do.
    """

    name: str
    problem_type: str
    higher_is_better: bool
    description: str
    reads: Literal["labels", "logits"]
    value: Callable[[Array, Array], float]
    resample: Callable[[_Split], Statistic]
    size: Callable[[_Split], float] | None = None
    share: bool = False
    undefined: Callable[[Array, int], str] = lambda references, classes: ""


ONE_CLASS = "all examples have the same class"
"""Why chance-corrected and ranking metrics are undefined on a split; it concerns the data and is reported."""
TOP = 5


# ---------------------------------------------------------------------------------------------------------
# One split: validated logits and references, and the predicted labels.


@dataclass(frozen=True)
class _Split:
    """Logits `(examples, classes)`, references and predictions; the latter two are class ids, or rows of 0 and 1."""

    logits: Floats
    references: Array
    predicted: Array

    def read(self, spec: MetricSpec) -> Array:
        """Return the second argument of `spec.value`."""
        return self.predicted if spec.reads == "labels" else self.logits

    @functools.cached_property
    def members(self) -> tuple[csr_array, csr_array, csr_array]:
        """Membership of examples in classes: right, predicted and actual, each `(classes, examples)`."""
        from scipy.sparse import csr_array

        if self.references.ndim == 2:
            actual, predicted = self.references == 1, self.predicted == 1
            every = (csr_array(rows.T).astype(np.float64) for rows in (actual & predicted, predicted, actual))
            right, predicted, actual = every
        else:
            classes = self.logits.shape[1]
            hits = np.where(self.predicted == self.references, self.references, classes)
            right, predicted, actual = (grouping(ids, classes) for ids in (hits, self.predicted, self.references))
        return right, predicted, actual


def _split(logits: npt.ArrayLike, references: npt.ArrayLike, problem_type: str, threshold: float) -> _Split:
    """Validate both arrays and compute the predicted labels: argmax, or probability at or above `threshold`."""
    choose(problem_type, METRICS, "problem type")
    if not 0 <= threshold <= 1:
        raise UserError(f"The threshold is a probability and must lie between 0 and 1, not {threshold}.")
    logits = _checked_logits(logits)
    references = _checked_references(references, logits.shape, problem_type)
    if problem_type == SINGLE_LABEL:
        return _Split(logits, references, logits.argmax(axis=1))
    return _Split(logits, references, (label_probabilities(logits) >= threshold).astype(np.int64))


def checked_split(logits: npt.ArrayLike, references: npt.ArrayLike, problem_type: str) -> tuple[Floats, Array]:
    """Return logits `(examples, classes)` and references as `score` takes them, validated.

    Raises:
        UserError: Logits are NaN or infinite.
        ValueError: Shapes do not match, or references are invalid.
    """
    checked = _checked_logits(logits)
    return checked, _checked_references(references, checked.shape, problem_type)


def _checked_logits(logits: npt.ArrayLike) -> Floats:
    checked = np.asarray(logits, dtype=np.float64)
    if checked.ndim != 2 or 0 in checked.shape:
        raise ValueError(f"Logits must have the shape (examples, classes), neither 0, not {checked.shape}.")
    broken = ~np.isfinite(checked).all(axis=1)
    if broken.any():
        raise UserError(
            f"The logits of {broken.sum()} of {len(checked)} examples are NaN or infinite (first: example "
            f"{broken.argmax()}), so no metric means anything. If training diverged, lower the learning rate."
        )
    return checked


def _checked_references(references: npt.ArrayLike, shape: tuple[int, ...], problem_type: str) -> Array:
    """Return references as integers: class ids `(examples,)`, or 0 and 1 of `shape` = `(examples, classes)`."""
    checked = np.asarray(references)
    wanted = shape[:1] if problem_type == SINGLE_LABEL else shape
    if checked.shape != wanted:
        raise ValueError(f"References of {problem_type} must have the shape {wanted}, not {checked.shape}.")
    if problem_type == MULTI_LABEL:
        if not np.isin(checked, (0, 1)).all():
            raise ValueError(f"Multi-label references must be 0 or 1, not {_strangers(checked, (0, 1))}.")
    elif not np.issubdtype(checked.dtype, np.integer):
        raise ValueError(f"Single-label references must be integer class ids, not {checked.dtype}.")
    elif not np.isin(checked, range(shape[1])).all():
        strangers = _strangers(checked, range(shape[1]))
        raise ValueError(f"Class ids must lie between 0 and {shape[1] - 1}, not {strangers}.")
    return checked.astype(np.int64)


def _strangers(values: Array, allowed: npt.ArrayLike) -> str:
    return ", ".join(str(value) for value in np.setdiff1d(values, allowed)[:5])


def class_probabilities(logits: Floats) -> Floats:
    """Return the softmax probabilities of the classes, `(examples, classes)`."""
    from scipy.special import softmax

    probabilities: Floats = softmax(logits, axis=1)
    return probabilities


def label_probabilities(logits: Floats) -> Floats:
    """Return the independent (sigmoid) probability of each class, `(examples, classes)`."""
    from scipy.special import expit

    probabilities: Floats = expit(logits)
    return probabilities


# ---------------------------------------------------------------------------------------------------------
# Values.


def _by_sklearn(function: str, **options: Any) -> Callable[[Array, Array], float]:
    """Return the scikit-learn metric called `function` as a `MetricSpec.value` that reads labels."""

    def value(references: Array, predicted: Array) -> float:
        from sklearn import metrics

        if references.ndim == 2 and references.shape[1] == 1:
            # scikit-learn treats one column as a binary problem and scores the negatives as a second class. An empty
            # second column keeps it a multi-label problem and does not affect the value.
            references, predicted = (np.pad(rows, ((0, 0), (0, 1))) for rows in (references, predicted))
        with warnings.catch_warnings():
            # scikit-learn 1.7 warns of a possible regression problem with few examples per class; 1.8 does not.
            warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
            return float(getattr(metrics, function)(references, predicted, **options))

    return value


def _or_zero(value: Callable[[Array, Array], float]) -> Callable[[Array, Array], float]:
    """Return `value` with NaN, which scikit-learn returns for an empty mean, replaced by 0."""
    return lambda references, predicted: float(np.nan_to_num(value(references, predicted)))


def _log_loss_single(references: Array, logits: Array) -> float:
    # scikit-learn's `log_loss` builds a table of examples and classes, which takes seconds for thousands of each.
    return float(negative_log(class_probabilities(logits)[np.arange(len(logits)), references]).mean())


def _log_loss_multi(references: Array, logits: Array) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(references.ravel(), label_probabilities(logits).ravel(), labels=[0, 1]))


def _ece(references: Array, logits: Array) -> float:
    bins, gaps = _calibration_gaps(references, logits)
    return float(np.abs(np.bincount(bins, weights=gaps)).sum() / len(gaps))


def _calibration_gaps(references: Array, logits: Array) -> tuple[Array, Floats]:
    """Return the confidence bin of each example, and its gap: correctness (1 or 0) minus confidence.

    |accuracy - confidence| of a bin times its share of the examples equals |sum of its gaps| / examples, so ECE needs
    no averages per bin. Bins are open below and closed above, as in the paper.
    """
    confidence = class_probabilities(logits).max(axis=1)
    bins = np.ceil(confidence * ECE_BINS).astype(np.int64) - 1
    return bins, (logits.argmax(axis=1) == references) - confidence


def _mean_average_precision(references: Array, logits: Array) -> float:
    from sklearn.metrics import average_precision_score

    classes = np.flatnonzero(references.any(axis=0))
    precisions = [average_precision_score(references[:, k], logits[:, k]) for k in classes]
    return float(np.mean(precisions)) if precisions else 0.0


def _members(references: Array, classes: int) -> Array:
    """Return whether each example has each class, `(examples, classes)`."""
    return references == 1 if references.ndim == 2 else references[:, None] == np.arange(classes)


def _ranked(of_class: Callable[..., by_rank.Ranking]) -> Callable[[Array, Array], by_rank.Ranking]:
    """Return a metric of `by_rank`, averaged over classes, as a function of references and logits."""

    def ranked(references: Array, logits: Array) -> by_rank.Ranking:
        scores = label_probabilities(logits) if references.ndim == 2 else class_probabilities(logits)
        return by_rank.macro(of_class, scores, _members(references, logits.shape[1]))

    return ranked


_roc_auc, _average_precision = _ranked(by_rank.area_under_roc), _ranked(by_rank.precision_over_recall)


def _first_value(ranked: Callable[[Array, Array], by_rank.Ranking]) -> Callable[[Array, Array], float]:
    return lambda references, logits: ranked(references, logits)[0]


def _resample_ranked(ranked: Callable[[Array, Array], by_rank.Ranking]) -> Callable[[_Split], Statistic]:
    return lambda split: by_rank.first_order(ranked(split.references, split.logits))


def _in_top(references: Array, logits: Array) -> Array:
    """Return whether the right class is among the five most probable; of equal logits the later class comes first."""
    right = logits[np.arange(len(logits)), references][:, None]
    later = np.arange(logits.shape[1]) > references[:, None]
    ahead: Array = ((logits > right) | ((logits == right) & later)).sum(axis=1) < TOP
    return ahead


# ---------------------------------------------------------------------------------------------------------
# Where a metric is undefined.


def _one_class(references: Array, classes: int) -> str:
    """Return why a metric that needs two classes, or a label that some and not all have, is undefined."""
    if references.ndim == 2:
        return "" if (references.any(axis=0) & ~references.all(axis=0)).any() else "no label divides the examples"
    return "" if np.ptp(references) > 0 else ONE_CLASS


def _unranked(references: Array, classes: int) -> str:
    """Return why a ranking metric is undefined."""
    many = f"it is left out for more than {by_rank.MOST_CLASSES} classes"
    return many if classes > by_rank.MOST_CLASSES else _one_class(references, classes)


def _few_classes(references: Array, classes: int) -> str:
    return "" if classes > TOP else f"it needs more than {TOP} classes"


# ---------------------------------------------------------------------------------------------------------
# Resampling: every metric as a function of weighted sums over examples.


def _averaging(per_example: Callable[[_Split], Array]) -> Callable[[_Split], Statistic]:
    """Return the `resample` of a metric that is a mean over examples."""

    def resample(split: _Split) -> Statistic:
        values = per_example(split).astype(np.float64)
        return lambda weights: values @ weights / len(values)

    return resample


def _counting(formula: Callable[[Counts], Floats]) -> Callable[[_Split], Statistic]:
    """Return the `resample` of a metric that is a formula of counts by class."""

    def resample(split: _Split) -> Statistic:
        return lambda weights: formula(Counts(*(members @ weights for members in split.members)))

    return resample


def _resample_ece(split: _Split) -> Statistic:
    bins, gaps = _calibration_gaps(split.references, split.logits)
    by_bin = grouping(bins, ECE_BINS, gaps)
    return lambda weights: np.abs(by_bin @ weights).sum(axis=0) / len(gaps)


def _losses_single(split: _Split) -> Floats:
    return negative_log(class_probabilities(split.logits)[np.arange(len(split.logits)), split.references])


def _losses_multi(split: _Split) -> Floats:
    probabilities = label_probabilities(split.logits)
    return negative_log(np.where(split.references == 1, probabilities, 1 - probabilities)).mean(axis=1)


def negative_log(probabilities: Floats) -> Floats:
    """Return the loss of the probability of what is true, in nats."""
    # Clipped as in scikit-learn, so that one wrong prediction with probability 1 costs 36.04 and not infinity.
    epsilon = np.finfo(np.float64).eps
    return -np.log(probabilities.clip(epsilon, 1 - epsilon))


# ---------------------------------------------------------------------------------------------------------
# The number of examples that a value averages, for its interval if every prediction is right.


def _all_examples(split: _Split) -> float:
    return float(len(split.references))


def _by_class(split: _Split) -> float:
    """Return the size for a mean over the classes that occur in references or predictions."""
    right, predicted, actual = (members.sum(axis=1) for members in split.members)
    return even_size(predicted + actual - right)


def _by_actual(split: _Split) -> float:
    """Return the size for a mean over the classes that occur in the references."""
    return even_size(_members(split.references, split.logits.shape[1]).sum(axis=0))


def _by_positives(split: _Split) -> float:
    """Return the size for a mean over the classes that occur in the references."""
    return even_size(split.references.sum(axis=0))


def _having(*which: Literal["predicted", "references"]) -> Callable[[_Split], float]:
    """Return the number of examples with any label in `which`: the labels of one example are not independent."""
    return lambda split: float(np.any([getattr(split, name).any(axis=1) for name in which], axis=0).sum())


# ---------------------------------------------------------------------------------------------------------
# The table.


def _table(*specs: MetricSpec) -> Mapping[str, MetricSpec]:
    return MappingProxyType({spec.name: spec for spec in specs})


_single_label = functools.partial(MetricSpec, problem_type=SINGLE_LABEL)
_multi_label = functools.partial(MetricSpec, problem_type=MULTI_LABEL)

_SINGLE_LABEL_METRICS = _table(
    _single_label(
        "accuracy",
        higher_is_better=True,
        description="Share of examples whose most probable class is the right one.",
        reads="labels",
        value=_by_sklearn("accuracy_score"),
        resample=_averaging(lambda split: split.predicted == split.references),
        size=_all_examples,
        share=True,
    ),
    _single_label(
        "f1_macro",
        higher_is_better=True,
        description="F1 of each class, averaged over the classes that occur.",
        reads="labels",
        value=_by_sklearn("f1_score", average="macro", zero_division=0),
        resample=_counting(lambda counts: counts.macro(counts.f1)),
        size=_by_class,
    ),
    _single_label(
        "f1_weighted",
        higher_is_better=True,
        description="F1 of each class, averaged with the number of its examples as weight.",
        reads="labels",
        value=_by_sklearn("f1_score", average="weighted", zero_division=0),
        resample=_counting(lambda counts: counts.weighted(counts.f1)),
        size=_all_examples,
    ),
    _single_label(
        "precision_macro",
        higher_is_better=True,
        description="Precision of each class, averaged over those that occur; 0 if never predicted.",
        reads="labels",
        value=_by_sklearn("precision_score", average="macro", zero_division=0),
        resample=_counting(lambda counts: counts.macro(counts.precision)),
        size=_by_class,
    ),
    _single_label(
        "recall_macro",
        higher_is_better=True,
        description="Recall of each class, averaged over those that occur; 0 if only predicted.",
        reads="labels",
        value=_by_sklearn("recall_score", average="macro", zero_division=0),
        resample=_counting(lambda counts: counts.macro(counts.recall)),
        size=_by_class,
    ),
    _single_label(
        "mcc",
        higher_is_better=True,
        description="Matthews correlation coefficient: 1 if all predictions are right, 0 for a constant one.",
        reads="labels",
        value=_by_sklearn("matthews_corrcoef"),
        resample=_counting(lambda counts: counts.matthews),
        size=_by_class,
        undefined=_one_class,
    ),
    _single_label(
        "cohen_kappa",
        higher_is_better=True,
        description="Cohen's kappa: share of right predictions, on a scale from chance (0) to all (1).",
        reads="labels",
        value=_by_sklearn("cohen_kappa_score"),
        resample=_counting(lambda counts: counts.kappa),
        size=_by_class,
        undefined=_one_class,
    ),
    _single_label(
        "roc_auc",
        higher_is_better=True,
        description="Area under the ROC curve of each class against the others, averaged over the classes that occur.",
        reads="logits",
        value=_first_value(_roc_auc),
        resample=_resample_ranked(_roc_auc),
        size=_by_actual,
        undefined=_unranked,
    ),
    _single_label(
        "average_precision",
        higher_is_better=True,
        description="Average precision of each class against the others, averaged over the classes that occur.",
        reads="logits",
        value=_first_value(_average_precision),
        resample=_resample_ranked(_average_precision),
        size=_by_actual,
        undefined=_unranked,
    ),
    _single_label(
        "top5_accuracy",
        higher_is_better=True,
        description="Share of examples whose class is among the five most probable ones, for six classes or more.",
        reads="logits",
        value=lambda references, logits: float(_in_top(references, logits).mean()),
        resample=_averaging(lambda split: _in_top(split.references, split.logits)),
        size=_all_examples,
        share=True,
        undefined=_few_classes,
    ),
    _single_label(
        "log_loss",
        higher_is_better=False,
        description="Mean cross entropy in nats, probabilities clipped at 2.2e-16 (at most 36.04).",
        reads="logits",
        value=_log_loss_single,
        resample=_averaging(_losses_single),
    ),
    _single_label(
        "ece",
        higher_is_better=False,
        description="Expected calibration error over 15 bins of equal width (arXiv:1706.04599).",
        reads="logits",
        value=_ece,
        resample=_resample_ece,
    ),
)

_MULTI_LABEL_METRICS = _table(
    _multi_label(
        "f1_micro",
        higher_is_better=True,
        description="F1 over all pairs of example and class.",
        reads="labels",
        value=_by_sklearn("f1_score", average="micro", zero_division=0),
        resample=_counting(lambda counts: counts.pooled.f1),
        size=_having("predicted", "references"),
    ),
    _multi_label(
        "f1_macro",
        higher_is_better=True,
        description="F1 of each class, averaged over the classes that occur.",
        reads="labels",
        # With `zero_division=0`, scikit-learn would count classes that do not occur as 0 here, although it omits them
        # from single-label averages.
        value=_or_zero(_by_sklearn("f1_score", average="macro", zero_division=np.nan)),
        resample=_counting(lambda counts: counts.macro(counts.f1)),
        size=_by_class,
    ),
    _multi_label(
        "precision_micro",
        higher_is_better=True,
        description="Share of the predicted labels that are right.",
        reads="labels",
        value=_by_sklearn("precision_score", average="micro", zero_division=0),
        resample=_counting(lambda counts: counts.pooled.precision),
        size=_having("predicted"),
    ),
    _multi_label(
        "recall_micro",
        higher_is_better=True,
        description="Share of the actual labels that are predicted.",
        reads="labels",
        value=_by_sklearn("recall_score", average="micro", zero_division=0),
        resample=_counting(lambda counts: counts.pooled.recall),
        size=_having("references"),
    ),
    _multi_label(
        "subset_accuracy",
        higher_is_better=True,
        description="Share of examples whose labels are all right.",
        reads="labels",
        value=_by_sklearn("accuracy_score"),
        resample=_averaging(lambda split: (split.predicted == split.references).all(axis=1)),
        size=_all_examples,
        share=True,
    ),
    _multi_label(
        "map",
        higher_is_better=True,
        description="Average precision, averaged over the classes with at least one example.",
        reads="logits",
        value=_mean_average_precision,
        resample=lambda split: by_rank.exact_average_precision(split.references, split.logits),
        size=_by_positives,
    ),
    _multi_label(
        "roc_auc",
        higher_is_better=True,
        description="Area under the ROC curve, averaged over the classes that some and not all examples have.",
        reads="logits",
        value=_first_value(_roc_auc),
        resample=_resample_ranked(_roc_auc),
        size=_by_positives,
        undefined=_unranked,
    ),
    _multi_label(
        "log_loss",
        higher_is_better=False,
        description="Mean binary cross entropy in nats, probabilities clipped at 2.2e-16.",
        reads="logits",
        value=_log_loss_multi,
        resample=_averaging(_losses_multi),
    ),
)

METRICS: Mapping[str, Mapping[str, MetricSpec]] = MappingProxyType(
    {SINGLE_LABEL: _SINGLE_LABEL_METRICS, MULTI_LABEL: _MULTI_LABEL_METRICS}
)
"""All metrics: problem type -> name -> `MetricSpec`."""


def default_metric(problem_type: str) -> str:
    """Return the metric that selects the best checkpoint by default.

    Raises:
        UserError: Unknown problem type.
    """
    choose(problem_type, METRICS, "problem type")
    return "accuracy" if problem_type == SINGLE_LABEL else "f1_micro"


# ---------------------------------------------------------------------------------------------------------
# Scoring.


def score(
    logits: npt.ArrayLike,
    references: npt.ArrayLike,
    problem_type: str,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Score]:
    """Compute every metric of the problem type with its bootstrap interval.

    Metrics that the references do not define are left out; see `undefined`. For the intervals see `intervals`; of these
    metrics, resampling biases `ece` most. `compute_metrics` is faster and returns no intervals; `bootstrap` is for
    comparing two models.

    Args:
        logits: `(examples, classes)`.
        references: Class ids `(examples,)`, or 0 and 1 `(examples, classes)` for multi-label.
        problem_type: `single_label_classification` or `multi_label_classification`.
        threshold: The probability from which a multi-label class counts as predicted; see `fit_threshold`.
        resamples: The number of resamples.
        seed: The seed of the resamples.
        confidence: The confidence level of the intervals.

    Raises:
        UserError: Logits are NaN or infinite, the problem type is unknown, or a number is out of range.
        ValueError: Shapes do not match, or references are invalid.
    """
    split = _split(logits, references, problem_type, threshold)
    specs = _defined(problem_type, split.references, split.logits.shape[1])
    drawn = _bootstrap(split, problem_type, resamples, seed, list(specs))
    values = {name: spec.value(split.references, split.read(spec)) for name, spec in specs.items()}
    sizes = {name: spec.size(split) for name, spec in specs.items() if spec.size}
    shares = [name for name, spec in specs.items() if spec.share]
    return intervals(values, drawn, len(split.logits), confidence, sizes, shares)


def bootstrap(
    logits: npt.ArrayLike,
    references: npt.ArrayLike,
    problem_type: str,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> dict[str, Floats]:
    """Compute every metric, or those in `names`, on resamples of the examples with replacement.

    The resamples depend only on the number of examples and the seed. Values of two models on the same split can
    therefore be subtracted resample by resample, which is much more sensitive than comparing two intervals of `score`.

    Returns:
        Metric -> values `(resamples,)`.

    Raises:
        UserError: Logits are NaN or infinite, the problem type is unknown, or a number is out of range.
        ValueError: Shapes do not match, or references are invalid.
    """
    return _bootstrap(_split(logits, references, problem_type, threshold), problem_type, resamples, seed, names)


def _bootstrap(
    split: _Split, problem_type: str, resamples: int, seed: int, names: Sequence[str] | None = None
) -> dict[str, Floats]:
    specs = METRICS[problem_type]
    classes = split.logits.shape[1]
    names = names or list(_defined(problem_type, split.references, classes))
    for name in names:
        if why := specs[name].undefined(split.references, classes):
            raise UserError(f"The metric '{name}' is undefined here: {why}.", option="metric", value=name)
    statistics = {name: specs[name].resample(split) for name in names}
    return resample(statistics, len(split.logits), resamples, seed)


def _defined(problem_type: str, references: Array, classes: int) -> dict[str, MetricSpec]:
    """Return the metrics that references `(examples,)` or `(examples, classes)` define."""
    specs = METRICS[problem_type]
    return {name: spec for name, spec in specs.items() if not spec.undefined(references, classes)}


def undefined(references: npt.ArrayLike, classes: int, problem_type: str) -> dict[str, str]:
    """Return the metrics that references do not define, each with the reason.

    Args:
        references: As in `score`.
        classes: The number of classes of the model.
        problem_type: `single_label_classification` or `multi_label_classification`.
    """
    checked = np.asarray(references)
    reasons = {name: spec.undefined(checked, classes) for name, spec in METRICS[problem_type].items()}
    return {name: why for name, why in reasons.items() if why}


def undefined_by_data(references: npt.ArrayLike, classes: int, problem_type: str) -> dict[str, str]:
    """Return what `undefined` does, without metrics that no data of so many classes define."""
    whole = np.arange(classes) if problem_type == SINGLE_LABEL else np.eye(max(classes, 2), classes)
    never = undefined(whole, classes, problem_type)
    found = undefined(references, classes, problem_type)
    return {name: why for name, why in found.items() if name not in never}


def compute_metrics(problem_type: str, threshold: float | None = None) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a function for `Trainer(compute_metrics=...)`, which computes values without intervals.

    If a model returns more than logits, its first output is used. Metrics that the references do not define are left
    out. Without a `threshold`, multi-label metrics use the one that is fitted to the same predictions, so that no
    checkpoint suffers from an unsuitable threshold. That is right for choosing a checkpoint, but optimistic as a
    result: report `score` with a threshold fitted on other examples.

    Raises:
        UserError: Unknown problem type. The returned function raises it for NaN or infinite logits.
    """
    choose(problem_type, METRICS, "problem type")

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        outputs, references = prediction.predictions, np.asarray(prediction.label_ids)
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        fitted = problem_type == MULTI_LABEL and threshold is None
        at = fit_threshold(logits, references) if fitted else threshold or 0.5
        split = _split(logits, references, problem_type, at)
        specs = _defined(problem_type, split.references, split.logits.shape[1])
        return {name: spec.value(split.references, split.read(spec)) for name, spec in specs.items()}

    return compute


def fit_threshold(logits: npt.ArrayLike, references: npt.ArrayLike) -> float:
    """Return the probability threshold with the best micro F1.

    The search is exact: it covers every gap between two different probabilities. Of equally good gaps the one nearest
    to 0.5 is used; the threshold is 0.5 if the gap contains it, else the middle of the gap.

    Args:
        logits: `(examples, classes)`.
        references: 0 and 1, `(examples, classes)`.

    Raises:
        UserError: Logits are NaN or infinite.
        ValueError: Shapes do not match, or references are invalid.
    """
    checked = _checked_logits(logits)
    positives = _checked_references(references, checked.shape, MULTI_LABEL).ravel()
    probabilities = label_probabilities(checked).ravel()
    order = np.argsort(-probabilities)
    probabilities, positives = probabilities[order], positives[order]
    # Equal probabilities fall on the same side: a threshold lies above all, or below the last of some equal ones.
    last = np.flatnonzero(np.append(np.diff(probabilities) != 0, True))
    right = np.append(0, np.cumsum(positives)[last])
    predicted = np.append(0, last + 1)
    f1 = 2 * right / np.maximum(predicted + positives.sum(), 1)
    thresholds = _thresholds_between(probabilities[last])[f1 == f1.max()]
    return float(thresholds[np.abs(thresholds - 0.5).argmin()])


def _thresholds_between(levels: Floats) -> Floats:
    """Return a threshold for each gap between strictly falling probabilities, including above and below all."""
    upper, lower = np.append(np.inf, levels), np.append(levels, 0.0)
    # The middle of a gap, not one of the probabilities: the same logits computed in another batch differ in the last
    # digits and must not change sides. Neighbouring floats have no middle; the upper one separates them as well.
    middle = (upper + lower) / 2
    middle = np.where(middle > lower, middle, upper)
    return np.where((lower < 0.5) & (upper >= 0.5), 0.5, middle)


def majority_baseline(
    train_references: npt.ArrayLike, references: npt.ArrayLike, problem_type: str
) -> dict[str, float]:
    """Score a constant prediction, which needs no model, by each metric that needs no probabilities.

    The prediction is the most frequent training class (the first of equal ones); for multi-label, all classes of more
    than half of the training examples, or else the most frequent one. References are as in `score`.

    Raises:
        UserError: Unknown problem type.
        ValueError: There are no examples, or references are invalid.
    """
    choose(problem_type, METRICS, "problem type")
    train, test = np.asarray(train_references), np.asarray(references)
    if not train.size or not test.size:
        raise ValueError(f"A baseline needs examples: got {len(train)} to train, {len(test)} to score.")
    classes = train.shape[-1] if train.ndim == 2 else int(max(train.max(), test.max())) + 1
    train = _checked_references(train, (len(train), classes), problem_type)
    test = _checked_references(test, (len(test), classes), problem_type)
    predicted = np.broadcast_to(_majority(train), test.shape)
    specs = _defined(problem_type, test, classes).values()
    return {spec.name: spec.value(test, predicted) for spec in specs if spec.reads == "labels"}


def _majority(train: Array) -> Array:
    """Return the constant prediction: one class id, or one row of 0 and 1."""
    if train.ndim == 1:
        return np.asarray(np.bincount(train).argmax())
    share = train.mean(axis=0)
    return ((share > 0.5) | (np.arange(len(share)) == share.argmax())).astype(np.int64)
