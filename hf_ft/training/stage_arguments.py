"""The `TrainingArguments` of a stage: those of the user, completed by the plan."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from hf_ft.methods import AppliedStage
from hf_ft.training.run import Run
from hf_ft.training.token_batches import token_batches

EVALUATIONS = 20
"""Most evaluations (and checkpoints) of a stage with short epochs."""
SHORT_EPOCH = 10
"""Steps of an epoch below which a stage has half as many: writing a checkpoint takes as long as several such epochs."""
RARELY = 500
"""Steps from one checkpoint to the next in a stage that does not evaluate, as by default in `Trainer`."""


def stage_arguments(run: Run, stage: AppliedStage, folder: Path, epoch: int) -> TrainingArguments:
    """The user's `TrainingArguments` with what the plan decides: folder, epochs, rate, evaluations, best metric.

    Args:
        epoch: How many optimizer steps an epoch of the stage has, see `steps_per_epoch`.
    """
    args = copy.deepcopy(run.args)
    args.output_dir = str(folder)
    args.num_train_epochs = stage.epochs
    args.max_steps = stage.max_steps
    args.learning_rate = stage.highest_rate
    if stage.scheduler is not None:
        args.lr_scheduler_type = SchedulerType(stage.scheduler)
    if stage.warmup is not None:
        args.warmup_steps = stage.warmup
    args.remove_unused_columns = False  # an image column is read by the transform, after this would drop it
    args.label_names = ["labels"]  # some models' forward takes them as one of `**kwargs`, where `Trainer` sees none
    args.push_to_hub, args.hub_token = False, None  # `training_args.bin` of each checkpoint would hold the token
    args.restore_callback_states_from_checkpoint = True  # how long early stopping has waited
    args.metric_for_best_model = run.metric
    args.greater_is_better = run.higher_is_better
    explicit = run.config.explicit
    if stage.objective is not None:
        return _without_evaluation(args, "save_strategy" in explicit, total_steps(stage, epoch))
    if "eval_strategy" not in explicit and "save_strategy" not in explicit:
        _schedule_evaluation(args, stage, epoch)
    elif "save_strategy" not in explicit:  # the best is loaded at the end, so what is evaluated must be saved
        args.save_strategy, args.save_steps = SaveStrategy(args.eval_strategy), args.eval_steps or args.save_steps
    elif "eval_strategy" not in explicit and args.save_strategy in ("epoch", "steps"):
        args.eval_strategy, args.eval_steps = IntervalStrategy(args.save_strategy), args.save_steps
    if args.eval_strategy == "no" or args.save_strategy == "no":
        args.load_best_model_at_end = False
    elif "load_best_model_at_end" not in explicit:
        args.load_best_model_at_end = True
    if "save_total_limit" not in explicit:
        args.save_total_limit = 1
    if "logging_strategy" not in explicit and "logging_steps" not in explicit:
        args.logging_strategy, args.logging_steps = args.eval_strategy, args.eval_steps or args.logging_steps
    return args


def _without_evaluation(args: TrainingArguments, saves: bool, steps: int) -> TrainingArguments:
    """Keep the last state of a stage with an objective of its own: the metrics of the task cannot tell which is best.

    Checkpoints are far apart unless the user set them: a step on a few examples takes less time than writing one.
    """
    args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
    if not saves or args.save_strategy == SaveStrategy.BEST:
        args.save_strategy = SaveStrategy.STEPS if steps > RARELY else SaveStrategy.NO
        args.save_steps = RARELY
    args.save_total_limit = args.save_total_limit or 1
    args.logging_strategy, args.logging_steps = IntervalStrategy.STEPS, 10
    return args


def _schedule_evaluation(args: TrainingArguments, stage: AppliedStage, epoch: int) -> None:
    """Evaluate after each epoch, or less often where epochs are a few steps long."""
    total = total_steps(stage, epoch)
    most = EVALUATIONS if epoch >= SHORT_EPOCH else EVALUATIONS // 2
    if total <= most * epoch and stage.max_steps < 0:
        args.eval_strategy = args.save_strategy = "epoch"
        return
    steps = max(1, math.ceil(total / most))
    args.eval_strategy = args.save_strategy = "steps"
    args.eval_steps = args.save_steps = steps


def evaluations(args: TrainingArguments, stage: AppliedStage, epoch: int) -> float:
    """How often a stage evaluates whose epochs have `epoch` optimizer steps."""
    if args.eval_strategy == "no":
        return 0
    steps = total_steps(stage, epoch)
    return stage.epochs if args.eval_strategy == "epoch" else steps / (args.eval_steps or 1)


def total_steps(stage: AppliedStage, epoch: int) -> int:
    """How many optimizer steps a stage has whose epochs have `epoch` of them."""
    return stage.max_steps if stage.max_steps > 0 else math.ceil(epoch * stage.epochs)


def steps_per_epoch(run: Run, stage: AppliedStage, rows: Any) -> int:
    """How many optimizer steps an epoch of a stage has on some encoded rows."""
    args = run.args
    batches = token_batches(run, stage, rows)
    if batches is not None:
        return math.ceil(len(batches) / args.gradient_accumulation_steps)
    return math.ceil(
        len(rows) / (args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)
    )
