"""The metadata of the card: what the Hub filters and shows, in the words that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.records import RunRecord
from hf_ft.reports.model_card.lead import card_title
from hf_ft.reports.model_card.licences import licence_metadata
from hf_ft.reports.tables import LOWER_IS_BETTER, title

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

METRICS: dict[str, tuple[str, dict[str, str]]] = {
    **{
        f"{name}_{average}": (name, {"average": average})
        for name in ("f1", "precision", "recall")
        for average in ("macro", "micro", "weighted")
    },
    "mcc": ("matthews_correlation", {}),
    "roc_auc": ("roc_auc", {"average": "macro"}),
    "average_precision": ("average_precision", {"average": "macro"}),
    "top5_accuracy": ("accuracy", {"top_k": "5"}),
    "r2": ("r_squared", {}),
    "pearson": ("pearsonr", {}),
    "spearman": ("spearmanr", {}),
}
"""Metric -> its identifier among https://huggingface.co/metrics, and how it was computed; others are called as here."""
LISTED = frozenset(
    {*(name for name, _ in METRICS.values()), "accuracy", "f1", "precision", "recall", "mse", "mae", "brier_score"}
)
"""Identifiers of metrics by which the Hub filters; others are in `model-index` alone."""
WRITTEN = frozenset({"text", "tokens"})
"""Inputs that are in a language."""
LOCAL = "unknown"
"""What cards write for a data set that is not on the Hub."""


def metadata(record: RunRecord, adapter: bool = False) -> ModelCardData:
    """Return the metadata of a run.

    Args:
        record: The run.
        adapter: Whether they are those of the adapter alone.
    """
    from huggingface_hub import ModelCardData

    model, data = record.model, record.data
    pretrained = record.proofs.only_head_new is not None
    based = model.hub_id if pretrained else None
    licence = licence_metadata(model.licence, model.licence_name, model.licence_link) if pretrained else {}
    more: dict[str, Any] = {**licence}
    if based:
        more["base_model_relation"] = "adapter" if adapter else "finetune"
    if energy := emissions(record):
        more["co2_eq_emissions"] = energy
    if examples := _widget(record):
        more["widget"] = examples
    return ModelCardData(
        language=languages(record) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=record.pipeline,
        base_model=based,
        datasets=[data.hub_id] if data.hub_id else None,
        metrics=[name for name in dict.fromkeys(map(_identifier, record.metrics[_split(record)])) if name in LISTED],
        tags=tags(record, adapter),
        model_name=card_title(record),
        eval_results=results(record),
        **more,
    )


def tags(record: RunRecord, adapter: bool = False) -> list[str]:
    """Return the tags: how it was made, and what of it the Hub cannot see elsewhere."""
    method = record.method.split(":")[0].split("@")[0]
    own = ["hf_ft", "transfer-learning", method if method.isidentifier() else "plan"]
    own += [record.data.problem_type.replace("_", "-")] * (record.data.problem_type != record.task)
    return [*own, *(["peft"] * (record.adapter and not adapter))]


def languages(record: RunRecord) -> list[str]:
    """Return the languages of texts: those of the data, else that of a base model that has one alone.

    Of a base model of a hundred languages, a few are learnt from data in one of them.
    """
    data, model = record.data, record.model
    if not WRITTEN & set(data.inputs):
        return []
    return data.languages or (model.languages if len(model.languages) == 1 else [])


def results(record: RunRecord) -> list[EvalResult]:
    """Return the scores on the last split that was scored, as `model-index` has them."""
    from huggingface_hub import EvalResult

    data, split = record.data, _split(record)
    return [
        EvalResult(
            task_type=record.pipeline,
            task_name=record.pipeline.replace("-", " ").title(),
            dataset_type=data.hub_id or LOCAL,
            dataset_name=data.name,
            dataset_config=data.config,
            dataset_split=data.source_splits.get(split, split),
            dataset_revision=data.revision,
            metric_type=_identifier(name),
            metric_value=round(score.value, 4),
            metric_name=title(name).removesuffix(LOWER_IS_BETTER),
            metric_args=METRICS.get(name, ("", {}))[1] or None,
        )
        for name, score in record.metrics[split].items()
    ]


def emissions(record: RunRecord) -> dict[str, Any]:
    """Return the CO2 of training for the Hub; empty where it is not known."""
    found = record.energy
    if found is None or found.grams is None:
        return {}
    return {
        "emissions": round(found.grams, 4),
        "source": "codecarbon",
        "training_type": "fine-tuning" if record.proofs.only_head_new else "pre-training",
        "geographical_location": found.country,
        "hardware_used": f"{record.machine.device}, {found.processor}".removesuffix(", "),
    }


def _widget(record: RunRecord) -> list[dict[str, str]]:
    """Texts to try the model on, on its page: those that the user allowed to be shown."""
    if record.examples is None or not WRITTEN & set(record.data.inputs) or "text_pair" in record.data.inputs:
        return []
    return [{"text": one.input} for one in record.examples.sample[:5]]


def _split(record: RunRecord) -> str:
    return list(record.metrics)[-1]


def _identifier(metric: str) -> str:
    return METRICS.get(metric, (metric, {}))[0]
