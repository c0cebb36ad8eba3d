"""`hf-ft predict`: a trained model on new inputs, from its folder alone."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset

from hf_ft.data import count_truncated, max_input_tokens
from hf_ft.errors import UserError
from hf_ft.evaluation.inputs import file_rows, text_rows
from hf_ft.evaluation.loaded_model import open_folder
from hf_ft.evaluation.result_folder import command_tuner
from hf_ft.evaluation.views import VIEWS_NOTE
from hf_ft.reports import threshold_note
from hf_ft.settings import check_path, not_made


def predict_inputs(
    folder: Path,
    inputs: Sequence[str],
    output: str | None,
    batch_size: int,
    views: int = 1,
    tune: bool = True,
    name: str | None = None,
) -> None:
    """Predict for files, folders or texts; CSV to the screen, or CSV or JSON lines to a file.

    Args:
        views: of each image, over which predictions are averaged (test-time augmentation); 1 takes the image alone.
        tune: Whether to run the model in its fastest form, see `hf_ft.autotune`.
        name: What the user calls the model in the folder.

    Raises:
        UserError: an input that does not exist or that the model cannot read.
    """
    if output is not None:
        check_path(str(Path(output).expanduser().absolute().parent), "folder for the output")
        if Path(output).expanduser().is_dir():
            raise UserError(f"--output {output} is a folder. Name a file in it that ends in .csv or .jsonl.")
        path = Path(output).expanduser().absolute()
        if why := "" if path.is_file() else not_made(path):
            raise UserError(f"--output {output} cannot be written: {why}. Choose another file.")
    model = open_folder(folder, name)
    task, files = model.task, model.task.modality.files
    config, processor = model.settings, model.processor
    rows = file_rows(inputs, files) if files else text_rows(inputs, task, config, processor, model.inputs)
    dataset = Dataset.from_dict(rows)
    if cut := count_truncated("inputs", dataset, task, processor, config):
        print(cut.note(max_input_tokens(processor)), file=sys.stderr)
    if files:
        dataset = dataset.cast_column(files.role, files.feature())
    outputs = model.outputs(dataset, batch_size, views, command_tuner(tune))
    if views > 1:
        print(VIEWS_NOTE.format(views), file=sys.stderr)
    if model.rare_class is not None:
        print(threshold_note(model.rare_class), file=sys.stderr)
    target, threshold = model.deciding
    predictions = target.predictions(dataset, outputs, model.labels, threshold)
    columns = target.columns(model.labels)
    if output is None:
        _write_csv(columns, predictions, sys.stdout)
        return
    with Path(output).expanduser().open("w", encoding="utf-8", newline="") as file:
        if output.endswith(".jsonl"):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in predictions)
        else:
            _write_csv(columns, predictions, file)
    print(f"{len(dataset):,} predictions are in {output}")


def _write_csv(columns: Sequence[str], rows: Iterator[dict[str, Any]], file: TextIO) -> None:
    writer = csv.DictWriter(file, fieldnames=columns)
    writer.writeheader()
    writer.writerows(rows)
