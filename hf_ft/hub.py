"""The result folder: a plain Hub model with its card, pictures and record; and what of it may be published."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_ft import __version__, adapters, report
from hf_ft.config import Config
from hf_ft.evaluation import Results, prove_load_back
from hf_ft.lookup import UserError, shorten
from hf_ft.model import LoadReport
from hf_ft.output_folder import leaks, publishable
from hf_ft.plan import parse_method
from hf_ft.tasks import get_task
from hf_ft.training import Run

PACKAGES = ("accelerate", "datasets", "evaluate", "peft", "timm", "torch", "torchvision", "transformers")
RECORDED = (
    "seed per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps weight_decay "
    "lr_scheduler_type warmup_steps optim max_grad_norm label_smoothing_factor fp16 bf16 gradient_checkpointing "
    "torch_compile"
).split()
"""The `TrainingArguments` in `run.json`: a list of its own, because the rest includes tokens and paths."""


def save(run: Run, results: Results, loaded: LoadReport) -> Path:
    """Write the result folder, prove that it loads back, and remove the checkpoints.

    Raises:
        LoadBackFailure: the saved model does not give the logits of the trained one.
    """
    out, task = run.output_dir, get_task(run.config.task)
    run.model.save_pretrained(out)
    run.processor.name_or_path = loaded.hub_id or loaded.source  # would be written as the path it came from
    run.processor.save_pretrained(out)
    if (out / "adapter").is_dir():
        adapters.name_base(out / "adapter", loaded.hub_id, loaded.commit)
    record = make_record(run, results, loaded)
    if run.config.load_back_proof:
        split = run.splits.test if run.splits.test is not None else run.splits.validation
        record["proofs"]["load_back"] = prove_load_back(
            out, run.model, run.processor, task, split, run.config.max_length
        )
    _write_local(run)
    (out / "run.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report.draw_figures(record, out / "figures")
    (out / "README.md").write_text(report.card(record), encoding="utf-8")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return out


def make_record(run: Run, results: Results, loaded: LoadReport) -> dict[str, Any]:
    """All that `run.json` says, free of paths and tokens: settings, data, model, plan, stages, scores, proofs."""
    task = get_task(run.config.task)
    return {
        "hf_ft": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "task": task.name,
        "pipeline": task.pipeline,
        "auto_class": task.auto_class,
        "method": run.config.method,
        "paper": parse_method(run.config.method)[0].paper,
        "model": {
            "name": loaded.source,
            "hub_id": loaded.hub_id,
            "commit": loaded.commit,
            "digest": loaded.digest,
            "class": type(run.model).__name__,
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "notes": list(loaded.notes),
        },
        "data": {
            "name": public_name(run.config.dataset),
            "hub_id": None if Path(run.config.dataset).expanduser().exists() else run.config.dataset,
            "problem_type": run.splits.problem_type,
            "labels": list(run.splits.labels),
            "sizes": {
                name: len(split)
                for name, split in (
                    ("train", run.splits.train),
                    ("validation", run.splits.validation),
                    ("test", run.splits.test),
                )
                if split is not None
            },
            "fingerprint": run.splits.fingerprint,
            "notes": list(run.splits.notes),
        },
        "settings": recorded_settings(run.config) | {name: _plain(getattr(run.args, name)) for name in RECORDED},
        "plan": {
            "groups": [{"name": g.name, "role": g.role, "parameters": g.size} for g in run.groups],
            "stages": [
                {
                    "name": stage.name,
                    "epochs": stage.epochs,
                    "settings": [[setting.mode, setting.rate] for setting in stage.settings],
                }
                for stage in run.plan.stages
            ],
        },
        "stages": [{k: v for k, v in asdict(stage).items() if k != "checkpoint"} for stage in run.stages],
        "metric": run.metric,
        "metrics": {
            split: {name: asdict(score) for name, score in scores.items()} for split, scores in results.metrics.items()
        },
        "baseline": results.baseline,
        "threshold": results.threshold,
        "confusion": results.confusion,
        "proofs": {
            "only_head_new": {"new": list(loaded.new), "loaded": loaded.loaded, "passed": True}
            if loaded.loaded
            else None,
            "frozen": {"tensors": [stage.frozen_checked for stage in run.stages], "passed": True},
        },
        "machine": machine(),
        "versions": versions(),
    }


def recorded_settings(config: Config) -> dict[str, Any]:
    """The settings of a run that may be published: local folders by their last part only."""
    settings = {k: v for k, v in asdict(config).items() if k != "given" and v is not None}
    return settings | {"model": public_name(config.model), "dataset": public_name(config.dataset)}


def public_name(name: str) -> str:
    """A Hub id as it is; a local path as its last part."""
    return Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else name


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | str | None) else str(getattr(value, "value", value))


def machine() -> dict[str, Any]:
    """Processor or GPU, cores and Python: what a timing has to be read with."""
    import os

    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "device": shorten(gpus) if gpus else "CPU",
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a run does."""
    return {name: version(name) for name in PACKAGES}


def _write_local(run: Run) -> None:
    """Keep what is needed to repeat the run on this machine, paths included, where it is never published."""
    folder = run.output_dir / ".local"
    folder.mkdir(exist_ok=True)
    record = {
        "command": sys.argv,
        "cwd": str(Path.cwd()),
        "model": run.config.model,
        "dataset": run.config.dataset,
        "given": sorted(run.config.given),
    }
    (folder / "origin.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def push(folder: Path, repo_id: str, private: bool = False, dry_run: bool = False) -> list[str]:
    """Publish a result folder on the Hub: the whitelisted files and nothing else; returns the lines to print.

    Raises:
        UserError: no finished run, files that hold a token or a path of this machine, or the Hub refuses.
    """
    files, kept = publishable(folder)
    hits = leaks(folder, files)
    if hits:
        raise UserError(f"Nothing was published: {shorten(hits)}. Remove these from the files first.")
    total = sum((folder / name).stat().st_size for name in files)
    lines = [f"To {repo_id} ({'private' if private else 'public'}): {len(files)} files, {total / 1e6:.1f} MB"]
    lines += [f"  {name}  {(folder / name).stat().st_size:,} bytes" for name in files]
    lines += [f"Stays here: {shorten(kept, 8)}"] if kept else []
    if dry_run:
        return [*lines, "Dry run: nothing was published."]
    return [*lines, f"Published: {_upload(folder, repo_id, private, files)}"]


def _upload(folder: Path, repo_id: str, private: bool, files: list[Path]) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[str(name) for name in files],
            commit_message="Model trained with hf_ft",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"The Hub did not take it: {reason} Log in with `hf auth login`, and check --repo_id.") from error
    return str(commit)
