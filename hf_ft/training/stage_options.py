"""Options of a stage that trains by steps: averaging, soup, early stopping, BatchNorm, and the guard of divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from hf_ft.environment import print_on_main
from hf_ft.errors import UserError
from hf_ft.feature_cache import format_size
from hf_ft.heads import expects_solved_head
from hf_ft.methods import AppliedStage
from hf_ft.models import has_statistics
from hf_ft.training.divergence import LOWER, DivergenceGuard
from hf_ft.training.early_stopping import Patience, patience_of, planned_evaluations
from hf_ft.training.run import Run
from hf_ft.training.run_start import stage_folder
from hf_ft.training.stage_arguments import stage_arguments, steps_per_epoch, total_steps
from hf_ft.training.weight_average import decay_of


@dataclass(frozen=True)
class StageOptions:
    """What the options of a run mean for one of its stages.

    Args:
        decay: The decay of the average of weights; None without one.
        soup: How many of the best checkpoints are averaged at most; 0 without a soup.
        patience: When the stage ends early; None if it does not.
    """

    decay: float | None
    soup: int
    patience: Patience | None


def stage_options(run: Run, stage: AppliedStage, args: TrainingArguments, epoch: int) -> StageOptions:
    """The options of a stage whose epochs have `epoch` steps.

    One with an objective of its own keeps its last weights, so it has none of them.
    """
    if stage.objective is not None:
        return StageOptions(decay=None, soup=0, patience=None)
    config, steps = run.config, total_steps(stage, epoch)
    return StageOptions(
        decay=None if config.ema is None else decay_of(config.ema, steps),
        soup=config.soup or 0 if stage is run.plan.stages[-1] else 0,
        patience=patience_of(config, args, stage, epoch, len(run.splits.validation)),
    )


def check_options(run: Run, train_set: Any) -> None:
    """Check before anything is trained that averaging has something to average, and that there is BatchNorm to hold.

    Raises:
        UserError: no stage trains by steps, the last stage has one checkpoint, or the model has no BatchNorm.
    """
    config, stages = run.config, run.plan.stages
    solved = [expects_solved_head(config, stages, stage, run.groups) for stage in stages]
    for name, useless in (("ema", all(solved)), ("soup", solved[-1])):
        if getattr(config, name) is not None and useless:
            raise UserError(
                f"--{name} averages weights of training by steps, and stage '{stages[-1].name}' solves its head in "
                "closed form.",
                option=name,
                value=getattr(config, name),
                hint="Leave it out, or train the head by steps with --head_solver sgd.",
            )
    if config.soup is not None:
        epoch = steps_per_epoch(run, stages[-1], train_set)
        args = stage_arguments(run, stages[-1], stage_folder(run, len(stages)), epoch)
        number = planned_evaluations(args, stages[-1], epoch)
        if number < 2:
            raise UserError(
                f"--soup averages checkpoints of stage '{stages[-1].name}', which has {number} evaluation"
                f"{'s' * (number != 1)} and so {number or 'no'} checkpoint{'s' * (number != 1)} to choose from.",
                option="soup",
                value=config.soup,
                hint="Train for more epochs, or evaluate more often with --eval_strategy steps --eval_steps N.",
            )
    if config.batch_norm == "eval" and not any(map(has_statistics, run.model.modules())):
        raise UserError(
            f"--batch_norm eval keeps running statistics, and {type(run.model).__name__} has no BatchNorm layer.",
            option="batch_norm",
            value="eval",
            hint="Leave it out.",
        )


def announce(
    run: Run, stage: AppliedStage, options: StageOptions, args: TrainingArguments, in_eval: Sequence[nn.Module]
) -> None:
    """Print what the options mean for a stage that trains by steps, one line each."""
    if options.decay is not None:
        print_on_main(
            f"ema      stage '{stage.name}' is scored and saved with averaged weights, decay {options.decay:.4g}", args
        )
    if (batches := run.batches.get(stage.name)) is not None:
        facts = batches.facts()
        print_on_main(
            f"batches  {facts['batches']:,} an epoch of at most {batches.tokens:,} tokens: {facts['texts']:.1f} texts "
            f"on average, {facts['padding']:.1%} padding",
            args,
        )
    if options.soup:
        parameters = list(run.model.parameters())
        beside = 2 if options.decay is None else 3  # what AdamW holds, and the weights that are not averaged
        bytes_each = sum(p.numel() * p.element_size() * (1 + beside * p.requires_grad) for p in parameters)
        print_on_main(
            f"soup     the {options.soup} best checkpoints of stage '{stage.name}' stay on disk until its end: about "
            f"{format_size(options.soup * bytes_each)}",
            args,
        )
    held = [module for module in in_eval if has_statistics(module)]
    if run.config.holds_batch_norm and held:
        print_on_main(f"norms    {len(held)} BatchNorm layers keep their running statistics", args)


def guard_of(run: Run, stage: AppliedStage, args: TrainingArguments, trainer: list[Any]) -> DivergenceGuard:
    """The guard of a stage; `trainer` gets its trainer once that is made."""
    own = next((one for one in run.config.method.own_stages if one.name == stage.name), None)
    if own is not None and own.learning_rate is not None:
        option = f"learning_rate {own.learning_rate / LOWER:g} in its plan"
    else:
        option = f"--learning_rate {run.plan.learning_rate / LOWER:.3g}"

    def kept() -> str:
        sign, state = 1 if run.higher_is_better else -1, trainer[0].state
        found = [(done.best_metric, run.output_dir / done.checkpoint) for done in run.stages if done.checkpoint]
        found += [(state.best_metric, Path(state.best_model_checkpoint))] if state.best_model_checkpoint else []
        scored = [(-math.inf if score is None else sign * score, str(folder)) for score, folder in found]
        return max(scored, default=(0.0, ""))[1]

    return DivergenceGuard(stage.name, stage.rate, option, bool(args.warmup_steps), kept)
