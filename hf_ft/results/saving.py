"""The result folder: a plain Hub model with its card, figures and record, proved to load without hf_ft."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from hf_ft import __version__
from hf_ft.data import save_contents
from hf_ft.environment import machine, phase, phase_seconds, processor_name, versions
from hf_ft.evaluation import Results, load_back_begun
from hf_ft.metrics import ClassScore, Score
from hf_ft.models import adapters, save_model, without_progress_bars
from hf_ft.publishing import without_secrets
from hf_ft.records import (
    Baseline,
    ClassScoreRecord,
    ClassScores,
    FrozenProof,
    HeadInputRecord,
    ImageSizeProof,
    Machine,
    NewTensors,
    Proofs,
    RepeatRecord,
    RunRecord,
    ScoreRecord,
    Scores,
    StageRecord,
    ThresholdRecord,
    from_json,
    to_json,
)
from hf_ft.reports import after_training, write_figures, write_texts
from hf_ft.results.end_of_run_upload import publish_result
from hf_ft.results.finetune_result import FinetuneResult
from hf_ft.storage import SEAL, files_digest, output_folder, write_json
from hf_ft.training import (
    Run,
    checkpoints,
    describe,
    describe_precision,
    places_of,
    public_command,
    recorded_settings,
    repeatable_settings,
    without_places,
)


def save(run: Run, results: Results) -> FinetuneResult:
    """Write the result folder, prove that it loads back, remove the checkpoints, and publish if that was asked for.

    Raises:
        LoadBackFailure: The saved model differs from the trained one.
        NotPublished: With `push_to_hub=True`: the result is complete, but the Hub refused it.
    """
    if not run.args.should_save:  # in a distributed run one process writes
        return FinetuneResult(make_record(run, results).as_dict(), run.output_dir, run.model, run.processor)
    out = run.output_dir
    with output_folder.let_go_if_raised(out):
        with output_folder.staging(out) as new:  # the folder has a complete result or none
            record = _write(run, results, new)
        checkpoints.remove(out)
        print("\n" + after_training(record, out))
        logs = (path for path in (out / output_folder.LOCAL / "tensorboard").rglob("*") if path.is_file())
        output_folder.record_files(out, logs)
    output_folder.let_go(out)
    return publish_result(FinetuneResult(record.as_dict(), out, run.model, run.processor), vars(run.args))


def _write(run: Run, results: Results, out: Path) -> RunRecord:
    """Write the files of a result into an empty folder, prove that they load, and return the record."""
    task, loaded = run.task, run.loaded
    with without_progress_bars():
        save_model(run.model, out)
    run.processor.name_or_path = loaded.hub_id or loaded.source  # else its local path is saved
    run.processor.save_pretrained(out)
    if run.adapter is not None:
        shutil.copytree(run.adapter, out / "adapter", ignore=shutil.ignore_patterns(SEAL))
        adapters.name_base(out / "adapter", loaded.hub_id, loaded.commit)
        if results.calibration is not None:
            results.calibration.affine.fold_adapter(out / "adapter")
    record = make_record(run, results)
    record.repeat = _repeat(run, out)
    with ExitStack() as stack:
        finish = None
        if run.config.load_back_proof:  # its process works while figures are drawn
            about = run.model, run.processor, task, run.splits, run.config
            with phase("load back"):
                finish = stack.enter_context(load_back_begun(out, *about, results.prover))
        _write_local(run, out / output_folder.LOCAL)
        with phase("figures"):
            write_figures(record, out)
        if finish is not None:
            with phase("load back"):
                record.proofs.load_back = finish()
    record.phases = phase_seconds()
    write_texts(record, out)
    write_json(out / record.FILE, record.as_dict())
    return record


def make_record(run: Run, results: Results) -> RunRecord:
    """Return the record of a run, without local paths and tokens: settings, stages, scores and proofs."""
    loaded, target, sized = run.loaded, run.splits.target, run.loaded.image_size
    description = describe(run.config, run.splits, run.model, loaded, run.plan, run.task)
    description.extensions, description.classes = run.described_extensions(), run.described_classes()
    description.precision, settings = describe_precision(run.config, run.args), recorded_settings(run.config, run.args)
    if run.averaged is not None:
        best = run.averaged.best
        description.plan, description.precision, settings = best.plan, best.precision, best.settings
    record = RunRecord(
        schema_version=RunRecord.SCHEMA,
        hf_ft=__version__,
        date=time.strftime("%Y-%m-%d"),
        **vars(description),
        freeze_depth=run.chosen,
        custom_metrics=results.custom,
        by_class=_by_class(results.by_class),
        undefined_metrics=results.undefined,
        rare_class=_rare_class(results),
        settings=settings,
        stages=[StageRecord(**{k: v for k, v in asdict(stage).items() if k != "checkpoint"}) for stage in run.stages],
        metric=run.shown,
        selection_metric=run.metric,
        metrics=_scores(results.metrics),
        metrics_without_duplicates=_scores(results.without_copies),
        baseline=results.baseline,
        baseline_description=Baseline(target.baseline_name, target.baseline_note),
        threshold=results.threshold,
        usage=_usage(run, results),
        confusion=results.confusion,
        head_input=HeadInputRecord(**results.head_input) if results.head_input else None,
        soup=run.averaged.soup if run.averaged else None,
        autotune=results.autotune,
        command=_command(run),
        adapter=run.adapter is not None,
        energy=run.energy,
        examples=results.examples,
        calibration=results.calibration.record if results.calibration else None,
        proofs=Proofs(
            only_head_new=NewTensors(list(loaded.new), loaded.loaded) if loaded.loaded else None,
            frozen=FrozenProof([stage.frozen_checked for stage in run.stages]),
            image_size=ImageSizeProof(**(asdict(sized) | {"resampled": list(sized.resampled)})) if sized else None,
        ),
        machine=Machine(**machine()),
        versions=versions(),
    )
    return from_json(RunRecord, without_places(to_json(record), places_of(run.config, run.output_dir)))


def _command(run: Run) -> str:
    if run.averaged is None:
        return public_command(run.config)
    runs = (member.name for member in run.averaged.soup.members)
    return " ".join(["hf-ft soup", *map(shlex.quote, runs), "--output_dir OUT"])


def _repeat(run: Run, folder: Path) -> RepeatRecord | None:
    """What `--from_run` reads, without local paths; None for an average, which no training gives."""
    if run.averaged is not None:
        return None
    return RepeatRecord(
        settings=without_places(repeatable_settings(run.config), places_of(run.config, run.output_dir)),
        explicit=sorted(run.config.explicit),
        processor=processor_name(),
        threads=torch.get_num_threads(),
        weights=files_digest(sorted(folder.glob("*.safetensors"))),
    )


def _usage(run: Run, results: Results) -> str:
    """Return the line of Python that runs the saved model on an example of its kind of input."""
    example = run.task.modality.example
    if "text_pair" in run.splits.train.column_names:
        example = '{"text": "some text", "text_pair": "another text"}'
    if run.splits.truncation:  # `pipeline` does not truncate by default, and most models fail on longer texts
        example += f", truncation=True, max_length={run.splits.truncation[0].limit}"
    return run.splits.target.usage(example, run.splits.labels, results.threshold)


def _scores(metrics: Mapping[str, Mapping[str, Score]]) -> dict[str, Scores]:
    return {
        split: {name: ScoreRecord(**asdict(score)) for name, score in scores.items()}
        for split, scores in metrics.items()
    }


def _by_class(scores: Mapping[str, Sequence[ClassScore]]) -> dict[str, ClassScores]:
    return {split: [ClassScoreRecord(**asdict(score)) for score in found] for split, found in scores.items()}


def _rare_class(results: Results) -> ThresholdRecord | None:
    found = results.rare_class
    if found is None:
        return None
    return ThresholdRecord(found.label, found.value, found.fitted, _scores(found.metrics), _by_class(found.by_class))


def _write_local(run: Run, folder: Path) -> None:
    """Write what repeating the run on this machine takes, including paths, into the folder that is never published."""
    folder.mkdir(exist_ok=True)
    # So that `hf-ft evaluate` recognises examples of the training split.
    if run.splits.duplicates.train is not None:
        save_contents(run.splits.duplicates.train, folder)
    record = {
        "command": without_secrets(sys.argv),
        "cwd": str(Path.cwd()),
        "model": run.config.model,
        "dataset": run.config.dataset,
        "explicit_options": sorted(run.config.explicit),
    }
    if run.averaged is not None:
        record["runs"] = [str(folder.absolute()) for folder in run.averaged.folders]
    write_json(folder / "origin.json", record)
