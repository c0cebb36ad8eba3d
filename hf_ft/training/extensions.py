"""Extensions: callbacks, a loss, a collator, an image transform and metrics that a caller brings to a training.

Only `errors` and the standard library are imported at the top, so that a wrong one is refused before torch is there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, first_line

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction

    from hf_ft.metrics import EvaluateMetric
    from hf_ft.tasks import Target

Compute = Callable[["EvalPrediction"], Mapping[str, float]]

TAKES = {
    "loss": ("outputs, labels, num_items_in_batch", 3),
    "data_collator": ("a list of examples", 1),
    "transform": ("an image", 1),
    "compute_metrics": ("an EvalPrediction", 1),
}
"""Argument -> what its function is called with, in words, and how many values that are."""


@dataclass(frozen=True)
class Extensions:
    """What a caller brings to a training in place of built-in parts, checked by `read_extensions`.

    Args:
        callbacks: `TrainerCallback` classes or objects; objects serve all stages, classes are called for each.
        compute_metrics: A function of an `EvalPrediction`, or a metric of `evaluate`; its values are reported beside
            the built-in ones after each evaluation and for the finished model.
        loss: `loss(outputs, labels, num_items_in_batch)`, in training and evaluation.
        data_collator: Makes the batches of training. Evaluation and scoring keep the task's own collator, since the
            saved model has to answer for plain examples.
        transform: PIL image -> PIL image (or a tensor with values from 0 to 1, or 0 to 255 as bytes), in training
            only, before the model's processor.
        head: What the model was loaded with, see `load_model`.
    """

    callbacks: tuple[Any, ...] = ()
    compute_metrics: Compute | EvaluateMetric | None = None
    loss: Callable[..., Any] | None = None
    data_collator: Callable[..., Any] | None = None
    transform: Callable[..., Any] | None = None
    head: str | Callable[[int, int], Any] | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """The extensions that there are, by argument."""
        return {name: value for name, value in vars(self).items() if value}

    @property
    def uncacheable(self) -> str:
        """Why the training split cannot be cached, empty where it can."""
        if self.transform is not None:
            return "transform= may change an image in another way each time it is read"
        if self.data_collator is not None:
            return "data_collator= may mix examples, or change them at random"
        return ""

    @property
    def unsolvable(self) -> str:
        """Why a linear head has to be trained by steps, empty where it can be solved."""
        return "loss= may not be convex" if self.loss is not None else self.uncacheable

    def names(self) -> dict[str, Any]:
        """How records and cards call them."""
        from hf_ft.feature_cache import name_of

        found = {name: name_of(value) for name, value in self.parts.items() if name != "callbacks"}
        if isinstance(self.head, str):
            found["head"] = self.head
        if self.compute_metrics is not None:
            found["compute_metrics"] = getattr(self.compute_metrics, "name", found["compute_metrics"])
        return found | ({"callbacks": [name_of(one) for one in self.callbacks]} if self.callbacks else {})

    def identities(self) -> dict[str, str]:
        """Names and digests, which have to be the same when a run is resumed.

        Of a callback its class alone counts: the state of an object changes while it works. What cannot be identified
        counts by its name.
        """
        from hf_ft.feature_cache import identities_of

        classes = [one if isinstance(one, type) else type(one) for one in self.callbacks]
        values = {name: value for name, value in self.parts.items() if name != "callbacks"}
        return identities_of(values | ({"callbacks": classes} if classes else {}))

    def metrics(
        self, target: Target, labels: Sequence[str], restored: Callable[[Any], Any] | None = None
    ) -> Compute | None:
        """The function of an `EvalPrediction` that reports the caller's metrics.

        `restored` turns standardised numbers back into those of the data.
        """
        own = self.compute_metrics
        if own is None:
            return None
        compute: Compute = own  # type: ignore[assignment]
        if hasattr(own, "for_trainer"):
            compute = own.for_trainer(lambda outputs, references: target.decode(outputs, references, labels))

        def report(prediction: EvalPrediction) -> Mapping[str, float]:
            if restored is not None:
                from transformers import EvalPrediction

                outputs = prediction.predictions
                logits = outputs[0] if isinstance(outputs, tuple) else outputs
                prediction = EvalPrediction(restored(logits), restored(prediction.label_ids))
            found = compute(prediction)
            if not isinstance(found, Mapping):
                raise UserError(
                    f"compute_metrics= returned {type(found).__name__}.",
                    option="compute_metrics",
                    hint="Return a dictionary: name of a metric -> number.",
                )
            return {str(name): float(value) for name, value in found.items()}

        return report


def read_extensions(
    callbacks: Any = None,
    compute_metrics: Any = None,
    loss: Any = None,
    data_collator: Any = None,
    transform: Any = None,
    head: Any = None,
) -> Extensions:
    """Check what a caller brings; metrics of `evaluate` are loaded by their id.

    Raises:
        UserError: something is of the wrong kind, or there is no such metric.
    """
    listed = [callbacks] if callbacks is not None and not isinstance(callbacks, Iterable) else callbacks or ()
    for one in listed:
        _check_callback(one)
    from hf_ft.models import check_head

    check_head(head)
    functions = {"loss": loss, "data_collator": data_collator, "transform": transform}
    for name, value in functions.items():
        if value is not None:
            _check_function(name, value)
    return Extensions(tuple(listed), _metric(compute_metrics), **functions, head=head)


def _check_callback(value: Any) -> None:
    known = sys.modules.get("transformers.trainer_callback")  # who has a callback has imported it
    kind = value if isinstance(value, type) else type(value)
    if known is None or not issubclass(kind, known.TrainerCallback):
        raise UserError(
            f"'{_said(value)}' is not a callback.",
            option="callbacks",
            value=_said(value),
            hint="Pass a list of transformers.TrainerCallback classes or objects.",
        )


def _check_function(name: str, value: Any) -> None:
    words, count = TAKES[name]
    hint = f"Pass a function of {words}."
    if not callable(value):
        raise UserError(f"{name}= takes a function, not {_said(value)}.", option=name, value=_said(value), hint=hint)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # functions in C do not say what they take
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise UserError(f"{name}= cannot be called: {error}.", option=name, value=_said(value), hint=hint) from None


def _metric(value: Any) -> Any:
    if value is None or hasattr(value, "for_trainer"):
        return value
    if isinstance(value, str):
        from hf_ft.metrics import load_metric

        return load_metric(value)
    if hasattr(value, "compute") and hasattr(value, "inputs_description"):  # an `evaluate.EvaluationModule`
        from hf_ft.metrics import with_direction

        return with_direction(value)
    _check_function("compute_metrics", value)
    return value


def _said(value: Any) -> str:
    plain = isinstance(value, bool | int | float | str | None)
    return str(value) if plain else f"an object of type {type(value).__name__}"


# --- Images -----------------------------------------------------------------------------------------------------------


class TrainingTransform:
    """The caller's transform of images before what the task applies when rows are read."""

    def __init__(self, own: Callable[[Any], Any], inner: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.own, self.inner = own, inner

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        from hf_ft.modalities import upright_rgb

        images = [as_image(self.own(upright_rgb(image))) for image in batch["image"]]
        return self.inner({**batch, "image": images})


def as_image(value: Any) -> Any:
    """The PIL image of what a transform returned, for the model's processor.

    Raises:
        UserError: it is no image, or was scaled beyond the values that an image has.
    """
    import torch
    from PIL import Image
    from torchvision.transforms.v2.functional import to_pil_image

    if isinstance(value, Image.Image):
        return value
    hint = "Return a PIL image, or a tensor (channels, height, width) with values from 0 to 1 or bytes."
    if not torch.is_tensor(value) or value.ndim != 3:
        raise UserError(f"transform= returned {_said(value)}.", option="transform", hint=hint)
    if value.is_floating_point() and not (value.min() >= 0 and value.max() <= 1):
        raise UserError(
            "transform= returned numbers outside 0 to 1.",
            option="transform",
            hint="Leave out normalising: the model's processor does it.",
        )
    return to_pil_image(value)


def with_transform(rows: Dataset, own: Callable[[Any], Any], seed: int) -> Dataset:
    """An encoded split of images that the caller's transform changes first.

    Raises:
        UserError: the task has no images, or the transform fails on the first of them.
    """
    from hf_ft.environment import random_numbers_of
    from hf_ft.feature_cache import transform_of
    from hf_ft.modalities import upright_rgb

    inner = transform_of(rows)
    if inner is None or "image" not in rows.column_names:
        raise UserError(
            "transform= changes images, and the inputs of this task are none.", option="transform", hint="Leave it out."
        )
    image = upright_rgb(rows.with_format(None)[0]["image"])
    with random_numbers_of([seed]):  # trying it must not move the random numbers of the run
        try:
            changed = own(image)
        except Exception as error:  # the caller's code raises whatever it likes
            raise UserError(first_line("transform= fails on the first image", error), option="transform") from error
    as_image(changed)
    return rows.with_transform(TrainingTransform(own, inner))
