"""What a stage reads: cached features, images from the image cache, or the data set as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_ft.environment import print_on_main
from hf_ft.errors import UserError
from hf_ft.feature_cache import CachedStage, CacheRequest, NotCached, cache_images, open_cache
from hf_ft.heads import expects_solver, linear_head_of, wants_solver
from hf_ft.methods import AppliedStage
from hf_ft.settings import Config
from hf_ft.tables import file_column
from hf_ft.training import checkpoints
from hf_ft.training.arguments import evaluations, steps_per_epoch
from hf_ft.training.resuming import of_main
from hf_ft.training.run import Run


def read_once(
    run: Run, folder: Path, stage: AppliedStage, args: TrainingArguments, sets: tuple[Any, Any]
) -> tuple[CachedStage | str, Sequence[Any], dict[str, float] | None]:
    """The cached stage or why it runs live, what it reads, and which images are kept.

    Whether that pays is measured, so a resumed stage takes over what was decided when it began.
    """
    earlier = of_main(run, lambda notes: checkpoints.decided(folder, notes)) if run.resumed else None
    live = earlier["live"] if earlier else None
    job, opened = _opened(run, stage, args, sets, live)
    if earlier and live is None and isinstance(opened, str) and checkpoints.steps(folder):
        raise UserError(
            f"--resume: stage '{stage.name}' read the outputs of its frozen layers from the cache, and now it "
            f"cannot: {opened}. Make that possible, or begin anew with --overwrite_output_dir."
        )
    if isinstance(opened, CachedStage):
        prepared: Sequence[Any] = (opened.train, opened.validation)
        images = None
    else:
        without = earlier is not None and not earlier["images"]
        prepared, images = (job.datasets, None) if without else cache_images(job)
    if earlier is None and run.args.should_save:
        kept = images is not None
        checkpoints.write_file(
            folder / checkpoints.BEGUN, {"live": None if isinstance(opened, CachedStage) else opened, "images": kept}
        )
    return opened, prepared, images


def _opened(
    run: Run, stage: AppliedStage, args: TrainingArguments, sets: tuple[Any, Any], live: str | None
) -> tuple[CacheRequest, CachedStage | str]:
    """What a stage reads, and the stage split at its first group that trains, or why it runs live (if known, `live`).

    Augmentation is for steps: a head that is to be solved reads the images as they are, unless the user augments.
    """
    config = run.config
    if live is not None:
        return _job(run, stage, args, sets, config), live
    augments = file_column(sets[0]) and config.augment not in (None, "none") and "augment" not in config.explicit
    if augments and expects_solver(config, run.plan.stages, stage, run.groups):
        plain = replace(config, augment="none")
        rows = run.task.encode(run.learning.prepare(run.splits.train), run.processor, plain, False)
        job = _job(run, stage, args, (rows, sets[1]), plain)
        opened = _open_cache(job)
        if isinstance(opened, CachedStage) and linear_head_of(opened.split):
            return job, opened
    job = _job(run, stage, args, sets, config)
    return job, _open_cache(job)


def _job(run: Run, stage: AppliedStage, args: TrainingArguments, sets: tuple[Any, Any], config: Config) -> CacheRequest:
    """What a stage reads, and how often; without validation where it does not look at it."""
    examples, collator = len(sets[0]), run.task.collator(run.processor)
    passes = stage.epochs if stage.max_steps < 0 else stage.max_steps / steps_per_epoch(args, examples)
    reads = passes * (1 + run.others), evaluations(args, stage, examples) * (1 + run.others)
    solved = wants_solver(run.config, run.plan.stages, stage) and run.learning.loss is not None
    parts = sets if reads[1] or solved else sets[:1]
    return CacheRequest(
        *(run.model, run.groups, stage, parts, run.processor, collator, config, config.augment, args, *reads),
        find_linear_head=linear_head_of if solved else None,
        encode=run.task.encode,
        uncacheable=run.extensions.uncacheable,
    )


def _open_cache(job: CacheRequest) -> CachedStage | str:
    """The stage split at its first group that trains, with the features of its examples; or why it runs live."""
    try:
        return open_cache(job)
    except NotCached as reason:
        if str(reason):
            print_on_main(f"cache    not used in stage '{job.stage.name}': {reason}", job.args)
        return str(reason)
