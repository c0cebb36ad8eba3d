"""What a model answers for every example of a dataset: the one prediction loop.

Validation during training, which needs a score per epoch, is `Trainer.evaluate`; everything that is reported comes
through here.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import Subset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments

from hf_ft.autotune import USUAL, Autotuner, Work, applied
from hf_ft.data import choose_readers, prepare_workers
from hf_ft.environment import progress_shown, with_halved_batches
from hf_ft.feature_cache import CacheRequest, NotCached, PrebatchedCollator, open_cache, transform_of
from hf_ft.modalities import ChangedImages, longest_first, token_counts
from hf_ft.models import UpperPart
from hf_ft.settings import EncodingSettings
from hf_ft.tasks import Task

if TYPE_CHECKING:
    from hf_ft.training import Run

Metrics = Callable[[Any], Any]
"""Metrics of an `EvalPrediction`, as `Trainer(compute_metrics=...)` takes them."""


def predict_outputs(
    model: PreTrainedModel,
    processor: Any,
    task: Task,
    dataset: Dataset,
    config: EncodingSettings,
    args: TrainingArguments | None = None,
    compute_metrics: Metrics | None = None,
    view: Callable[[Any], Any] | None = None,
    tuner: Autotuner | None = None,
) -> Any:
    """The model's outputs for a dataset with the task's input columns, in its order.

    Args:
        args: where and in which batches to predict; batches of 32 by default.
        compute_metrics: called with all predictions, as `Trainer` does it; with those of whole texts, not of windows.
        view: changes each image before it is encoded.
        tuner: chooses the form in which the model runs; None is the usual one.

    Returns:
        Logits `(examples, classes)` in float32, or what the task's `reduce` and `gather` make of them.
    """
    encoded = task.encode(dataset, processor, config, False)
    if view is not None:
        encoded = encoded.with_transform(ChangedImages(view, transform_of(encoded)))
    collator, lengths = task.collator(processor), token_counts(encoded)

    def predict(joined: Metrics | None) -> Any:
        return _predicted(model, encoded, lengths, collator, task.reduce, args, joined, config.explicit, tuner)

    return _of_examples(predict, task, encoded, dataset, compute_metrics)


def predict_trained(
    run: Run, split: Dataset, compute_metrics: Metrics | None = None, tuner: Autotuner | None = None
) -> Any:
    """The outputs of the model of a run for a split, as `predict_outputs` returns them.

    They come from cached features if the last stage ran from them, and equal those of the whole model but for rounding:
    the frozen layers run on batches of another size.
    """
    task, cached = run.task, run.cached
    encoded = task.encode(split, run.processor, run.config, False) if cached else None
    rows = cached.rows_of(encoded) if cached and cached.split.model is run.model else None
    if cached is None or rows is None:
        about = run.model, run.processor, task, split, run.config, run.args
        return predict_outputs(*about, compute_metrics, tuner=tuner)
    collator = PrebatchedCollator(task.collator(run.processor))

    def predict(joined: Metrics | None) -> Any:
        return _predicted(UpperPart(cached.split), rows, rows.lengths, collator, task.reduce, run.args, joined)

    with cached.split.installed():
        return _of_examples(predict, task, encoded, split, compute_metrics)


def _of_examples(
    predict: Callable[[Metrics | None], Any],
    task: Task,
    encoded: Any,
    dataset: Dataset,
    metrics: Metrics | None,
) -> Any:
    """The outputs of examples from those of rows, which may be windows of their texts, and their metrics."""
    joined = metrics if not task.pools(encoded) else None
    outputs = predict(joined)
    outputs = outputs if task.gather is None else task.gather(encoded, outputs)
    if metrics and not joined:
        metrics(EvalPrediction(outputs, np.asarray(dataset["labels"][:])))
    return outputs


def predict_split(run: Run, split: Dataset, others: int = 0, tuner: Autotuner | None = None) -> Any:
    """The outputs of a trained model for a split, as `predict_outputs`, from cached features where that saves time.

    Args:
        others: how many other models with the same frozen layers will predict the same split.
        tuner: as in `predict_outputs`.
    """
    task, config = run.task, dataclasses.replace(run.config, augment="none")
    encoded = task.encode(split, run.processor, config, False)
    collator = task.collator(run.processor)
    request = CacheRequest(
        run.model,
        run.groups,
        run.plan.combined("scores", others + 1),
        (encoded,),
        run.processor,
        collator,
        config,
        None,
        _in_float32(run.args),
        passes=others + 1,
        evaluations=0,
        encode=task.encode,
        tuner=tuner,
    )
    try:
        cached = open_cache(request)
    except NotCached:
        outputs = _predicted(
            run.model, encoded, token_counts(encoded), collator, task.reduce, run.args, None, config.explicit, tuner
        )
    else:
        with cached.split.installed():
            rows, passing = cached.train, PrebatchedCollator(collator)
            outputs = _predicted(cached.upper, rows, rows.lengths, passing, task.reduce, run.args, tuner=tuner)
    return outputs if task.gather is None else task.gather(encoded, outputs)


def _predicted(
    model: torch.nn.Module,
    rows: Any,
    lengths: NDArray[Any] | None,
    collator: Callable[[Any], Any],
    reduce: Callable[..., torch.Tensor] | None,
    args: TrainingArguments | None,
    compute_metrics: Metrics | None = None,
    explicit: Collection[str] = (),
    tuner: Autotuner | None = None,
) -> NDArray[np.float32]:
    """The outputs for encoded rows in their order; `Trainer.predict` handles batches, devices and several processes.

    Texts are batched from the longest to the shortest, so that batches hold little padding.
    """
    order = None if lengths is None else longest_first(lengths)
    settings = _prediction_arguments(args)
    if "dataloader_num_workers" not in explicit:
        read = rows.__getitems__ if transform_of(rows) else None
        prepare_workers(settings, choose_readers(read, len(rows), 1, settings.eval_batch_size, settings).workers)

    def run(size: int) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            settings.output_dir, settings.per_device_eval_batch_size = folder, size
            trainer = Trainer(
                model=model,
                args=settings,
                data_collator=collator,
                compute_loss_func=_no_loss,
                preprocess_logits_for_metrics=reduce,
                compute_metrics=compute_metrics,
            )
            # In float32, as the saved model runs by default: scores must not depend on the precision of training.
            trainer.accelerator.native_amp = False
            ordered = rows if order is None else Subset(rows, order.tolist())
            with applied(model, tuner.choose(_work(trainer, ordered)) if tuner else USUAL):
                return trainer.predict(ordered)

    size = settings.per_device_eval_batch_size
    output = with_halved_batches(run, size, "scoring", settings)
    found = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    outputs: NDArray[np.float32] = np.asarray(found, dtype=np.float32)
    return outputs if order is None else outputs[np.argsort(order)]


def _work(trainer: Trainer, rows: Any) -> Work:
    """The prediction of some rows, as the autotuner tries it."""
    args, model = trainer.args, cast(torch.nn.Module, trainer.model)

    def batch(size: int) -> dict[str, Any]:
        found = trainer.data_collator(rows.__getitems__(list(range(min(size, len(rows))))))
        return trainer._prepare_inputs({name: value for name, value in found.items() if name != "labels"})

    def step(inputs: Mapping[str, Any]) -> Sequence[torch.Tensor]:
        model.eval()
        with torch.inference_mode():
            logits = model(**inputs)["logits"]
        return list(logits) if isinstance(logits, tuple) else [logits]

    return Work(
        "prediction", model, batch, step, len(rows), min(args.per_device_eval_batch_size, len(rows)), args.device
    )


def _prediction_arguments(args: TrainingArguments | None) -> TrainingArguments:
    """The settings of training, without those that `Trainer.predict` must not follow."""
    found = copy.copy(args) if args else TrainingArguments(tempfile.gettempdir(), per_device_eval_batch_size=32)
    found.report_to, found.label_names, found.push_to_hub = [], ["labels"], False
    found.save_strategy, found.load_best_model_at_end = "no", False
    found.eval_strategy = "no"  # otherwise `Trainer` wants an evaluation dataset
    found.remove_unused_columns = False
    found.train_sampling_strategy = "random"  # grouping by length would shuffle the predictions, too
    found.dataloader_drop_last = False  # every example is predicted
    found.dataloader_pin_memory = False
    found.disable_tqdm = found.disable_tqdm or not progress_shown()
    return found


def _in_float32(args: TrainingArguments) -> TrainingArguments:
    """The settings of training in float32: features in another precision would give other scores than the model's."""
    found = copy.copy(args)
    found.bf16 = found.fp16 = False
    return found


def _no_loss(outputs: Any, labels: Any, **_: Any) -> torch.Tensor:
    """A loss of zero: `Trainer.predict` computes one where there are labels, and nobody reads it."""
    zero: torch.Tensor = outputs["logits"].new_zeros(())
    return zero
