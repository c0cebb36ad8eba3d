"""How to load the model: code that runs unchanged, in the result folder or with the id of the repository."""

from __future__ import annotations

import re

from hf_ft.records import RunRecord, TruncationRecord
from hf_ft.reports.by_class import threshold_usage
from hf_ft.reports.tables import code

HERE = "."
"""The repository on a card that was not published: the folder that it is in."""
FOLDER = '; `"."` is the folder that this card is in'
"""What a card says of `HERE`."""
ADAPTER = "adapter"
"""The folder of the adapter in that of the result."""


def usage(record: RunRecord) -> str:
    """Return the section on loading the model."""
    call = [
        "from transformers import pipeline",
        "",
        f'classify = pipeline("{record.pipeline}", model="{HERE}")',
        record.usage + threshold_usage(record),
    ]
    needs = " timm" * ("Timm" in record.model.class_name) + " pillow" * ("image" in record.data.inputs)
    parts = [
        f"The code needs `pip install transformers torch{needs}`{FOLDER}.",
        _block(*call),
        _long_texts(record),
        _adapter(record),
    ]
    return "\n\n".join(part for part in parts if part)


def adapter_usage(record: RunRecord) -> str:
    """Return the section on loading the adapter, in the card of its own folder."""
    needs = " timm" * ("Timm" in record.model.class_name) + " pillow" * ("image" in record.data.inputs)
    said = (
        "This is the adapter alone; the base model is loaded from the Hub. The code needs `pip install peft "
        f"transformers torch{needs}`{FOLDER}."
    )
    return f"{said}\n\n{_on_base(record, HERE)}"


def located(card: str, repository: str) -> str:
    """Return a card whose code loads from a repository on the Hub in place of the folder that the card is in."""

    def elsewhere(block: re.Match[str]) -> str:
        text = block.group(0).replace(f'"{HERE}/{ADAPTER}"', f'"{repository}", subfolder="{ADAPTER}"')
        return text.replace(f'"{HERE}"', f'"{repository}"')

    return PYTHON.sub(elsewhere, card.replace(FOLDER, ""))


PYTHON = re.compile(r"^```python\n.*?^```", re.DOTALL | re.MULTILINE)


def _adapter(record: RunRecord) -> str:
    """How to load the adapter in the folder `adapter/`; empty where no adapter alone gives the result."""
    if not record.adapter or not record.model.hub_id:
        return ""
    return (
        "The weights above are whole: the adapter is merged into them. It is also in the folder `adapter`, by itself:"
        f"\n\n{_on_base(record, f'{HERE}/{ADAPTER}')}"
    )


def _on_base(record: RunRecord, place: str) -> str:
    """The lines that load an adapter onto its base model on the Hub."""
    model = record.model
    pinned = f', revision="{model.commit}"' if model.commit else ""
    base = f'"{model.hub_id}"{pinned}, num_labels={len(record.data.labels)}'
    return _block(
        "from peft import PeftModel",
        f"from transformers import {record.auto_class}",
        "",
        f"base = {record.auto_class}.from_pretrained({base})",
        f'model = PeftModel.from_pretrained(base, "{place}")',
    )


def _long_texts(record: RunRecord) -> str:
    """How to answer for long texts as in the evaluation, without hf_ft; empty where `pipeline` does it."""
    found = next((one for one in record.data.truncation if one.long_text != "truncate"), None)
    if found is None:
        return ""
    said, inputs = _read(found)
    lines = [
        "import torch",
        f"from transformers import {record.auto_class}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
        f'model = {record.auto_class}.from_pretrained("{HERE}")',
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
