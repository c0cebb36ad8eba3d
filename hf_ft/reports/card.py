"""The model card of a training run: metadata for the Hub and a page, from `run.json` alone.

`huggingface_hub.ModelCard` fills the template `model_card.md.jinja` with the pieces of `model_card`. Everything that
comes from the data or the model is escaped for Markdown there, before it is filled in. `model_card.hand_edits` keeps
what people wrote when a card is made again.
"""

from __future__ import annotations

from pathlib import Path

from hf_ft.records import RunRecord
from hf_ft.reports.model_card import data, examples, hand_edits, lead, limits, scores, training, usage
from hf_ft.reports.model_card.metadata import metadata
from hf_ft.reports.registry import report
from hf_ft.reports.tables import bullets, escaped
from hf_ft.reports.training_summary import proof_lines

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


@report(RunRecord, "README.md")
def card(record: RunRecord) -> str:
    """Return the model card of a result folder."""
    return card_of(record)


def card_of(record: RunRecord, repository: str = usage.HERE) -> str:
    """Return the model card of a run.

    Args:
        record: The run.
        repository: The id of the repository on the Hub, which the code on the card then loads from.
    """
    from huggingface_hub import ModelCard

    filled = ModelCard.from_template(
        card_data=metadata(record),
        template_path=str(TEMPLATE),
        title=escaped(lead.card_title(record)),
        summary=lead.summary(record),
        facts=lead.facts(record),
        usage=usage.usage(record, repository),
        results=scores.scores(record),
        examples=examples.examples(record),
        training=training.training(record),
        data=data.data(record),
        limits=limits.limits(record),
        proofs=bullets(proof_lines(record)),
        versions=training.versions(record),
        date=record.date,
        hf_ft=record.hf_ft,
    )
    return hand_edits.sealed(str(filled))


def remade_card(record: RunRecord, old: str, repository: str = usage.HERE) -> tuple[str, list[str]]:
    """Return the card of a run with what people changed in an old one, and the names of the parts that they changed.

    Args:
        record: The run.
        old: The card as it is now.
        repository: As in `card_of`.

    Raises:
        CardError: Nothing says which parts of the old card were generated, or its metadata cannot be read.
    """
    page = hand_edits.merged(old, card_of(record, repository))
    return page.text, page.edited
