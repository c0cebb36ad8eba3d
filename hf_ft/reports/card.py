"""The model card of a training run: metadata for the Hub and a page, from `run.json` alone.

`huggingface_hub.ModelCard` fills the template `model_card.md.jinja` with the pieces of `model_card`. Everything that
comes from the data or the model is escaped for Markdown there, before it is filled in.
"""

from __future__ import annotations

from pathlib import Path

from hf_ft.records import RunRecord
from hf_ft.reports.model_card import data, examples, hand_edits, lead, limits, scores, training, usage
from hf_ft.reports.model_card.metadata import metadata
from hf_ft.reports.registry import report, reports_of
from hf_ft.reports.tables import bullets, escaped
from hf_ft.reports.training_summary import proof_lines

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


@report(RunRecord, "README.md")
def card(record: RunRecord) -> str:
    """Return the model card of a result folder."""
    return _filled(record, usage.usage(record), adapter=False)


@report(RunRecord, "adapter/README.md", applies=lambda record: record.adapter and bool(record.model.hub_id))
def adapter_card(record: RunRecord) -> str:
    """Return the card of the adapter, which may be published alone where its base model is on the Hub."""
    return _filled(record, usage.adapter_usage(record), adapter=True)


def cards(record: RunRecord) -> dict[str, str]:
    """Return the cards of a run by their names in its folder."""
    return {name: one.render(record) for one in reports_of(record) for name in one.files if name.endswith("README.md")}


def published_card(text: str, repository: str) -> str:
    """Return a card as it is published: its code loads from the repository, and what people wrote stays.

    Args:
        text: The card in the result folder.
        repository: The id of the repository on the Hub.
    """
    return hand_edits.changed(text, "Use", lambda section: usage.located(section, repository))


def _filled(record: RunRecord, loading: str, adapter: bool) -> str:
    from huggingface_hub import ModelCard

    filled = ModelCard.from_template(
        card_data=metadata(record, adapter),
        template_path=str(TEMPLATE),
        title=escaped(lead.card_title(record)),
        summary=lead.summary(record),
        facts=lead.facts(record),
        usage=loading,
        results=scores.scores(record, figures=not adapter),
        examples=examples.examples(record),
        training=training.training(record, figures=not adapter),
        data=data.data(record),
        limits=limits.limits(record),
        proofs=bullets(proof_lines(record)),
        versions=training.versions(record),
        date=record.date,
        hf_ft=record.hf_ft,
    )
    return hand_edits.sealed(str(filled))
