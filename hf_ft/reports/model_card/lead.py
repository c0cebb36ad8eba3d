"""What a card says first: title, what the model is made of, and its score."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ft.records import RunRecord
from hf_ft.reports.model_card.numbers import figure, interval, percentage
from hf_ft.reports.tables import LOWER_IS_BETTER, code, escaped, title

HUB = "https://huggingface.co"
LISTED = 20
"""Most labels in one line."""


def card_title(record: RunRecord) -> str:
    """Return the title, not escaped."""
    how = "fine-tuned" if record.proofs.only_head_new else "trained from scratch"
    return f"{record.model.name} {how} on {record.data.name}"


def summary(record: RunRecord) -> str:
    """Return what the model does, in one sentence."""
    data = record.data
    return escaped(f"Task: {record.task.replace('_', ' ')}, {data.predicts} ({listed(data.labels)}).")


def facts(record: RunRecord) -> str:
    """Return the main facts as a list."""
    lines = {
        "Base model": base_model(record),
        "Method": method(record),
        "Trained on": data_set(record),
        "Score": _score(record),
        "Licence": _licence(record),
    }
    return "\n".join(f"- **{name}:** {text}" for name, text in lines.items() if text)


def base_model(record: RunRecord) -> str:
    """Return the base model with its link and commit, or whose weights it has."""
    model = record.model
    if not record.proofs.only_head_new:
        return f"none: the architecture of {code(model.name)} with random weights"
    if not model.hub_id:
        return code(model.name) + (f" ({escaped(model.origin)})" if model.origin else " (a local folder)")
    commit = f", commit [{code(model.commit[:12])}]({HUB}/{model.hub_id}/tree/{model.commit})" if model.commit else ""
    return f"[{escaped(model.hub_id)}]({HUB}/{model.hub_id}){commit}"


def data_set(record: RunRecord) -> str:
    """Return the data set with its link and commit, and how many examples were used."""
    data = record.data
    sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
    if not data.hub_id:
        return f"{escaped(data.name)}: {sizes} examples"
    config = f" ({code(data.config)})" if data.config else ""
    commit = (
        f", commit [{code(data.revision[:12])}]({HUB}/datasets/{data.hub_id}/tree/{data.revision})"
        if data.revision
        else ""
    )
    return f"[{escaped(data.hub_id)}]({HUB}/datasets/{data.hub_id}){config}{commit}: {sizes} examples"


def method(record: RunRecord) -> str:
    """Return the method with its paper, and how much of the model it trained."""
    named = f"{code(record.method)} ({record.paper})" if record.paper else "a plan of its own (see Training)"
    total = record.model.parameters
    counts = dict.fromkeys(stage.trainable for stage in record.stages)
    trained = ", then ".join(f"{count:,} ({percentage(count, total)})" for count in counts)
    return f"{named}; trained {trained} of {total:,} parameters"


def listed(labels: Sequence[str]) -> str:
    """Return labels in one line, at most `LISTED` of them."""
    return ", ".join(labels[:LISTED]) + (f" and {len(labels) - LISTED} more" if len(labels) > LISTED else "")


def _score(record: RunRecord) -> str:
    split = list(record.metrics)[-1]
    score, name = record.metrics[split].get(record.metric), record.baseline_description.name
    if score is None:
        return ""
    baseline = record.baseline[split].get(record.metric)
    beside = "" if baseline is None else f"; {code(name)}, the baseline without a model: {figure(baseline)}"
    lower = LOWER_IS_BETTER * title(record.metric).endswith(LOWER_IS_BETTER)
    named = title(record.metric).removesuffix(LOWER_IS_BETTER)
    return (
        f"{escaped(named)}{lower} {figure(score.value)} on {score.n:,} examples of {split} (95 % interval "
        f"{interval(score)}){beside}"
    )


def _licence(record: RunRecord) -> str:
    model, pretrained = record.model, record.proofs.only_head_new is not None
    if not pretrained or model.licence is None:
        why = "the base model states none" if pretrained else "nothing was taken from another model"
        return f"not stated ({why}); add `license` to the metadata of this card"
    named = model.licence_name if model.licence == "other" and model.licence_name else model.licence
    return f"{escaped(named)}, that of the base model"
