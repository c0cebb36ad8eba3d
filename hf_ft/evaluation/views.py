"""Test-time augmentation: the mean prediction for several views of each input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel

from hf_ft.evaluation.outputs import predict_outputs
from hf_ft.tasks import Target, Task

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_ft.autotune import Autotuner
    from hf_ft.settings import EncodingSettings

VIEWS_NOTE = "Predictions are means over {} views of each image (--tta)."


def predict_views(
    number: int,
    model: PreTrainedModel,
    processor: Any,
    task: Task,
    target: Target,
    dataset: Dataset,
    config: EncodingSettings,
    args: TrainingArguments | None = None,
    tuner: Autotuner | None = None,
) -> Any:
    """Return outputs whose probabilities are the means of those for several views, as `predict_outputs` does for one.

    Args:
        number: How many views; 1 takes the input alone.
        tuner: As in `predict_outputs`.

    Raises:
        UserError: The task's inputs have no such number of views.
    """
    task.modality.check_views(number)
    if number == 1 or task.modality.views is None:
        return predict_outputs(model, processor, task, dataset, config, args, tuner=tuner)
    views = task.modality.views(number)
    return target.mean(
        [predict_outputs(model, processor, task, dataset, config, args, view=view, tuner=tuner) for view in views]
    )
