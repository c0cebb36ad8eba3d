"""`hf-ft export`: a finished run as a model for another runtime, in a folder of its own, compared with PyTorch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch

from hf_ft import __version__
from hf_ft.environment import machine, silence_libraries, versions
from hf_ft.errors import UserError
from hf_ft.evaluation import load_folder
from hf_ft.export.examples import Batch, Examples, data_of, read_examples
from hf_ft.export.formats import FORMATS, check_format
from hf_ft.export.graph import CannotExport, export_graph
from hf_ft.export.parity import (
    TOLERANCE,
    Answers,
    answers_of,
    batch_difference,
    difference,
    metrics_of,
    outputs_of,
    same_answers,
    torch_runtime,
)
from hf_ft.export.runtimes import load_runtime
from hf_ft.export.usage_code import input_code, usage_code
from hf_ft.modalities import InputCode
from hf_ft.records import ExportRecord, ExportSide, Machine, ParityRecord, RunRecord
from hf_ft.reports import text_table, title
from hf_ft.settings import check_place
from hf_ft.storage import check_apart, check_ours, json_text, output_folder

EXAMPLES, CALIBRATION = 200, 128
"""Examples on which the models are compared, and by which ranges are measured."""
HOW = {
    "dynamic": "weights by channel; activations while the model runs (onnxruntime.quantization.quantize_dynamic)",
    "static": "weights by channel, activations by ranges on {} training examples (onnxruntime.quantization."
    "quantize_static)",
    "nncf": "weights and activations by ranges on {} training examples (nncf.quantize)",
}


@dataclass(frozen=True)
class _Job:
    """A run that is exported, and how."""

    folder: Path
    record: RunRecord
    model: Any
    format_name: str
    quantize: str | None
    examples: Examples
    calibration: list[Batch]

    @property
    def quantization(self) -> str:
        """How the model is quantised; empty for float32."""
        if self.quantize is None:
            return ""
        how = "nncf" if self.format_name == "openvino" else "static" if self.calibration else "dynamic"
        return HOW[how].format(len(self.calibration))


@silence_libraries()
def export_model(
    folder: str | Path,
    format: str,
    *,
    quantize: str | None = None,
    output_dir: str | Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    examples: int = EXAMPLES,
    overwrite_output_dir: bool = False,
) -> ExportRecord:
    """Export the model of a finished run, prove that it answers as the PyTorch model does, and return the record.

    Args:
        folder: The output folder of the run.
        format: `onnx`, `openvino` or `torch_export`.
        quantize: `int8`, or None for float32.
        output_dir: The folder of the export; by default beside that of the run, such as `OUT-onnx-int8`.
        dataset: Where examples are read; by default where the run read them.
        split: The split on which the models are compared; by default test, else validation, else train.
        examples: How many examples are compared.
        overwrite_output_dir: Replace an export that is in the output folder.

    Raises:
        UserError: A package is missing, the run or its data are, the model cannot be exported, or the output folder is
            taken.
    """
    check_format(format, quantize)
    folder = Path(folder).expanduser()
    out = Path(output_dir).expanduser() if output_dir else default_output(folder, format, quantize)
    check_output(out, folder, overwrite_output_dir)
    record, task, model, processor = load_folder(folder)
    data = data_of(folder, dataset)
    needs = quantize and (format == "openvino" or task.modality.quantization == "static")
    found, typical = read_examples(record, task, processor, data, split, examples, CALIBRATION if needs else 0)
    job = _Job(folder, record, model, format, quantize, found, typical)
    with output_folder.locked(out, ExportRecord.KIND):
        check_output(out, folder, overwrite_output_dir)
        with output_folder.staging(out) as new:
            exported = _write(job, new)
            output_folder.remove(out)
    print(summary(exported, out))
    return exported


def default_output(folder: Path, format_name: str, quantize: str | None) -> Path:
    """Return the folder beside a run for its export."""
    return folder.with_name("-".join(filter(None, (folder.resolve().name, format_name, quantize))))


def check_output(out: Path, folder: Path, overwrite: bool) -> None:
    """Check that an export may be written to a folder.

    Raises:
        UserError: The folder holds something else, or an export that is not to be replaced.
    """
    check_place(str(out))
    check_apart(out, folder, "run")
    if check_ours(out, ExportRecord.KIND) != "nothing" and not overwrite:
        raise UserError(
            f"The output folder {out} already holds an export.",
            option="output_dir",
            value=str(out),
            hint="Choose another folder, or replace it with --overwrite_output_dir.",
        )


def _write(job: _Job, folder: Path) -> ExportRecord:
    """Write the files of an export into an empty folder.

    Raises:
        UserError: The model cannot be exported.
    """
    examples = job.examples
    try:
        graph = export_graph(job.model, examples.traced(), job.format_name, bool(job.quantize), job.calibration)
        graph.save_pretrained(folder)
        examples.processor.save_pretrained(folder)
        record = _compared(job, folder)
    except CannotExport as reason:
        others = [name for name in FORMATS if name != job.format_name]
        raise UserError(
            f"The {job.record.model.class_name} in {job.folder} cannot be exported as {job.format_name}"
            f"{f' in {job.quantize}' if job.quantize else ''}: {reason}.",
            option="format",
            value=job.format_name,
            hint=f"Try --format {' or '.join(others)}.",
        ) from reason
    (folder / record.FILE).write_text(json_text(record.as_dict()), encoding="utf-8")
    return record


def _compared(job: _Job, folder: Path) -> ExportRecord:
    """Compare the written model with PyTorch, write `README.md`, and return the record.

    Raises:
        CannotExport: It does not run, or answers otherwise.
    """
    examples, threads = job.examples, torch.get_num_threads()
    reference, exported = torch_runtime(job.model), load_runtime(folder, job.format_name, threads)
    wanted, found = answers_of(reference, examples), answers_of(exported, examples)
    alone = difference(wanted, found)
    batch = batch_difference(reference, exported, examples)
    if not job.quantize:
        for what, seen in (("on single examples", alone), ("on a padded batch", batch)):
            if not seen.is_rounding:
                raise CannotExport(f"its logits differ by up to {seen.largest:.3g} {what} (scale {seen.scale:.3g})")
    threshold, name = job.record.threshold, job.record.metric
    outputs = outputs_of(wanted, examples), outputs_of(found, examples)
    metrics = [dict(metrics_of(one, examples, threshold)) for one in outputs]
    code = input_code(folder, examples, _limit(examples))
    files = [path for pattern in FORMATS[job.format_name].files for path in folder.glob(pattern)]
    record = ExportRecord(
        schema_version=ExportRecord.SCHEMA,
        hf_ft=__version__,
        date=time.strftime("%Y-%m-%d"),
        model=job.folder.resolve().name,
        class_name=job.record.model.class_name,
        task=job.record.task,
        problem_type=job.record.data.problem_type,
        format=job.format_name,
        quantization=job.quantization,
        metric=name,
        parity=ParityRecord(
            dataset=examples.name,
            split=examples.split,
            examples=len(examples.rows),
            largest_difference=alone.largest,
            scale=alone.scale,
            batch_difference=None if job.quantize else batch.largest,
            same_answers=same_answers(*outputs, examples, threshold),
            tolerance=None if job.quantize else TOLERANCE,
        ),
        pytorch=_side(job.folder.glob("*.safetensors"), wanted, metrics[0]),
        exported=_side(files, found, metrics[1]),
        input_code=list(code.packages),
        machine=Machine(**machine()),
        threads=threads,
        versions=versions() | _versions(FORMATS[job.format_name].packages),
        notes=_notes(job),
    )
    text = usage_code(job.record, job.format_name, list(examples.traced()), code, _example(examples))
    (folder / "README.md").write_text(readme(record, code, text), encoding="utf-8")
    return record


def _side(files: Any, answers: Answers, metrics: Mapping[str, float]) -> ExportSide:
    return ExportSide(sum(path.stat().st_size for path in files), answers.milliseconds, dict(metrics))


def _versions(packages: Any) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def _limit(examples: Examples) -> int:
    """Most tokens of a text; 0 where inputs are no texts."""
    longest = getattr(examples.processor, "model_max_length", 0)
    if examples.task.limit is not None:
        return examples.task.limit(examples.processor, examples.settings)
    return int(min(examples.settings.max_length or 512, longest))


def _notes(job: _Job) -> list[str]:
    """What a user of the exported model should know."""
    notes = []
    if job.record.settings.get("long_text", "truncate") != "truncate":
        notes.append(f"Texts are truncated; the run read long ones by `long_text {job.record.settings['long_text']}`.")
    return notes


def _example(examples: Examples) -> str:
    """The arguments of the example of use, as Python code."""
    if examples.task.reduce is not None:
        return '["Ada", "Lovelace", "lived", "in", "London", "."]'
    return (
        '"some text", "another text"' if "text_pair" in examples.rows.column_names else examples.task.modality.example
    )


def readme(record: ExportRecord, code: InputCode, text: str) -> str:
    """Return the page of an export."""
    template = Path(__file__).with_name("README.md.jinja").read_text(encoding="utf-8")
    runtime = {"onnx": "onnxruntime", "openvino": "openvino", "torch_export": "torch"}[record.format]
    packages = dict.fromkeys(["numpy", runtime, *code.packages])
    shown = FORMATS[record.format].title
    page = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined).from_string(template)
    found = page.render(record=record, title=shown, packages=packages, code=text, metric=title(record.metric))
    return found.rstrip("\n") + "\n"


def summary(record: ExportRecord, out: Path) -> str:
    """Return what is printed about an export."""
    shown = FORMATS[record.format].title + (" int8" if record.quantization else "")
    sides = (record.pytorch, record.exported)
    rows = [
        [title(record.metric), *(f"{side.metrics[record.metric]:.4f}" for side in sides)],
        ["milliseconds an example", *(f"{side.ms_per_example:.2f}" for side in sides)],
        ["megabytes", *(f"{side.bytes / 1e6:.2f}" for side in sides)],
    ]
    parity = record.parity
    lines = [
        f"compared {parity.examples:,} examples of {parity.dataset} ({parity.split}), one at a time: logits differ by "
        f"at most {parity.largest_difference:.2g} (the largest is {parity.scale:.3g})"
    ]
    if parity.same_answers is not None:
        lines.append(f"answers  {parity.same_answers:,} of {parity.examples:,} are the same")
    if record.quantization:
        lines.append(f"int8     {record.quantization}")
    lines += ["", text_table(["", "PyTorch", shown], rows), "", f"saved    {out}"]
    return "\n".join(lines)
