"""What the model is not for, as far as the record of its run can know; people should add what they know."""

from __future__ import annotations

from collections.abc import Iterator

from hf_ft.records import RunRecord
from hf_ft.reports.model_card.metadata import languages
from hf_ft.reports.model_card.numbers import figure
from hf_ft.reports.tables import bullets, shortened
from hf_ft.reports.training_summary import head_input_lines

WEAK, FEW = 0.5, 20
"""F1 below which a class is named, and examples of a class below which its scores say little."""
NAMED = 5


def limits(record: RunRecord) -> str:
    """Return the section on limits and on uses that are out of scope."""
    found = [*_scope(record), *_weaknesses(record), *head_input_lines(record), *_rules(record)]
    return bullets(f"{line.rstrip('.')}." for line in found)


def _scope(record: RunRecord) -> Iterator[str]:
    """What inputs and answers the scores hold for."""
    data = record.data
    yield (
        f"The scores hold for inputs like those of {data.name}. Inputs from another source, time or group of people "
        "may be answered much worse; score some of them first, with `hf-ft evaluate`"
    )
    if data.numbers:
        train = data.numbers["train"]
        yield (
            f"Numbers in training range from {figure(train.smallest)} to {figure(train.largest)}; predictions outside "
            "are extrapolations"
        )
    elif data.problem_type == "single_label_classification":
        yield (
            f"The model knows {data.predicts} and always answers with one of them, also for inputs that belong to none"
        )
    if spoken := languages(record):
        whose = "texts" if data.languages else "base model"
        yield f"Language of the {whose}: {', '.join(spoken)}. Nothing is known about others"
    for found in data.truncation[:1]:
        if found.long_text == "truncate":
            yield f"Of texts longer than {found.limit:,} tokens the rest is not read"


def _weaknesses(record: RunRecord) -> Iterator[str]:
    """Classes that the model is bad at, or that hardly occur in the data."""
    split = list(record.metrics)[-1]
    scores = record.by_class.get(split, [])
    if weak := sorted((one for one in scores if one.support and one.f1 < WEAK), key=lambda one: one.f1):
        listed = ", ".join(f"'{shortened(one.label, 30)}' {one.f1:.2f}" for one in weak[:NAMED])
        more = f" and {len(weak) - NAMED} more" if len(weak) > NAMED else ""
        yield f"Weak classes, with their F1 on {split}: {listed}{more}"
    if few := [one for one in scores if one.support < FEW]:
        listed = ", ".join(f"'{shortened(one.label, 30)}' {one.support}" for one in few[:NAMED])
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        yield f"Few examples on {split}, so that scores of these classes say little: {listed}{more}"


def _rules(record: RunRecord) -> Iterator[str]:
    """What was not measured, and whose rules apply."""
    yield (
        "Not measured: differences between groups of people, and inputs that are made to mislead. Do not let the model "
        "alone decide what affects a person"
    )
    licences = {"its licence": record.model.licence, "that of the data": record.data.licence}
    named = [f"{what} ({licence})" for what, licence in licences.items() if licence]
    if record.proofs.only_head_new:
        yield f"The limits of the base model apply, and {' and '.join(named) or 'its licence'}"
