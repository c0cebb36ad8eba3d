"""How to load the model: code that runs as it stands, in the result folder or with the id of the repository."""

from __future__ import annotations

from hf_ft.records import RunRecord, TruncationRecord
from hf_ft.reports.by_class import threshold_usage
from hf_ft.reports.tables import code

HERE = "."
"""The repository of a card that was not published: the folder that it is in."""


def usage(record: RunRecord, repository: str = HERE) -> str:
    """Return the section on loading the model.

    Args:
        record: The run.
        repository: The id of the repository on the Hub, or `HERE`.
    """
    where = (
        '`"."` is this folder; once the model is published, write the id of its repository instead.'
        if repository == HERE
        else f"It needs `transformers` alone: `pip install transformers torch`{_needs(record)}."
    )
    call = [
        "from transformers import pipeline",
        "",
        f'classify = pipeline("{record.pipeline}", model="{repository}")',
        record.usage + threshold_usage(record),
    ]
    parts = [where, _block(*call), _long_texts(record, repository), _adapter(record, repository)]
    return "\n\n".join(part for part in parts if part)


def adapter_usage(record: RunRecord, repository: str = HERE, subfolder: str = "") -> str:
    """Return the lines that load the adapter on its base model, which is on the Hub."""
    model = record.model
    assert model.hub_id
    pinned = f', revision="{model.commit}"' if model.commit else ""
    below = f', subfolder="{subfolder}"' if subfolder else ""
    base = f'"{model.hub_id}"{pinned}, num_labels={len(record.data.labels)}'
    return _block(
        "from peft import PeftModel",
        f"from transformers import {record.auto_class}",
        "",
        f"base = {record.auto_class}.from_pretrained({base})",
        f'model = PeftModel.from_pretrained(base, "{repository}"{below})',
    )


def _adapter(record: RunRecord, repository: str) -> str:
    """How to load the adapter in the folder `adapter/`; empty where no adapter alone gives the result."""
    if not record.adapter or not record.model.hub_id:
        return ""
    place = (f"{HERE}/adapter", "") if repository == HERE else (repository, "adapter")
    return (
        "The weights above are whole: the adapter is merged into them. It is also in the folder `adapter`, by itself:"
        f"\n\n{adapter_usage(record, *place)}"
    )


def _needs(record: RunRecord) -> str:
    return " timm" * ("Timm" in record.model.class_name) + " pillow" * ("image" in record.data.inputs)


def _long_texts(record: RunRecord, repository: str) -> str:
    """How to answer for long texts as in the evaluation, without hf_ft; empty where `pipeline` does it."""
    found = next((one for one in record.data.truncation if one.long_text != "truncate"), None)
    if found is None:
        return ""
    said, inputs = _read(found)
    lines = [
        "import torch",
        f"from transformers import {record.auto_class}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")',
        f'model = {record.auto_class}.from_pretrained("{repository}")',
        'text = "some text"',
        *inputs,
        "with torch.no_grad():",
        "    logits = model(**inputs).logits.mean(0)",
    ]
    return (
        f"Texts of more than {found.limit:,} tokens were read {said}. The plain `pipeline` truncates them, so that its "
        f"answers for them differ from those that were scored; {code('hf-ft predict')} and these lines give those:"
        f"\n\n{_block(*lines)}"
    )


def _read(found: TruncationRecord) -> tuple[str, list[str]]:
    """How long texts were read, in words and as code."""
    if found.long_text == "windows":
        options = f"truncation=True, max_length={found.limit}, stride={found.overlap}"
        return "in overlapping windows, whose outputs are averaged", [
            f"inputs = tokenizer(text, {options},",
            '                   return_overflowing_tokens=True, padding=True, return_tensors="pt")',
            'inputs.pop("overflow_to_sample_mapping")',
        ]
    tail = found.limit - found.head
    return f"by the first {found.head:,} and the last {tail:,} tokens", [
        'inputs = tokenizer(text, return_tensors="pt")',
        f"if inputs.input_ids.shape[1] > {found.limit}:",
        f"    inputs = {{name: torch.cat([x[:, :{found.head}], x[:, -{tail}:]], 1) for name, x in inputs.items()}}",
    ]


def _block(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])
