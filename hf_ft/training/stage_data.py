"""The data of a stage: cached features, cached images, or the encoded dataset as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainingArguments

from hf_ft.autotune import Autotuner
from hf_ft.environment import print_on_main
from hf_ft.errors import UserError
from hf_ft.feature_cache import CachedStage, CacheRequest, NotCached, Summary, cache_images, make_tuner, open_cache
from hf_ft.heads import (
    PROBED,
    SAMPLE_SEED,
    expects_solved_head,
    linear_head_of,
    sample_places,
    should_solve,
    watched_blocks,
)
from hf_ft.methods import AppliedStage
from hf_ft.models import adapters
from hf_ft.settings import Config
from hf_ft.tables import file_column
from hf_ft.training import checkpoints
from hf_ft.training.run import Run
from hf_ft.training.run_start import of_main
from hf_ft.training.stage_arguments import evaluations, steps_per_epoch
from hf_ft.training.tuned_steps import pinned_variants, recorded_variants


@dataclass(frozen=True)
class StageData:
    """What a stage reads.

    Attributes:
        opened: The cached stage, or why it runs uncached.
        rows: What it trains on and evaluates.
        evaluated: The cached validation split (its `train`) of a stage that runs uncached because its training images
            change; None where evaluations run like training.
        images: Facts about cached images.
        tuner: The autotuner of the stage.
    """

    opened: CachedStage | str
    rows: Sequence[Any]
    evaluated: CachedStage | None
    images: dict[str, float] | None
    tuner: Autotuner | None


def read_once(
    run: Run, folder: Path, stage: AppliedStage, args: TrainingArguments, sets: tuple[Any, Any], model: Any
) -> StageData:
    """Open the cache for a stage; `model` is that of the run, with the adapters of the stage.

    Whether caching pays off is measured, and so is the form in which steps run: a resumed stage keeps to what was
    decided when it began.
    """
    earlier = of_main(run, lambda notes: checkpoints.decided(folder, notes)) if run.resumed else None
    uncached = earlier["uncached"] if earlier else None
    repeated = None if run.forms is None else run.forms.get(stage.name, {})
    tuner = make_tuner(run.config, args, pinned_variants(earlier, folder, repeated))
    job, opened = _opened(run, stage, args, sets, uncached, tuner, _unsplittable(stage, model))
    if earlier and uncached is None and isinstance(opened, str) and checkpoints.steps(folder):
        raise UserError(
            f"--resume: stage '{stage.name}' read the outputs of its frozen layers from the cache, and now it "
            f"cannot: {opened}. Make that possible, or start over with --overwrite_output_dir."
        )
    evaluated = None
    if isinstance(opened, CachedStage):
        prepared: Sequence[Any] = (opened.train, opened.validation)
        images = None
    else:
        without = earlier is not None and not earlier["images"]
        prepared, images = (job.datasets, None) if without else cache_images(job)
        if earlier is None or earlier.get("evaluated"):  # runs that earlier versions began lack it
            evaluated = _open_validation(job)
        if evaluated is not None:
            prepared = prepared[0], evaluated.train
    if run.config.augment_views and isinstance(opened, str):
        why = f"stage '{stage.name}', which freezes no block: its images are augmented anew in each epoch"
        print_on_main(f"views    not used in {why}", args)
    if earlier is None and run.args.should_save:
        kept = images is not None
        reason = None if isinstance(opened, CachedStage) else opened
        decided = {"uncached": reason, "images": kept, "evaluated": evaluated is not None}
        checkpoints.write_file(folder / checkpoints.BEGUN, {**decided, "autotune": recorded_variants(tuner)})
    return StageData(opened, prepared, evaluated, images, tuner)


def _opened(
    run: Run,
    stage: AppliedStage,
    args: TrainingArguments,
    sets: tuple[Any, Any],
    uncached: str | None,
    tuner: Autotuner | None,
    unsplittable: str,
) -> tuple[CacheRequest, CachedStage | str]:
    """The request of a stage, and its cached form or why it runs uncached (`uncached`, if known from before).

    Augmentation and mixing are for training by steps: a head to be solved reads plain images, unless the augmented ones
    are fixed views.
    """
    config = run.config
    if uncached is not None:
        return _job(run, stage, args, sets, config, tuner), uncached
    changes = file_column(sets[0]) and (config.augment not in (None, "none") or config.erasing or config.mixing)
    if changes and not config.augment_views and expects_solved_head(config, run.plan.stages, stage, run.groups):
        plain = replace(config, augment="none", random_erasing=None, mixup=None, cutmix=None)
        rows = run.task.encode(run.learning.prepare(run.splits.train), run.processor, plain, False)
        job = _job(run, stage, args, (rows, sets[1]), plain, tuner)
        opened = _open_cache(job)
        if isinstance(opened, CachedStage) and linear_head_of(opened.split):
            return job, opened
    job = replace(_job(run, stage, args, sets, config, tuner), unsplittable=unsplittable)
    return job, _open_cache(job)


def _unsplittable(stage: AppliedStage, model: Any) -> str:
    """Why the upper part of a model cannot train alone with the adapters of a stage; empty where it can."""
    shared = isinstance(model, PeftModel) and adapters.shared_tensors(model, stage)
    return f"the adapters of peft:{stage.peft} share tensors between layers" if shared else ""


def _job(
    run: Run,
    stage: AppliedStage,
    args: TrainingArguments,
    sets: tuple[Any, Any],
    config: Config,
    tuner: Autotuner | None,
) -> CacheRequest:
    """What a stage reads and how often; without validation if it does not evaluate."""
    collator = run.task.collator(run.processor)
    epoch = steps_per_epoch(run, stage, sets[0])
    passes = stage.epochs if stage.max_steps < 0 else stage.max_steps / epoch
    reads = passes * (1 + run.others), evaluations(args, stage, epoch) * (1 + run.others)
    solved = should_solve(run.config, run.plan.stages, stage) and run.learning.of_fixed_features is not None
    parts = sets if reads[1] or solved else sets[:1]
    views = _views(run, stage, passes) if file_column(sets[0]) else 0
    return CacheRequest(
        *(run.model, run.groups, stage, parts, run.processor, collator, config, config.augment, args, *reads),
        find_linear_head=linear_head_of if solved else None,
        encode=run.task.encode,
        uncacheable=run.extensions.uncacheable,
        erasing=config.erasing,
        mixes=tuple(config.mixing),
        views=views,
        summary=_block_means(run) if run.probes_layers and not views else None,
        tuner=tuner,
    )


def _views(run: Run, stage: AppliedStage, epochs: float) -> int:
    """How many views of each image a stage reads: one in each epoch, or all where its head is solved."""
    views = run.config.augment_views or 0
    solved = expects_solved_head(run.config, run.plan.stages, stage, run.groups)
    return views if solved else min(views, math.ceil(epochs))


def _block_means(run: Run) -> Summary:
    """What layer probes need of the pass that computes features: the mean state at each boundary."""
    sample = partial(sample_places, most=PROBED, seed=SAMPLE_SEED)
    return Summary("mean states of blocks", partial(watched_blocks, run.model, run.groups), sample)


def _open_validation(job: CacheRequest) -> CachedStage | None:
    """The validation split with cached features, for a stage that cannot cache training images since they change.

    Final scores read it once more.
    """
    changing = (job.mixes or (job.augments and not job.views)) and not (job.uncacheable or job.unsplittable)
    if not changing or len(job.datasets) < 2 or not file_column(job.datasets[1]) or job.args.torch_compile:
        return None
    alone = replace(job, datasets=job.datasets[1:], passes=job.evaluations + 1, evaluations=0.0, find_linear_head=None)
    where = f"evaluations of stage '{job.stage.name}'"
    opened = _open_cache(replace(alone, augment=None, erasing=0.0, mixes=(), views=0), where)
    if isinstance(opened, str):
        return None
    print_on_main(f"cache    {where} skip the frozen layers", job.args)
    return opened


def _open_cache(job: CacheRequest, where: str = "") -> CachedStage | str:
    """The stage with cached features, or why it runs uncached."""
    try:
        return open_cache(job)
    except NotCached as reason:
        if str(reason):
            where = where or f"stage '{job.stage.name}'"
            print_on_main(f"cache    not used in {where}: {reason}", job.args)
        return str(reason)
