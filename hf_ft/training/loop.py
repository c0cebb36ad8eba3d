"""Training: the stages of a plan one after another, and the best of them for the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from hf_ft.data import Splits, with_truncation
from hf_ft.environment import energy_measured, launcher_note, machine, stoppable
from hf_ft.errors import UserError
from hf_ft.heads import check_solver
from hf_ft.methods import Plan
from hf_ft.metrics import MULTI_LABEL
from hf_ft.modalities import check_tokens
from hf_ft.models import (
    LoadReport,
    adapters,
    drops_anywhere,
    modules_in_eval,
    scale_of,
    set_drop_path,
    why_no_affine,
)
from hf_ft.records import Machine
from hf_ft.reports import before_training, regularisation
from hf_ft.settings import Config
from hf_ft.storage import output_folder
from hf_ft.tasks import Task, get_task
from hf_ft.training.contrastive import check_contrastive
from hf_ft.training.description import describe
from hf_ft.training.extensions import Extensions, read_extensions, with_transform
from hf_ft.training.precision import describe_precision
from hf_ft.training.run import Forms, Run
from hf_ft.training.run_start import begin, restore, stage_folder
from hf_ft.training.stage_options import check_options
from hf_ft.training.stage_runner import run_stage

LEAVE = "Leave one of them out."


def train(
    model: PreTrainedModel,
    processor: Any,
    splits: Splits,
    plan: Plan,
    config: Config,
    args: TrainingArguments,
    loaded: LoadReport,
    task: Task | None = None,
    others: int = 0,
    *,
    callbacks: Any = None,
    compute_metrics: Any = None,
    loss: Any = None,
    data_collator: Any = None,
    transform: Any = None,
    head: Any = None,
    forms: Forms | None = None,
) -> Run:
    """Run the stages of a plan; each starts from the best checkpoint of the one before; the best is the result.

    With `resume_from_checkpoint`, finished stages are skipped, and an interrupted one continues from a checkpoint.
    Signals that end the process, such as Ctrl-C, let a stage write a checkpoint first.

    Args:
        task: Replaces the task that `config` names, in training, caching, scoring and saving.
        others: How many trainings of this length are to come that freeze alike: features may pay for all together.
        callbacks: `TrainerCallback` classes or objects, in every stage that trains by steps.
        compute_metrics: A function of an `EvalPrediction`, or a metric of `evaluate` (its id, a folder, a loaded one);
            reported beside the built-in metrics.
        loss: `loss(outputs, labels, num_items_in_batch)`, as `Trainer(compute_loss_func=...)` takes it.
        data_collator: Makes the batches of training; evaluation keeps the task's own.
        transform: PIL image -> PIL image or tensor, in training before the processor. It replaces the method's
            augmentation, unless `augment` is set.
        head: The `head` that `load_model` was called with, for the record and `--resume`.
        forms: How steps ran in the run that this one repeats, by stage; see `Run`.

    Raises:
        FreezeViolation: something frozen changed.
        UserError: settings that do not go together, or others than those of the run that is to be resumed.
        Terminated: the process received a signal to end.
    """
    extensions = read_extensions(callbacks, compute_metrics, loss, data_collator, transform, head)
    run = _new_run(model, processor, splits, plan, config, args, loaded, task or get_task(config.task), extensions)
    run.others, run.forms = others, forms
    encoded = _encoded(run)
    if run.learning.start:
        run.learning.start(model)
    undo = _with_drop_path(run)
    for stage in plan.stages:
        if stage.peft:  # a method that does not fit is answered before anything is trained or removed
            adapters.find_targets(model, stage, stage.peft, stage.peft_options)
    if args.should_save:
        _announce(run)
        output_folder.hold(run.output_dir, "run")
    with output_folder.let_go_if_raised(run.output_dir):
        _run_stages(run, *encoded)
        _settle(run)
    undo()
    return run


def _announce(run: Run) -> None:
    """Print what is about to happen."""
    known = describe(run.config, run.splits, run.model, run.loaded, run.plan, run.task)
    known.extensions, known.classes = run.described_extensions(), run.described_classes()
    known.precision = describe_precision(run.config, run.args)
    print(before_training(known, Machine(**machine()), launcher_note()) + "\n", flush=True)
    if run.config.random_images or run.config.augment_views or run.config.drop_path is not None:
        print(f"images   in training: {regularisation(vars(run.config))}", flush=True)


def _new_run(
    model: PreTrainedModel,
    processor: Any,
    splits: Splits,
    plan: Plan,
    config: Config,
    args: TrainingArguments,
    loaded: LoadReport,
    task: Task,
    extensions: Extensions,
) -> Run:
    """The run before its first stage.

    Raises:
        UserError: settings that do not go together.
    """
    target = splits.target
    by_default = target.default_metric_of(splits.train, splits.labels)
    metric = (args.metric_for_best_model or by_default).removeprefix("eval_")
    target.check_options(config, args)
    _check_scoring(config, splits, metric)
    _check_calibration(config, splits, model)
    check_solver(config, plan.stages)
    if config.method.contrastive:
        check_contrastive(model, loaded.groups, target)
    config = _config_for(extensions, config, args)
    if config.mixing and not target.takes_shares:
        name = next(iter(config.mixing))
        raise UserError(
            f"--{name} mixes labels, and {target.name} cannot learn shares of them.", option=name, hint="Leave it out."
        )
    splits = with_truncation(splits, task, processor, config)
    _limit_evaluation_batches(task, processor, config, args)
    learnt = splits.train
    if config.long_text == "windows":  # classes are counted, and numbers standardised, over what the loss is a mean of
        learnt = task.encode(splits.train, processor, config, False).select_columns(["labels"])
    learning = target.learning(scale_of(model), learnt, splits.labels, config, args)
    if extensions.loss is not None:
        learning = replace(learning, loss=extensions.loss, solver_loss=None)
    if own := extensions.metrics(target, splits.labels, learning.restore):
        built_in = learning.metrics
        learning = replace(learning, metrics=lambda prediction: {**built_in(prediction), **own(prediction)})
    run = Run(config, args, splits, plan, loaded, model, processor, metric, [], task, learning, extensions=extensions)
    run.default_metric = by_default
    _ = run.higher_is_better  # refuses a metric that is not known
    return run


def _limit_evaluation_batches(task: Task, processor: Any, config: Config, args: TrainingArguments) -> None:
    """Evaluate on a CPU in batches that are no slower there and take less memory, unless the user says otherwise."""
    if "per_device_eval_batch_size" not in config.explicit and args.device.type == "cpu":
        most = task.modality.at_once(processor) or args.per_device_eval_batch_size
        args.per_device_eval_batch_size = min(args.per_device_eval_batch_size, most)


def _check_scoring(config: Config, splits: Splits, metric: str) -> None:
    """Check that the data have what a threshold and the metric need.

    Raises:
        UserError: They do not.
    """
    if config.threshold is not None and (why := splits.target.threshold_problem(splits.labels)):
        raise UserError(f"--threshold: {why}.", option="threshold", value=config.threshold, hint="Leave it out.")
    missing = splits.target.undefined(splits.validation["labels"][:], splits.labels)
    if metric in missing:
        raise UserError(
            f"--metric_for_best_model {metric} is undefined on validation: {missing[metric]}.",
            option="metric_for_best_model",
            value=metric,
            hint="Choose another metric, or a larger validation split.",
        )


def _check_calibration(config: Config, splits: Splits, model: PreTrainedModel) -> None:
    """Check that the last layer of a model can hold a calibration, before it is trained.

    Raises:
        UserError: It cannot.
    """
    if not config.calibrate:
        return
    shifted = config.threshold is not None or splits.problem_type == MULTI_LABEL
    if why := why_no_affine(model, shifted):
        raise UserError(
            f"--calibrate: the head of {type(model).__name__} cannot hold a calibration: {why}.",
            option="calibrate",
            hint="Leave it out, or choose another model.",
        )


def _config_for(extensions: Extensions, config: Config, args: TrainingArguments) -> Config:
    """The settings as the extensions change them.

    Raises:
        UserError: a setting asks for what an extension rules out.
    """
    built_in = {
        "class_weights": config.class_weights not in ("none", {}),
        "label_smoothing_factor": bool(args.label_smoothing_factor),
        "loss": config.loss != "cross_entropy",
    }
    if extensions.loss is not None and any(built_in.values()):
        name = next(name for name, changed in built_in.items() if changed)
        hint = f"Leave out {name}, or do the same in the loss."
        raise UserError(f"{name} changes the built-in loss, which loss= replaces.", option=name, hint=hint)
    if extensions.data_collator is not None and config.mixing:
        name = next(iter(config.mixing))
        raise UserError(f"{name} mixes the built-in batches, which data_collator= replaces.", option=name, hint=LEAVE)
    if config.augment_views and extensions.uncacheable:
        raise UserError(
            f"augment_views caches features of the training images, and {extensions.uncacheable}.",
            option="augment_views",
            value=config.augment_views,
            hint=LEAVE,
        )
    if extensions.unsolvable and config.head_solver == "exact":
        hint = "Leave out head_solver, and the head trains by steps."
        raise UserError(f"head_solver exact: {extensions.unsolvable}.", option="head_solver", hint=hint)
    if extensions.unsolvable:
        config = replace(config, head_solver="sgd")
    if extensions.transform is not None and "augment" not in config.explicit:
        config = replace(config, augment="none")
    return config


def _with_drop_path(run: Run) -> Callable[[], None]:
    """Give the model stochastic depth where the user asks for a rate; returns what undoes it.

    Raises:
        UserError: The model has none, or no layer that has it trains.
    """
    rate = run.config.drop_path
    if rate is None:
        return lambda: None
    undo = set_drop_path(run.model, rate)
    if rate and not any(drops_anywhere(run.model, modules_in_eval(run.model, stage)) for stage in run.plan.stages):
        raise UserError(
            f"--drop_path {rate:g} has no effect: method '{run.config.method}' freezes all layers that have it.",
            option="drop_path",
            value=rate,
            hint="Leave it out, or train more, for example with --method lp_ft.",
        )
    return undo


def _encoded(run: Run) -> tuple[Any, Any]:
    """The training and the validation split as the task encodes them, checked with the options.

    Raises:
        UserError: options that do not go with the data, or tokens that do not come from the model's tokenizer.
    """
    train_set, validation_set = (
        run.task.encode(run.learning.prepare(split), run.processor, run.config, training)
        for split, training in ((run.splits.train, True), (run.splits.validation, False))
    )
    if run.extensions.transform is not None:
        train_set = with_transform(train_set, run.extensions.transform, run.args.seed)
    check_options(run, train_set)
    check_tokens(train_set, run.processor, run.config.model)
    return train_set, validation_set


def _run_stages(run: Run, train_set: Any, validation_set: Any) -> None:
    begin(run)
    with stoppable() as stop, energy_measured(run.config.energy if run.args.should_save else "off") as measured:
        for number, stage in enumerate(run.plan.stages, start=1):
            stop.check()
            run_stage(run, number, stage, train_set, validation_set, stop)
        stop.check()  # a signal that arrived after the last step
    run.energy = None if run.resumed else measured.energy  # that of the last process alone would mislead


def _settle(run: Run) -> None:
    """Make the model of the best stage the result."""
    best = _keep_best(run)
    if best < len(run.stages):
        name = run.stages[best - 1].name
        run.stages[-1].notes.append(f"stage '{name}' scored best on validation: the result has its weights")
    if run.learning.finish:
        run.learning.finish(run.model)
    adapter = stage_folder(run, best) / "adapter"
    run.adapter = adapter if adapter.is_dir() else None
    run.model.eval()


def _keep_best(run: Run) -> int:
    """Restore the best stage; returns its number.

    Of stages with equal scores the one with the lower loss on validation is the best, and if that is equal or unknown,
    the later.
    """
    if "load_best_model_at_end" in run.config.explicit and not run.args.load_best_model_at_end:
        return len(run.stages)
    scored = [stage for stage in run.stages if stage.best_metric is not None and stage.checkpoint]
    # A solved head is scored even where no stage evaluates: it must not win over one that has no score.
    if not scored or run.stages[-1].best_metric is None:
        return len(run.stages)
    sign = 1 if run.higher_is_better else -1
    best = max(
        scored,
        key=lambda stage: (sign * float(stage.best_metric or 0), -stage.best_loss(run.metric), run.stages.index(stage)),
    )
    if best is not run.stages[-1]:
        restore(run.model, run.output_dir / str(best.checkpoint))
    return run.stages.index(best) + 1
