"""The model card of a training run: Hub metadata and a page, from the template `model_card.md.jinja`.

`huggingface_hub.ModelCard` fills the template. Everything that comes from the data or the model is escaped for
Markdown here, before it is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.records import RunRecord
from hf_ft.reports.by_class import class_heading, class_rows, classes_lines, threshold_lines, threshold_usage
from hf_ft.reports.registry import figure_files, report
from hf_ft.reports.tables import bullets, code, escaped, markdown_table
from hf_ft.reports.training_summary import (
    averaging_lines,
    cache_lines,
    depth_group_table,
    duplicates_lines,
    extension_lines,
    head_input_lines,
    precision_phrase,
    proof_lines,
    regularisation,
    result_table,
    run_soup_lines,
    undefined_lines,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
LIMITS = "The scores hold for data like those above. The base model's own limits and licence apply."


@report(RunRecord, "README.md")
def card(record: RunRecord) -> str:
    """Return the model card: metadata, usage, results, training, data, proofs and limits."""
    from huggingface_hub import ModelCard

    data = record.data
    filled = ModelCard.from_template(
        card_data=_metadata(record),
        template_path=str(TEMPLATE),
        title=escaped(_title(record)),
        task=escaped(f"Task: {record.task.replace('_', ' ')}, {data.predicts} ({_listed(data.labels)})."),
        base=_base(record),
        method=f"method {code(record.method)} ({record.paper})" if record.paper else "a plan of its own (see below)",
        pipeline=record.pipeline,
        usage=record.usage + threshold_usage(record),
        long_texts=_long_texts(record),
        results=markdown_table(*result_table(record)),
        results_note=_results_note(record),
        by_class=_by_class(record),
        figures=[{"title": Path(name).stem.replace("_", " "), "file": name} for name in figure_files(record)],
        depth_groups=markdown_table(*depth_group_table(record, [bool(stage.solver) for stage in record.stages])),
        training_note=_training_note(record),
        data_note=_data_note(record),
        proofs=bullets(proof_lines(record)),
        limits=" ".join([*map(escaped, head_input_lines(record)), LIMITS]),
        hf_ft=record.hf_ft,
    )
    return str(filled).rstrip("\n") + "\n"


def _long_texts(record: RunRecord) -> str:
    """How to answer for long texts as in the evaluation, without hf_ft; empty where `pipeline` does it."""
    found = next((one for one in record.data.truncation if one.long_text != "truncate"), None)
    if found is None:
        return ""
    if found.long_text == "windows":
        said = "in overlapping windows, whose outputs are averaged"
        options = f"truncation=True, max_length={found.limit}, stride={found.overlap}"
        inputs = [
            f"inputs = tokenizer(text, {options},",
            '                   return_overflowing_tokens=True, padding=True, return_tensors="pt")',
            'inputs.pop("overflow_to_sample_mapping")',
        ]
    else:
        tail = found.limit - found.head
        said = f"by the first {found.head:,} and the last {tail:,} tokens"
        inputs = [
            'inputs = tokenizer(text, return_tensors="pt")',
            f"if inputs.input_ids.shape[1] > {found.limit}:",
            f"    inputs = {{name: torch.cat([x[:, :{found.head}], x[:, -{tail}:]], 1) for name, x in inputs.items()}}",
        ]
    code = [
        "import torch",
        f"from transformers import {record.auto_class}, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("THIS_REPOSITORY")',
        f'model = {record.auto_class}.from_pretrained("THIS_REPOSITORY")',
        *inputs,
        "with torch.no_grad():",
        "    logits = model(**inputs).logits.mean(0)",
    ]
    return "\n".join(
        [
            f"Texts of more than {found.limit:,} tokens were read {said}. The plain `pipeline` truncates them, so that "
            "its answers for them differ from those that were scored; `hf-ft predict` and these lines give those:",
            "",
            "```python",
            *code,
            "```",
        ]
    )


def _metadata(record: RunRecord) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    data, split = record.data, list(record.metrics)[-1]
    results = [
        EvalResult(
            task_type=record.pipeline,
            dataset_type=data.hub_id or "local",
            dataset_name=data.name,
            dataset_split=split,
            metric_type=name,
            metric_value=round(score.value, 4),
        )
        for name, score in record.metrics[split].items()
    ]
    return ModelCardData(
        model_name=_title(record),
        library_name="transformers",
        pipeline_tag=record.pipeline,
        license=record.model.licence,
        base_model=record.model.hub_id,
        datasets=[data.hub_id] if data.hub_id else None,
        metrics=[record.metric],
        tags=["hf_ft", "transfer-learning", record.method.split(":")[0]],
        eval_results=results,
    )


def _title(record: RunRecord) -> str:
    how = "fine-tuned" if record.proofs.only_head_new else "trained from scratch"
    return f"{record.model.name} {how} on {record.data.name}"


def _base(record: RunRecord) -> str:
    model = record.model
    if not record.proofs.only_head_new:
        return f"the architecture of {code(model.name)} with random weights"
    if not model.hub_id:
        return code(model.name) + (f" ({escaped(model.origin)}, licence {model.licence})" if model.origin else "")
    commit = f" at commit `{model.commit[:12]}`" if model.commit else ""
    return f"[{model.hub_id}](https://huggingface.co/{model.hub_id}){commit}"


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")


def _results_note(record: RunRecord) -> str:
    note = (
        "Intervals are 95 % intervals over examples: bootstrap, and exact where nearly all answers are right or wrong; "
        f"{record.baseline_description.note}."
    )
    if record.threshold is not None:
        note += f" A label is predicted from a probability of {record.threshold:.3f}, fitted on validation."
    more = [*duplicates_lines(record), *undefined_lines(record), *threshold_lines(record)]
    return " ".join([note, *map(escaped, more)])


def _by_class(record: RunRecord) -> str:
    """The scores of each class on the last split, at most as many as a reader takes in."""
    split = list(record.metrics)[-1]
    scores = record.by_class.get(split)
    return f"{class_heading(scores, split)}:\n\n{markdown_table(*class_rows(scores))}" if scores else ""


def _training_note(record: RunRecord) -> str:
    machine, settings = record.machine, record.settings
    seconds = sum(stage.seconds for stage in record.stages)
    memory = max(stage.peak_memory for stage in record.stages)
    by_tokens = settings.get("tokens_per_batch") is not None
    batch = "tokens_per_batch" if by_tokens else "per_device_train_batch_size"
    names = (batch, "lr_scheduler_type", "seed", "weight_decay")
    named = ", ".join(f"{name} {settings[name]}" for name in names)
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    random, precision = regularisation(settings), precision_phrase(record)
    sentences = [
        *map(escaped, run_soup_lines(record)),
        *(escaped(line) for stage in record.stages for line in averaging_lines(stage)),
        *map(escaped, cache_lines(record)),
        f"Numbers after `train` and `adapt` are learning rates. Settings: {named}{random and f', {random}'}.",
        f"Training took {seconds:.0f} s and at most {memory / 2**30:.1f} GiB on {machine.device} ({machine.cores} "
        f"cores){precision and f', in {precision}'}. Versions: {versions}.",
        *map(escaped, extension_lines(record)),
        *(f"Classes: {escaped(line)}." for line in classes_lines(record.classes)),
    ]
    return " ".join(sentences)


def _data_note(record: RunRecord) -> str:
    data = record.data
    sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
    lines = [f"{escaped(data.name)}: {sizes}. Content fingerprint `{data.fingerprint}`."]
    return "\n".join([*lines, *([bullets(data.notes)] if data.notes else [])])
