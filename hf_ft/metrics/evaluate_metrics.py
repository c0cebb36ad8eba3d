"""Metrics of the `evaluate` library: loading them with a direction, and exporting built-in metrics to it.

`load_metric` is for metrics that are not built in. It needs the direction of a metric, which `evaluate` does not
record: a wrong one would select the worst checkpoint. Importing `evaluate` takes seconds, so it is imported on first
use; built-in metrics do not need it.

See https://huggingface.co/docs/evaluate for existing metrics and how to write one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_ft.errors import UserError, choose, first_line
from hf_ft.metrics.classification import METRICS, SINGLE_LABEL, MetricSpec, _split

GREATER_IS_BETTER: Mapping[str, bool] = {
    **dict.fromkeys(("accuracy", "f1", "precision", "recall", "roc_auc", "matthews_correlation", "seqeval"), True),
    **dict.fromkeys(("pearsonr", "spearmanr", "r_squared", "glue", "super_glue", "exact_match", "poseval"), True),
    **dict.fromkeys(("mse", "mae", "mape", "smape", "mase", "brier_score", "wer", "cer", "perplexity"), False),
}
"""Id of an `evaluate` metric -> whether a greater value is better."""

Decode = Callable[[Any, Any], tuple[Any, Any]]
"""Model outputs and references -> arguments of `compute(predictions=, references=)`."""


@dataclass(frozen=True)
class EvaluateMetric:
    """A metric of the `evaluate` library with its direction.

    Args:
        name: The key of its value among the results, for `metric_for_best_model`.
        greater_is_better: Whether a greater value is better.
        module: The `evaluate.EvaluationModule`.
        options: Further arguments of `module.compute`, such as `average="macro"`.
    """

    name: str
    greater_is_better: bool
    module: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def compute(self, predictions: Any, references: Any) -> dict[str, float]:
        """Return every number that the metric reports, including `name`.

        Raises:
            UserError: The metric does not support such predictions, or does not report `name`.
        """
        try:
            found = self.module.compute(predictions=predictions, references=references, **self.options)
        except Exception as error:  # the code of the metric is the user's or the Hub's
            raise UserError(
                first_line(f"The metric '{self.name}' cannot score these predictions", error),
                option="metric",
                value=self.name,
                hint="Metrics get predicted classes (or numbers), not logits. Check its options, such as average.",
            ) from error
        numbers = {key: float(value) for key, value in (found or {}).items() if np.ndim(value) == 0}
        if self.name not in numbers and len(numbers) == 1:
            numbers = {self.name: next(iter(numbers.values()))}
        if self.name not in numbers:
            raise UserError(
                f"The metric does not report '{self.name}'.",
                option="metric",
                value=self.name,
                choices=numbers,
                hint="Choose the number to go by with key=.",
            )
        return numbers

    def for_trainer(self, decode: Decode) -> Callable[[Any], dict[str, float]]:
        """Return a function for `Trainer(compute_metrics=...)`; `decode` converts outputs to predictions."""

        def compute(prediction: Any) -> dict[str, float]:
            return self.compute(*decode(prediction.predictions, prediction.label_ids))

        return compute


def load_metric(
    metric: str,
    *,
    greater_is_better: bool | None = None,
    key: str | None = None,
    config_name: str | None = None,
    **options: Any,
) -> EvaluateMetric:
    """Load a metric of the `evaluate` library.

    Args:
        metric: An id (`accuracy`, `owner/name`), or a folder or file with the script of a metric.
        greater_is_better: The direction; optional for the ids in `GREATER_IS_BETTER`.
        key: Which of several reported numbers to use; by default the one with the metric's name.
        config_name: The configuration of metrics that have several, such as `mrpc` of `glue`.
        options: Further arguments of the metric's `compute`.

    Raises:
        UserError: The metric does not exist, needs a missing package, or has no known direction.

    Example:
        >>> f1 = load_metric("f1", average="macro")  # doctest: +SKIP
        >>> f1.compute([0, 1], [0, 1])  # doctest: +SKIP
        {'f1': 1.0}
    """
    path = Path(metric).expanduser()
    local = path.exists() or metric.startswith((".", "~", "/")) or path.suffix == ".py"
    name = key or path.stem.rpartition("/")[2]
    direction = _direction(metric, greater_is_better, None if local else GREATER_IS_BETTER.get(metric))
    try:
        import evaluate

        module = evaluate.load(str(path) if local else metric, config_name, keep_in_memory=True)
    except Exception as error:  # a script of the user or the Hub is run
        raise _not_loaded(metric, local, error) from error
    return EvaluateMetric(name, direction, module, options)


def with_direction(module: Any, greater_is_better: bool | None = None) -> EvaluateMetric:
    """Wrap a metric that was loaded with `evaluate.load`, adding its direction.

    Raises:
        UserError: The direction is neither passed nor known.
    """
    name = module.name
    known = getattr(module, "higher_is_better", GREATER_IS_BETTER.get(name))
    return EvaluateMetric(name, _direction(name, greater_is_better, known), module)


def _direction(metric: str, passed: bool | None, known: bool | None) -> bool:
    direction = known if passed is None else passed
    if direction is None:
        raise UserError(
            f"It is not known whether a greater value of the metric '{metric}' is better.",
            option="greater_is_better",
            hint="Load it with hf_ft.metrics.load_metric(..., greater_is_better=True), or False.",
        )
    return direction


def _not_loaded(metric: str, local: bool, error: Exception) -> UserError:
    """Return the error for a metric that cannot be loaded: a missing package, a missing script, or no network."""
    if isinstance(error, ImportError):
        return UserError(first_line(f"The metric '{metric}' needs a package", error), option="metric", value=metric)
    if local and not isinstance(error, FileNotFoundError):
        return UserError(first_line(f"Cannot load the metric '{metric}'", error), option="metric", value=metric)
    if local:
        hint = f"A folder NAME holds the metric's script as NAME/NAME.py, which {metric} lacks."
        return UserError(f"There is no metric in {metric}.", option="metric", value=metric, hint=hint)
    cached = cached_metrics()
    return UserError(
        f"The metric '{metric}' is neither in the local cache ({', '.join(cached) or 'empty'}) nor found on the Hub.",
        option="metric",
        value=metric,
        hint="Check the id and the network, or pass the folder of a metric's script.",
    )


def cached_metrics() -> list[str]:
    """Return the ids of the metrics in the local cache of `evaluate`, which load without a network."""
    from evaluate.config import HF_MODULES_CACHE

    folder = Path(HF_MODULES_CACHE, "evaluate_modules", "metrics")
    names = (path.name for path in folder.glob("*--*")) if folder.is_dir() else ()
    return sorted(name.removeprefix("evaluate-metric--").replace("--", "/") for name in names)


def as_evaluate_metric(name: str, problem_type: str) -> Any:
    """Return a built-in classification metric as an `evaluate.Metric`, for example for `evaluate.combine`.

    Its `compute(predictions=, references=, threshold=0.5)` takes logits and references as `classification.score` does
    and returns `{name: value}`. Single-label metrics that need no probabilities also take class ids `(examples,)` as
    predictions. Nothing is downloaded.

    Raises:
        UserError: Unknown metric or problem type.
    """
    specs = METRICS[choose(problem_type, METRICS, "problem type")]
    return _metric_class()(specs[choose(name, specs, f"metric for {problem_type}:")])


@functools.cache
def _metric_class() -> type[Any]:
    """Return the class of built-in metrics, defined on first use because importing `evaluate` takes seconds."""
    import evaluate
    from datasets import Features, Sequence, Value

    rows, ids = Sequence(Value("float64")), Value("int64")

    class ClassificationMetric(evaluate.Metric):
        """One row of `METRICS` as an `evaluate.Metric`."""

        def __init__(self, spec: MetricSpec) -> None:
            self.spec = spec
            # In memory, so that processes that evaluate at the same time share no file and no lock.
            super().__init__(keep_in_memory=True)
            self.info.module_name = spec.name

        @property
        def higher_is_better(self) -> bool:
            """Whether a larger value is the better one."""
            return self.spec.higher_is_better

        def _info(self) -> Any:
            references = ids if self.spec.problem_type == SINGLE_LABEL else rows
            features = [Features(predictions=rows, references=references)]
            if self.spec.problem_type == SINGLE_LABEL and self.spec.reads == "labels":
                features.append(Features(predictions=ids, references=references))
            return evaluate.MetricInfo(description=self.spec.description, citation="", features=features)

        def _compute(self, predictions: Any, references: Any, threshold: float = 0.5) -> dict[str, float]:
            spec, outputs = self.spec, np.asarray(predictions)
            classes = outputs.shape[1] if outputs.ndim == 2 else 1 + int(max(outputs.max(), np.max(references)))
            if why := spec.undefined(np.asarray(references), classes):
                raise UserError(f"The metric '{spec.name}' is undefined here: {why}.", option="metric", value=spec.name)
            if outputs.ndim == 1:
                return {spec.name: spec.value(np.asarray(references), outputs)}
            split = _split(outputs, references, spec.problem_type, threshold)
            return {spec.name: spec.value(split.references, split.read(spec))}

    return ClassificationMetric
