"""One stage: its `Trainer` or its head solver, the freeze audit around it, and its files."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, TrainingArguments

from hf_ft.environment import Stop, print_on_main, training_memory
from hf_ft.errors import UserError
from hf_ft.feature_cache import CachedImages, CachedStage, CachedViews, PrebatchedCollator
from hf_ft.heads import expects_solved_head, linear_head_of, options_against_solver, should_solve, solve_head
from hf_ft.methods import CONTRASTIVE, AppliedStage
from hf_ft.modalities import ImageMixing
from hf_ft.models import (
    FrozenMode,
    adapters,
    audit,
    ensure_gradients,
    example_inputs,
    features_as_logits,
    held_statistics,
    modules_in_eval,
    rated_groups,
    set_trainable,
    snapshot,
    without_progress_bars,
)
from hf_ft.records import StoppedEarly
from hf_ft.reports import stopped_early_line
from hf_ft.training import checkpoints
from hf_ft.training.callbacks import Bar, Lines
from hf_ft.training.checkpoint_soup import make_soup, ranked
from hf_ft.training.contrastive import contrastive_loss, in_pairs
from hf_ft.training.data_order import SeededRows, classes_of
from hf_ft.training.early_stopping import EarlyStop, stopped_early
from hf_ft.training.pooled_metrics import over_examples
from hf_ft.training.precision import float32_format
from hf_ft.training.run import Run, StageResult, epochs_of
from hf_ft.training.run_start import ended_before, of_main, stage_folder
from hf_ft.training.stage_arguments import stage_arguments, steps_per_epoch, total_steps
from hf_ft.training.stage_data import StageData, read_once
from hf_ft.training.stage_options import StageOptions, announce, guard_of, stage_options
from hf_ft.training.stage_reading import report_waiting, set_readers
from hf_ft.training.trainer import StageTrainer, evaluation_order
from hf_ft.training.tuned_steps import tuned_steps
from hf_ft.training.weight_average import WeightAverage, trained_tensors

FEW, CONTRASTED = 50, 0.1
"""Validation examples below which they choose no penalty for a head on contrasted features, and the penalty it has.

The features of the training examples lie together by class, so the penalty hardly turns the boundary between them.
"""


def run_stage(run: Run, number: int, stage: AppliedStage, train_set: Any, validation_set: Any, stop: Stop) -> None:
    """Train a stage, or solve its head, and add its result to the run; a stage that has ended before is restored."""
    folder = stage_folder(run, number)
    if ended_before(run, folder):
        return
    epoch, in_eval = (
        steps_per_epoch(run, stage, train_set),
        modules_in_eval(run.model, stage, run.config.holds_batch_norm),
    )
    args = stage_arguments(run, stage, folder, epoch)
    names = stage.frozen_tensors | held_statistics(run.model, in_eval)
    untouched = snapshot(run.model, names) if stage.peft else {}
    model = _prepare(run, stage, total_steps(stage, epoch))
    before = snapshot(model, names)
    rewritten = {name for name, digest in untouched.items() if before.get(name) != digest}
    initial = adapters.adapter_state(model) if rewritten and isinstance(model, PeftModel) else None
    if adapters.allocates(model):  # an earlier checkpoint has other ranks, and its importance scores are lost
        args.load_best_model_at_end = False
    options = stage_options(run, stage, args, epoch)
    started, soup = time.perf_counter(), None
    _reset_peak_memory()
    with without_progress_bars(), training_memory(), float32_format(run.config, args):
        data = read_once(run, folder, stage, args, (train_set, validation_set), model)
        cached = data.opened if isinstance(data.opened, CachedStage) else None
        trained = cached.upper if cached else model
        sets = (*data.rows, validation_set)[:2]
        frozen = FrozenMode(trained, in_eval)
        trainer = _trainer(run, trained, stage, args, sets, stop, options, in_eval)
        trainer.evaluated = data.evaluated
        _balance(run, trainer, train_set)
        _pool_metrics(run, trainer, validation_set, sets[1])
        with cached.split.installed() if cached else nullcontext():
            notes = _score_label_names(run, number, trainer)
        fit = _solve(run, stage, cached)
        with cached.split.installed() if cached else nullcontext(), _objective(run, stage):
            if fit is None:
                announce(run, stage, options, args, in_eval)
                with tuned_steps(run, stage, folder, trainer, data.tuner, total_steps(stage, epoch)):
                    _train(run, trainer, folder, model)
                    soup = make_soup(trainer, options.soup, run.metric, in_eval) if options.soup else None
            else:
                _score_solved(run, trainer, fit)
    seconds = time.perf_counter() - started
    run.cached = None if stage.peft else cached or data.evaluated
    frozen.remove()
    # Mixed precision leaves its wrapper on `forward`; what follows needs the model as it will be saved.
    extract_model_from_parallel(trained, keep_fp32_wrapper=False)
    checked = audit(before, snapshot(model, names))
    run.stages.append(_result(run, trainer, model, stage, seconds, checked, data, fit))
    if fit is None:
        _add_facts(run, trainer, options, soup)
    run.stages[-1].notes += [*notes, *_image_notes(run, stage, sets[0], fit is not None)]
    if isinstance(model, PeftModel):
        _merge(run, number, model, folder, initial)
    elif cached or _ends_elsewhere(run, stage, args):
        _save_whole(run, folder / "whole")
    if run.args.should_save and run.stages[-1].checkpoint:  # without one, the stage has to be repeated
        checkpoints.end(folder, asdict(run.stages[-1]), keep=trainer.most != 1)


def _score_solved(run: Run, trainer: StageTrainer, fit: dict[str, Any]) -> None:
    """Evaluate a solved head, so that its stage has a score and a learning curve of one point."""
    if run.extensions.callbacks:
        print_on_main("callbacks a solved head makes no steps; --head_solver sgd trains it by steps", trainer.args)
    trainer.log({"loss": fit["objective"]})
    trainer.state.best_metric = trainer.evaluate()[f"eval_{run.metric}"]


def _image_notes(run: Run, stage: AppliedStage, rows: Any, solved: bool) -> list[str]:
    """Notes on cached images, and on options of training images that a solved head did not use."""
    notes = [rows.note] if isinstance(rows, CachedImages) and rows.note else []
    if solved and (random := run.config.random_images):
        named = " and ".join(f"--{name}" for name in random)
        notes.append(f"stage '{stage.name}' is solved on plain images: {named} is for training by steps")
    return notes


def _pool_metrics(run: Run, trainer: StageTrainer, validation_set: Any, rows: Any) -> None:
    """Let evaluations compute metrics and loss over examples where rows are parts of them."""
    if run.task.pools(validation_set):
        order = evaluation_order(rows, trainer.args.world_size)
        own = None if run.extensions.loss else run.learning.loss  # that of a caller may read more than logits
        trainer.compute_metrics = over_examples(run.learning.metrics, own, run.task, validation_set, order)


def _balance(run: Run, trainer: StageTrainer, train_set: Any) -> None:
    """Let the sampler draw all classes equally often, if the user asks for it."""
    rows: Any = trainer.train_dataset
    if run.config.sampler == "balanced":
        rows.classes = classes_of(train_set)


def _train(run: Run, trainer: StageTrainer, folder: Path, model: PreTrainedModel | PeftModel) -> None:
    """Train, from the newest checkpoint that is whole where a stage was interrupted.

    The trainer may have the upper part of the model alone; `model` is the whole, with its adapters.
    """
    allocates = isinstance(model, PeftModel) and adapters.allocates(model)
    if allocates:
        trainer.add_callback(adapters.Allocation(cast(PeftModel, model)))
    found: checkpoints.Checkpoint | None = None
    if run.resumed and allocates:
        print_on_main("resume   these adapters settle their ranks as they train: the stage starts over", run.args)
    elif run.resumed and trainer.args.save_only_model:
        print_on_main(
            "resume   --save_only_model: checkpoints lack the optimizer's state, so the stage starts over", run.args
        )
    elif run.resumed:
        found = of_main(run, lambda notes: checkpoints.newest(folder, notes))
        at = f"from {found.folder.name}" if found else "from its start, since it has no checkpoint yet"
        print_on_main(f"resume   stage '{folder.name.partition('-')[2]}' continues {at}", run.args)
    if found is None and run.args.should_save:
        checkpoints.clear(folder)
    set_readers(run, trainer)
    trainer.train_from(found)


def _solve(run: Run, stage: AppliedStage, cached: CachedStage | None) -> dict[str, Any] | None:
    """Solve a linear head; None where it has to be trained by steps.

    Raises:
        UserError: `head_solver` is `exact` and cannot be.
    """
    config, stages, groups = run.config, run.plan.stages, run.groups
    if not should_solve(config, stages, stage):
        if config.loss == "focal" and stage.trains_head_alone:
            print_on_main("solver   not used: focal loss is not convex, so the head trains by steps", run.args)
        elif cached and (given := options_against_solver(config, stage, groups)):
            named = ", ".join(f"--{name}" for name in given)
            print_on_main(
                f"solver   not used, since {named} asks for steps; --head_solver exact uses it all the same", run.args
            )
        return None
    layer = linear_head_of(cached.split) if cached else None
    if cached is None or layer is None or cached.validation is None or run.learning.of_fixed_features is None:
        why = "the stage runs without the cache" if cached is None else "the head is not linear"
        if config.head_solver == "exact":
            raise UserError(f"--head_solver exact: {why}. Use --head_solver sgd.")
        if expects_solved_head(config, stages, stage, groups):
            print_on_main(f"solver   not used in stage '{stage.name}', which trains by steps: {why}", run.args)
        return None
    finetuned_next = stage is not run.plan.stages[-1]
    contrasted = any(other.objective == CONTRASTIVE for other in stages[: stages.index(stage)])
    few = contrasted and len(cached.validation) < FEW
    fit = solve_head(
        *layer,
        cached.train.every if isinstance(cached.train, CachedViews) else cached.train,
        cached.validation,
        run.learning.of_fixed_features,
        finetuned_next,
        penalty=CONTRASTED if few else None,
        near_start=config.head_init == "label_names",
    )
    best = next(entry for entry in fit.path if entry["penalty"] == fit.penalty)
    chosen = (
        f"penalty {fit.penalty:g}, since {len(cached.validation)} validation examples are too few to choose one"
        if few
        else f"{len(fit.path)} penalties tried, {fit.penalty:g} chosen by validation loss {best['validation']:.4f}"
    )
    print_on_main(f"solver   the head is solved, not trained by steps: {chosen}", run.args)
    if config.sampler == "balanced":
        print_on_main("sampler  a solved head sees every example once: class weights balance it instead", run.args)
    return {name: value for name, value in vars(fit).items() if name not in ("weight", "bias")}


def _score_label_names(run: Run, number: int, trainer: StageTrainer) -> list[str]:
    """Score a head that starts from label names before it is trained; returns a note."""
    if run.config.head_init != "label_names" or number > 1:
        return []
    found = trainer.predict(cast(Any, trainer.eval_dataset), metric_key_prefix="eval").metrics or {}
    score = found[f"eval_{run.shown}"]
    said = f"{run.shown} {score:.4f} on validation with the head made from label names, before any training"
    print_on_main(f"head     {said}", run.args)
    return [said]


def _objective(run: Run, stage: AppliedStage) -> AbstractContextManager[None]:
    """What makes the model answer as the objective of the stage needs it."""
    return features_as_logits(run.model, run.groups) if stage.objective == CONTRASTIVE else nullcontext()


def _ends_elsewhere(run: Run, stage: AppliedStage, args: TrainingArguments) -> bool:
    """Whether the weights of a stage that has ended are in none of its checkpoints."""
    return bool(
        stage.objective  # it keeps the last state
        or run.extensions.callbacks  # they may change the weights at the end of training, after the last checkpoint
        or (args.save_strategy != "no" and not run.stages[-1].checkpoint)  # the last state is kept
    )


def _save_whole(run: Run, folder: Path) -> None:
    """Save the whole model at the end of a stage, where no checkpoint holds it."""
    run.stages[-1].checkpoint = str(folder.relative_to(run.output_dir))
    if run.args.should_save:
        with checkpoints.whole(folder) as begun, without_progress_bars():
            run.model.save_pretrained(begun, save_original_format=False)


def _prepare(run: Run, stage: AppliedStage, steps: int) -> PreTrainedModel | PeftModel:
    """Set what requires a gradient, or attach adapters."""
    if stage.peft:
        options, seed = stage.peft_options, run.args.seed
        return adapters.attach(run.model, stage, stage.peft, options, steps, seed)
    set_trainable(run.model, stage)
    ensure_gradients(run.model, stage, example_inputs(run.model))
    return run.model


def _merge(run: Run, number: int, model: PeftModel, folder: Path, initial: dict[str, torch.Tensor] | None) -> None:
    """End a stage with adapters: save them if they alone make up the result, and merge them into the model."""
    result = run.stages[-1]
    reason = _no_adapter(run, number, model, initial is not None)
    if reason:
        result.notes.append(f"the adapter is not saved, only the merged model: {reason}")
    elif run.args.should_save:
        finished = model
        if run.learning.finish:  # as in the final result; the model itself may be trained in another stage
            finished = copy.deepcopy(model)
            run.learning.finish(finished)
        with checkpoints.whole(folder / "adapter") as begun:
            adapters.save_adapter(finished, begun, initial)
    run.model = adapters.merge(model)
    result.checkpoint = str((folder / "merged").relative_to(run.output_dir))
    if run.args.should_save:
        with checkpoints.whole(folder / "merged") as begun, without_progress_bars():
            run.model.save_pretrained(begun, save_original_format=False)


def _no_adapter(run: Run, number: int, model: PeftModel, rewritten: bool) -> str:
    """Why the adapter on the original base model would not be the result; empty if it is."""
    stage = run.plan.stages[number - 1]
    if run.loaded.image_size and run.loaded.image_size.resampled:
        return f"--image_size {run.loaded.image_size.size} resampled the position embeddings of the base model"
    for earlier in run.plan.stages[: number - 1]:
        if not stage.replaces(earlier):
            return f"stage '{earlier.name}' changed the base model before it"
    if rewritten and not adapters.convertible(model):
        return "its initialisation rewrote the base model, and PEFT cannot convert it"
    return ""


def _trainer(
    run: Run,
    model: Any,
    stage: AppliedStage,
    args: TrainingArguments,
    sets: Sequence[Any],
    stop: Stop,
    options: StageOptions,
    in_eval: Sequence[torch.nn.Module],
) -> StageTrainer:
    callbacks, itself = list(run.extensions.callbacks), list[StageTrainer]()
    contrasts = stage.objective == CONTRASTIVE
    if patience := options.patience:
        callbacks.append(EarlyStop(patience.evaluations, watches_loss=patience.watches_loss))
    collator = run.task.collator(run.processor)
    collate: Any = PrebatchedCollator(run.extensions.data_collator or collator)
    if run.config.mixing:
        collate = ImageMixing(run.config.mixing, len(run.splits.labels), collate)
    seed = args.seed if args.data_seed is None else args.data_seed

    def average() -> WeightAverage:
        return WeightAverage(trained_tensors(model, in_eval), options.decay or 0.0)

    trainer = StageTrainer(
        model=model,
        args=args,
        train_dataset=SeededRows(sets[0], seed, collate),
        eval_dataset=sets[1],
        data_collator=PrebatchedCollator(collator),
        processing_class=run.processor,
        compute_metrics=run.learning.metrics,
        compute_loss_func=contrastive_loss if contrasts else run.learning.loss,
        preprocess_logits_for_metrics=run.task.reduce,
        callbacks=callbacks,
        grouping=lambda wrapped: rated_groups(wrapped, stage, args.weight_decay),
        steps_before=sum(done.steps for done in run.stages),
        epochs_before=epochs_of(run.stages),
        stop=stop,
        guard=guard_of(run, stage, args, itself),
        make_average=average if options.decay is not None else None,
        needed=lambda trainer: [one.folder for one in ranked(trainer, run.metric)[: options.soup]],
        order=in_pairs(run.splits.train["labels"][:]) if contrasts else None,
        batches=run.batches.get(stage.name),
    )
    itself.append(trainer)
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Lines(stage, run.shown, _epochs_by_steps(run)))
    if not args.disable_tqdm:
        trainer.add_callback(Bar())
    for callback in trainer.callback_handler.callbacks:
        if getattr(callback, "logging_dir", "") is None:  # TensorBoard's: else it stands among the checkpoints
            callback.logging_dir = str(run.output_dir / ".local/tensorboard")
    return trainer


def _epochs_by_steps(run: Run) -> float:
    """The epochs of all stages, without those whose head was solved."""
    stages = itertools.zip_longest(run.plan.stages, run.stages)
    return sum(planned.epochs for planned, done in stages if done is None or done.solver is None)


def _result(
    run: Run,
    trainer: StageTrainer,
    model: Any,
    stage: AppliedStage,
    seconds: float,
    checked: int,
    data: StageData,
    fit: dict[str, Any] | None,
) -> StageResult:
    keeps_best, best, best_metric = trainer.args.load_best_model_at_end, None, None
    history = [{k: v for k, v in entry.items() if isinstance(v, int | float)} for entry in trainer.state.log_history]
    if keeps_best:
        best, best_metric = trainer.state.best_model_checkpoint, trainer.state.best_metric
    elif fit is None:  # it is the last state that has to compete; a solved head does so with those that are scored
        scores = [entry[f"eval_{run.metric}"] for entry in history if f"eval_{run.metric}" in entry]
        best_metric = scores[-1] if scores else None
    parameters = list(model.parameters())
    return StageResult(
        name=stage.name,
        epochs=0.0 if fit else stage.epochs,
        steps=trainer.state.global_step,
        seconds=round(seconds, 3),
        peak_memory=_peak_memory(),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
        frozen_checked=checked,
        best_metric=best_metric,
        checkpoint=str(Path(best).relative_to(run.output_dir)) if best else None,
        history=history,
        cache=data.opened.facts if isinstance(data.opened, CachedStage) else None,
        uncached="" if isinstance(data.opened, CachedStage) else data.opened,
        evaluated=data.evaluated.facts if data.evaluated else None,
        images=data.images,
        solver=fit,
        autotune=[asdict(choice) for choice in data.tuner.choices] if data.tuner else [],
    )


def _add_facts(run: Run, trainer: StageTrainer, options: StageOptions, soup: dict[str, Any] | None) -> None:
    """Add to the result of a stage what its options did: a soup replaces its best checkpoint."""
    result = run.stages[-1]
    result.ema = options.decay
    result.stopped = stopped_early(trainer, options.patience, run.metric)
    if stopped := result.stopped:
        print_on_main(f"early    {stopped_early_line(result.name, StoppedEarly(**stopped))}", trainer.args)
    result.soup = soup
    result.reading = report_waiting(result.name, trainer)
    result.token_batches = None if trainer.batches is None else trainer.batches.facts()
    if soup and len(soup["used"]) > 1:
        result.checkpoint, result.best_metric = None, soup["score"]  # its weights are no checkpoint: they are saved


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
