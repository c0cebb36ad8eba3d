"""The result folder: a plain Hub model with its card, pictures and record, proved to load without hf_ft."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_ft import __version__
from hf_ft.data import save_contents
from hf_ft.environment import machine, versions
from hf_ft.evaluation import Results, verify_load_back
from hf_ft.metrics import Score
from hf_ft.models import adapters, without_progress_bars
from hf_ft.reports import run_report as report
from hf_ft.results.finetune_result import FinetuneResult
from hf_ft.results.secrets import without_secrets
from hf_ft.storage import SEAL, output_folder
from hf_ft.training import Run, checkpoints, describe, places_of, recorded_settings, without_places


def save(run: Run, results: Results) -> FinetuneResult:
    """Write the result folder, prove that it loads back, and remove the checkpoints.

    Raises:
        LoadBackFailure: the saved model does not answer as the trained one.
    """
    out = run.output_dir
    if not run.args.should_save:  # one process of several writes
        return FinetuneResult(make_record(run, results), out, run.model, run.processor)
    with output_folder.let_go_if_raised(out):
        with output_folder.staging(out) as new:  # so that the folder holds a whole result or none
            record = _write(run, results, new)
        checkpoints.remove(out)
        print("\n" + report.after_training(record, out))
        logs = (path for path in (out / output_folder.LOCAL / "tensorboard").rglob("*") if path.is_file())
        output_folder.record_files(out, logs)
    output_folder.let_go(out)
    return FinetuneResult(record, out, run.model, run.processor)


def _write(run: Run, results: Results, out: Path) -> dict[str, Any]:
    """Write the files of a result into an empty folder, and prove that they load; returns the record."""
    task, loaded = run.task, run.loaded
    with without_progress_bars():
        run.model.save_pretrained(out)
    run.processor.name_or_path = loaded.hub_id or loaded.source  # would be written as the path it came from
    run.processor.save_pretrained(out)
    if run.adapter is not None:
        shutil.copytree(run.adapter, out / "adapter", ignore=shutil.ignore_patterns(SEAL))
        adapters.name_base(out / "adapter", loaded.hub_id, loaded.commit)
    record = make_record(run, results)
    record = without_places(record, places_of(run.config, run.output_dir))
    if run.config.load_back_proof:
        record["proofs"]["load_back"] = verify_load_back(out, run.model, run.processor, task, run.splits, run.config)
    _write_local(run, out / output_folder.LOCAL)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (out / "run.json").write_text(text, encoding="utf-8")
    report.draw_figures(record, out / "figures")
    (out / "README.md").write_text(report.card(record), encoding="utf-8")
    return record


def make_record(run: Run, results: Results) -> dict[str, Any]:
    """All that `run.json` says, free of paths and tokens: what was done, stages, scores and proofs."""
    loaded, target = run.loaded, run.splits.target
    pair = "text_pair" in run.splits.train.column_names
    example = run.task.modality.example
    if pair:
        example = '{"text": "some text", "text_pair": "another text"}'
    if run.splits.truncation:  # `pipeline` does not cut by itself, and most models fail on longer texts
        example += f", truncation=True, max_length={run.splits.truncation[0].limit}"
    return {
        "hf_ft": __version__,
        "date": time.strftime("%Y-%m-%d"),
        **describe(run.config, run.splits, run.model, loaded, run.plan, run.task),
        **run.described_extensions(),
        **({"custom_metrics": results.custom} if results.custom else {}),
        **({"freeze_depth": run.chosen} if run.chosen else {}),
        "settings": recorded_settings(run.config, run.args),
        "stages": [{k: v for k, v in asdict(stage).items() if k != "checkpoint"} for stage in run.stages],
        "metric": run.shown,
        "selection_metric": run.metric,
        "metrics": _plain(results.metrics),
        "metrics_without_duplicates": _plain(results.without_copies),
        "baseline": results.baseline,
        "baseline_description": {"name": target.baseline_name, "note": target.baseline_note},
        "threshold": results.threshold,
        "usage": target.usage(example, run.splits.labels, results.threshold),
        "confusion": results.confusion,
        "head_input": results.head_input,
        "proofs": {
            "only_head_new": {"new": list(loaded.new), "loaded": loaded.loaded} if loaded.loaded else None,
            "frozen": {"tensors": [stage.frozen_checked for stage in run.stages]},
        },
        "machine": machine(),
        "versions": versions(),
    }


def _plain(metrics: Mapping[str, Mapping[str, Score]]) -> dict[str, Any]:
    return {split: {name: asdict(score) for name, score in scores.items()} for split, scores in metrics.items()}


def _write_local(run: Run, folder: Path) -> None:
    """Keep what is needed to repeat the run on this machine, paths included, where it is never published."""
    folder.mkdir(exist_ok=True)
    if (
        run.splits.duplicates.train is not None
    ):  # so that `hf-ft evaluate` tells which examples the model has learnt from
        save_contents(run.splits.duplicates.train, folder)
    record = {
        "command": without_secrets(sys.argv),
        "cwd": str(Path.cwd()),
        "model": run.config.model,
        "dataset": run.config.dataset,
        "explicit_options": sorted(run.config.explicit),
    }
    (folder / "origin.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
