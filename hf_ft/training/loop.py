"""Training: a plan applied to a model, one `Trainer` per stage, with a freeze audit around each of them."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, extract_model_from_parallel
from peft import PeftModel
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from hf_ft.data import Splits, with_truncation
from hf_ft.environment import Stop, alone, machine, print_on_main, stoppable
from hf_ft.errors import UserError
from hf_ft.feature_cache import (
    CachedImages,
    CachedStage,
    CacheRequest,
    NotCached,
    PrebatchedCollator,
    cache_images,
    holds_images,
    open_cache,
)
from hf_ft.heads import check_solver, expects_solver, linear_head_of, solve_head, steps_instead, wants_solver
from hf_ft.methods import DEEP_HEAD_RATE, Plan, PlannedStage, default_epochs, plan_method, plan_stages
from hf_ft.models import (
    DepthGroups,
    FrozenMode,
    LoadReport,
    adapters,
    audit,
    check_tokens,
    ensure_gradients,
    example_inputs,
    frozen_tensors,
    linear_head,
    modules_in_eval,
    rated_groups,
    scale_of,
    set_trainable,
    snapshot,
    without_progress_bars,
)
from hf_ft.reports import run_report as report
from hf_ft.settings import Config
from hf_ft.settings import resume as resuming
from hf_ft.storage import output_folder
from hf_ft.tasks import Learning, Task, get_task
from hf_ft.training import checkpoints
from hf_ft.training.data_order import SeededRows
from hf_ft.training.description import describe
from hf_ft.training.memory import settled_heap
from hf_ft.training.trainer import StageTrainer

EVALUATIONS = 20
"""Most evaluations (and checkpoints) in a run whose epochs are so short that one each would be too many."""


@dataclass
class StageResult:
    """What a stage did: time, memory, curve and proof. `frozen_checked` counts bit-identical frozen tensors.

    Steps and epochs in `history` are counted over all stages. `checkpoint` is the folder of the stage's weights,
    relative to the output folder; those of adapters are merged. `peak_memory` is in bytes: of the GPU where there is
    one, else the process's resident memory so far. `seconds` are those of computing features, training and its
    evaluations. `cache` says what frozen layers gave once instead of in every epoch, `live` why they ran in every one,
    `images` which were decoded once; `solver` how a linear head was fitted to convergence, None where steps trained.
    """

    name: str
    epochs: float
    steps: int
    seconds: float
    peak_memory: int
    trainable: int
    total: int
    frozen_checked: int
    best_metric: float | None
    checkpoint: str | None
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cache: dict[str, Any] | None = None
    live: str = ""
    images: dict[str, float] | None = None
    solver: dict[str, Any] | None = None


@dataclass
class Run:
    """A trained model with all that describes how it came about; what `score` and `save` work on.

    `others` is that of `train`; `chosen` says how method `auto` came to the method that was trained. `adapter` is the
    folder of the adapter that stands for the result, without the name of its base; `resumed` says whether the run goes
    on where an earlier process stopped.
    """

    config: Config
    args: TrainingArguments
    splits: Splits
    plan: Plan
    loaded: LoadReport
    model: PreTrainedModel
    processor: Any
    metric: str
    stages: list[StageResult]
    task: Task
    learning: Learning
    others: int = 0
    chosen: dict[str, Any] | None = None
    adapter: Path | None = None
    resumed: bool = False

    @property
    def groups(self) -> DepthGroups:
        """The depth groups of the model, as found when it was loaded."""
        return self.loaded.groups

    @property
    def shown(self) -> str:
        """The metric to look at: the one that chooses the best epoch, but a score where that is the loss."""
        return self.splits.target.default_metric if self.metric == "loss" else self.metric

    @property
    def output_dir(self) -> Path:
        """The folder of the result."""
        return Path(str(self.args.output_dir)).expanduser()


def make_plan(config: Config, args: TrainingArguments, groups: DepthGroups, train_examples: int) -> Plan:
    """Apply the method to the model's depth groups; epochs that the user did not set follow from the data's size.

    Raises:
        UserError: a method that the model cannot take, such as `last_n` with more blocks than there are.
    """
    if args.dataloader_drop_last and train_examples < args.per_device_train_batch_size * args.world_size:
        raise UserError(
            f"--dataloader_drop_last leaves nothing to train on: {train_examples:,} examples make no batch of "
            f"{args.per_device_train_batch_size:,}. Leave it out, or set --per_device_train_batch_size."
        )
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    epochs = args.num_train_epochs
    if "num_train_epochs" not in config.given:
        epochs = default_epochs(config.chosen_method, get_task(config.task).modality, math.ceil(train_examples / batch))
    rate = args.learning_rate
    if config.method == "head" and "learning_rate" not in config.given and not linear_head(groups):
        rate = DEEP_HEAD_RATE
    common = (groups, epochs, rate, config.head_lr_multiplier or 1.0, config.layer_decay, args.max_steps)
    if config.stages:
        return plan_stages(config.method, config.stages, *common, new_head=not config.keep_head)
    options = config.adapters[0][1] if config.adapters else None
    return plan_method(config.method, *common, peft_options=options)


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
) -> Run:
    """Run the stages of a plan; each starts from the best checkpoint of the one before, the best of all is kept.

    `task` replaces the one that `config` names, for data that need other steps from rows to batches. `others` is how
    many trainings of this length are to come that freeze alike, so that features pay which one alone would not. With
    `resume_from_checkpoint`, finished stages are skipped and an interrupted one goes on where it stopped. Signals that
    end the process, Ctrl-C among them, let a stage write a checkpoint before.

    Raises:
        FreezeViolation: something frozen changed.
        UserError: settings that do not go together, or others than those of the run that is to be resumed.
        Terminated: the process was told to end.
    """
    task = task or get_task(config.task)
    metric = (args.metric_for_best_model or splits.target.default_metric).removeprefix("eval_")
    splits.target.higher_is_better(metric)
    splits.target.check_options(config, args)
    check_solver(config, plan.stages, loaded.groups)
    splits = with_truncation(splits, task, processor, config)
    learning = splits.target.learning(scale_of(model), splits.train, splits.labels, config, args)
    encoded = [
        task.encode(learning.prepare(part), processor, config, training)
        for part, training in ((splits.train, True), (splits.validation, False))
    ]
    check_tokens(encoded[0], processor, config.model)
    if learning.start:
        learning.start(model)
    for stage in plan.stages:
        if stage.peft:  # a method that does not fit is answered before anything is trained or removed
            adapters.find_targets(model, loaded.groups, stage.settings, stage.peft, stage.peft_options)
    run = Run(config, args, splits, plan, loaded, model, processor, metric, [], task, learning, others)
    if args.should_save:
        told = report.before_training(describe(config, splits, model, loaded, plan), machine(), alone())
        print(told + "\n", flush=True)
    if args.should_save:
        output_folder.hold(run.output_dir, "run")
    with output_folder.let_go_if_raised(run.output_dir):
        _run_stages(run, encoded[0], encoded[1])
        _settle(run)
    return run


def _settle(run: Run) -> None:
    """Take the best stage for the result, and make the model what is saved."""
    best = _keep_best(run)
    if best < len(run.stages):
        name = run.stages[best - 1].name
        run.stages[-1].notes.append(f"stage '{name}' scored best on validation, so the result has its weights")
    if run.learning.finish:
        run.learning.finish(run.model)
    adapter = _stage_folder(run, best) / "adapter"
    run.adapter = adapter if adapter.is_dir() else None
    run.model.eval()


def clear(out: Path) -> None:
    """Remove what a run wrote into its output folder, and nothing else."""
    checkpoints.remove(out)
    output_folder.remove(out)


def discard_model(out: Path) -> None:
    """Remove a whole run with its folder, and nothing else that stands there."""
    if output_folder.kind_of(out) == "run":
        clear(out)
        output_folder.discard(out)


def _begin(run: Run) -> None:
    """Go on with the run in the output folder where that is asked for and can be; else write down that one begins.

    Raises:
        UserError: it began with other data or another model, or a result stands there that is not to be replaced.
    """
    out, args, facts = run.output_dir, run.args, {"data": run.splits.fingerprint, "processes": run.args.world_size}
    facts |= {"model": run.loaded.commit or run.loaded.digest}
    run.resumed = bool(args.resume_from_checkpoint) and resuming.read_start(out) is not None
    if run.resumed:
        resuming.check_settings(out, run.config)
        resuming.check_content(out, facts)
    elif args.resume_from_checkpoint:
        print_on_main(f"resume   no run has begun in {out}: this one starts", args)
    if args.world_size > 1:
        torch.distributed.barrier()  # the others must have looked before there is something
    if args.should_save and not run.resumed:
        _check_free(run)
        clear(out)
        with checkpoints.writing(out, "The run"):
            resuming.write_start(out, run.config, facts)


def _check_free(run: Run) -> None:
    """Refuse to clear a folder that nobody has checked: variables of the environment may look like those of a launcher.

    Raises:
        UserError: it holds something, and is neither held by this process nor to be replaced.
    """
    out, checked = run.output_dir, run.config.overwrite_output_dir or output_folder.is_held(run.output_dir)
    if run.args.world_size == 1 and not checked and output_folder.state_of(out) != "nothing":
        raise UserError(
            f"The output folder {out} already holds something, and variables of the environment (such as RANK and "
            "WORLD_SIZE) say that this is not the first process of the run. Unset them, or choose another folder."
        )


def _stage_folder(run: Run, number: int) -> Path:
    return run.output_dir / checkpoints.FOLDER / f"{number}-{run.plan.stages[number - 1].name}"


def _run_stages(run: Run, train_set: Any, validation_set: Any) -> None:
    _begin(run)
    with stoppable() as stop:
        for number, stage in enumerate(run.plan.stages, start=1):
            stop.check()
            _run_stage(run, number, stage, train_set, validation_set, stop)
        stop.check()  # a signal came too late for the last step


def _run_stage(run: Run, number: int, stage: PlannedStage, train_set: Any, validation_set: Any, stop: Stop) -> None:
    folder = _stage_folder(run, number)
    if _ended_before(run, folder):
        return
    args = stage_arguments(run, stage, folder, len(train_set))
    quiet = modules_in_eval(run.model, run.groups, stage.settings)
    names = frozen_tensors(run.groups, stage.settings)
    untouched = snapshot(run.model, names) if stage.peft else {}
    model = _prepare(run, stage, _steps(args, stage, len(train_set)))
    before = snapshot(model, names)
    rewritten = {name for name, digest in untouched.items() if before.get(name) != digest}
    initial = adapters.adapter_state(model) if rewritten and isinstance(model, PeftModel) else None
    if adapters.allocates(model):  # an earlier checkpoint has other ranks, and its importance scores are lost
        args.load_best_model_at_end = False
    started = time.perf_counter()
    _reset_peak_memory()
    with without_progress_bars(), settled_heap():
        opened, prepared, images = _read_once(run, folder, stage, args, (train_set, validation_set))
        cached = opened if isinstance(opened, CachedStage) else None
        trained = cached.upper if cached else model
        sets = (*prepared, validation_set)[:2]
        frozen = FrozenMode(trained, quiet)
        trainer = _trainer(run, trained, stage, args, sets[0], sets[1], stop)
        fit = _solve(run, stage, cached)
        with cached.split.installed() if cached else nullcontext():
            if fit is None:
                _train(run, trainer, folder)
            else:
                trainer.log({"loss": fit["objective"]})
                trainer.state.best_metric = trainer.evaluate()[f"eval_{run.metric}"]
    seconds = time.perf_counter() - started
    frozen.remove()
    # Mixed precision leaves its wrapper on `forward`; what follows needs the model as it will be saved.
    extract_model_from_parallel(trained, keep_fp32_wrapper=False)
    checked = audit(before, snapshot(model, names))
    run.stages.append(_result(run, trainer, model, stage, seconds, checked, opened, images, fit))
    if isinstance(sets[0], CachedImages) and sets[0].note:
        run.stages[-1].notes.append(sets[0].note)
    if isinstance(model, PeftModel):
        _merge(run, number, model, folder, initial)
    elif cached or (args.save_strategy != "no" and not run.stages[-1].checkpoint):
        _save_whole(run, folder / "whole")
    if run.args.should_save and run.stages[-1].checkpoint:  # without one, the stage has to be repeated
        checkpoints.end(folder, asdict(run.stages[-1]), keep=trainer.most != 1)


def _of_main(run: Run, find: Callable[[list[str]], Any]) -> Any:
    """What the main process finds on the disk, for all of them: it removes what is damaged, and tells its notes."""
    notes: list[str] = []
    found = [find(notes) if run.args.should_save else None]
    for note in notes:
        print_on_main(f"resume   {note}", run.args)
    return broadcast_object_list(found)[0]


def _ended_before(run: Run, folder: Path) -> bool:
    """Whether an earlier process has ended a stage; its result and the model's weights after it are taken over."""
    names = {one.name for one in fields(StageResult)}
    found = None
    if run.resumed:
        found = _of_main(run, lambda notes: checkpoints.result_of(folder, run.output_dir, names, notes))
    if found is not None:
        run.stages.append(StageResult(**found))
        _restore(run.model, run.output_dir / str(run.stages[-1].checkpoint))
    return found is not None


def _read_once(
    run: Run, folder: Path, stage: PlannedStage, args: TrainingArguments, sets: tuple[Any, Any]
) -> tuple[CachedStage | str, Sequence[Any], dict[str, float] | None]:
    """The cached stage or why it runs live, what it reads, and which images are kept.

    Whether that pays is measured, so a resumed stage takes over what was decided when it began.
    """
    earlier = _of_main(run, lambda notes: checkpoints.decided(folder, notes)) if run.resumed else None
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
        none = earlier is not None and not earlier["images"]
        prepared, images = cache_images(replace(job, config=replace(job.config, cache="off")) if none else job)
    if earlier is None and run.args.should_save:
        kept = images is not None
        checkpoints.write_file(
            folder / checkpoints.BEGUN, {"live": None if isinstance(opened, CachedStage) else opened, "images": kept}
        )
    return opened, prepared, images


def _train(run: Run, trainer: StageTrainer, folder: Path) -> None:
    """Train, from the newest checkpoint that is whole where a stage was interrupted."""
    found: checkpoints.Checkpoint | None = None
    if run.resumed and trainer.model and adapters.allocates(trainer.model):
        print_on_main("resume   these adapters settle their ranks as they train: the stage begins anew", run.args)
    elif run.resumed and trainer.args.save_only_model:
        print_on_main(
            "resume   --save_only_model: checkpoints lack the optimizer's state, so the stage begins anew", run.args
        )
    elif run.resumed:
        found = _of_main(run, lambda notes: checkpoints.newest(folder, notes))
        at = f"from {found.folder.name}" if found else "from its beginning: it has no checkpoint yet"
        print_on_main(f"resume   stage '{folder.name.partition('-')[2]}' goes on {at}", run.args)
    if found is None and run.args.should_save:
        checkpoints.clear(folder)
    trainer.train_from(found)


def _opened(
    run: Run, stage: PlannedStage, args: TrainingArguments, sets: tuple[Any, Any], live: str | None
) -> tuple[CacheRequest, CachedStage | str]:
    """What a stage reads, and the stage split at its first group that trains, or why it runs live (if known, `live`).

    Augmentation is for steps: a head that is to be solved reads the images as they are, unless the user augments.
    """
    config = run.config
    if live is not None:
        return _job(run, stage, args, sets, config), live
    augments = holds_images(sets[0]) and config.augment not in (None, "none") and "augment" not in config.given
    if augments and expects_solver(config, run.plan.stages, stage, run.groups):
        plain = replace(config, augment="none")
        rows = run.task.encode(run.learning.prepare(run.splits.train), run.processor, plain, False)
        job = _job(run, stage, args, (rows, sets[1]), plain)
        opened = _open_cache(job)
        if isinstance(opened, CachedStage) and linear_head_of(opened.split):
            return job, opened
    job = _job(run, stage, args, sets, config)
    return job, _open_cache(job)


def _job(run: Run, stage: PlannedStage, args: TrainingArguments, sets: tuple[Any, Any], config: Config) -> CacheRequest:
    """What a stage reads, and how often; without validation where it does not look at it."""
    examples, collator = len(sets[0]), run.task.collator(run.processor)
    passes = stage.epochs if stage.max_steps < 0 else stage.max_steps / _steps_per_epoch(args, examples)
    reads = passes * (1 + run.others), _evaluations(args, stage, examples) * (1 + run.others)
    solved = wants_solver(run.config, run.plan.stages, stage, run.groups) and run.learning.loss is not None
    parts = sets if reads[1] or solved else sets[:1]
    read_once = linear_head_of if solved else None
    return CacheRequest(run.model, run.groups, stage, parts, run.processor, collator, config, args, *reads, read_once)


def _open_cache(job: CacheRequest) -> CachedStage | str:
    """The stage split at its first group that trains, with the features of its examples; or why it runs live."""
    try:
        return open_cache(job)
    except NotCached as reason:
        if str(reason):
            print_on_main(f"cache    not used in stage '{job.stage.name}': {reason}", job.args)
        return str(reason)


def _evaluations(args: TrainingArguments, stage: PlannedStage, train_examples: int) -> float:
    """How often a stage evaluates."""
    if args.eval_strategy == "no":
        return 0
    return (
        stage.epochs if args.eval_strategy == "epoch" else _steps(args, stage, train_examples) / (args.eval_steps or 1)
    )


def _solve(run: Run, stage: PlannedStage, cached: CachedStage | None) -> dict[str, Any] | None:
    """Solve a linear head; None where it has to be trained by steps.

    Raises:
        UserError: `head_solver` is `exact` and cannot be.
    """
    config, stages, groups = run.config, run.plan.stages, run.groups
    if not wants_solver(config, stages, stage, groups):
        if cached and (given := steps_instead(config, stage, groups)):
            named = ", ".join(f"--{name}" for name in given)
            print_on_main(
                f"solver   not used, since {named} asks for steps; --head_solver exact uses it all the same", run.args
            )
        return None
    layer = linear_head_of(cached.split) if cached else None
    if cached is None or layer is None or cached.validation is None or run.learning.loss is None:
        why = "the stage runs without the cache" if cached is None else "the head is not linear"
        if config.head_solver == "exact":
            raise UserError(f"--head_solver exact: {why}. Use --head_solver sgd.")
        if expects_solver(config, stages, stage, groups):
            print_on_main(f"solver   not used in stage '{stage.name}', which trains by steps: {why}", run.args)
        return None
    goes_on = stage is not run.plan.stages[-1]
    fit = solve_head(*layer, cached.train, cached.validation, run.learning.loss, goes_on)
    best = next(entry for entry in fit.path if entry["penalty"] == fit.penalty)
    print_on_main(
        f"solver   the head is fitted to convergence, not by steps: {len(fit.path)} penalties tried, {fit.penalty:g} "
        f"chosen by validation loss {best['validation']:.4f}",
        run.args,
    )
    return {name: value for name, value in vars(fit).items() if name not in ("weight", "bias")}


def _save_whole(run: Run, folder: Path) -> None:
    """Keep the whole model at the end of a stage whose checkpoints hold the upper part alone."""
    run.stages[-1].checkpoint = str(folder.relative_to(run.output_dir))
    if run.args.should_save:
        with checkpoints.whole(folder) as begun, without_progress_bars():
            run.model.save_pretrained(begun, save_original_format=False)


def _prepare(run: Run, stage: PlannedStage, steps: int) -> PreTrainedModel | PeftModel:
    """Set what requires a gradient, or attach adapters."""
    if stage.peft:
        options, seed = stage.peft_options, run.args.seed
        return adapters.attach(run.model, run.groups, stage.settings, stage.peft, options, steps, seed)
    set_trainable(run.model, run.groups, stage.settings)
    ensure_gradients(run.model, run.groups, stage.settings, example_inputs(run.model))
    return run.model


def _merge(run: Run, number: int, model: PeftModel, folder: Path, initial: dict[str, torch.Tensor] | None) -> None:
    """End a stage with adapters: save them where they stand for the whole result, and make the model plain again."""
    result = run.stages[-1]
    reason = _no_adapter(run, number, model, initial is not None)
    if reason:
        result.notes.append(f"the adapter is not saved, only the merged model: {reason}")
    elif run.args.should_save:
        finished = model
        if run.learning.finish:  # saved as the result will be, while the model itself may go on into another stage
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
    """Why an adapter would not give the result on the base model as it was before the run; empty when it does."""
    settings = run.plan.stages[number - 1].settings
    for earlier in run.plan.stages[: number - 1]:
        if any(then.mode != "frozen" and not now.whole for then, now in zip(earlier.settings, settings, strict=True)):
            return f"stage '{earlier.name}' changed the base model before it"
    if rewritten and not adapters.convertible(model):
        return "its initialisation rewrote the base model, and PEFT cannot convert it"
    return ""


def _trainer(
    run: Run,
    model: Any,
    stage: PlannedStage,
    args: TrainingArguments,
    train_set: Any,
    validation_set: Any,
    stop: Stop,
) -> StageTrainer:
    callbacks: list[Any] = []
    if run.config.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(run.config.early_stopping_patience))
    if adapters.allocates(model):
        callbacks.append(adapters.Allocation(model))
    collate = PrebatchedCollator(run.task.collator(run.processor))
    seed = args.seed if args.data_seed is None else args.data_seed
    trainer = StageTrainer(
        model=model,
        args=args,
        train_dataset=SeededRows(train_set, seed, collate),
        eval_dataset=validation_set,
        data_collator=collate,
        processing_class=run.processor,
        compute_metrics=run.learning.metrics,
        compute_loss_func=run.learning.loss,
        preprocess_logits_for_metrics=run.task.reduce,
        callbacks=callbacks,
        grouping=lambda wrapped: rated_groups(wrapped, run.groups, stage.settings, args.weight_decay),
        steps_before=sum(done.steps for done in run.stages),
        epochs_before=epochs_of(run.stages),
        stop=stop,
    )
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    by_steps = [
        planned.epochs
        for planned, done in itertools.zip_longest(run.plan.stages, run.stages)
        if done is None or done.solver is None
    ]
    trainer.add_callback(Lines(stage, run.shown, sum(by_steps)))
    if not args.disable_tqdm:
        trainer.add_callback(Bar())
    for callback in trainer.callback_handler.callbacks:
        if getattr(callback, "logging_dir", "") is None:  # TensorBoard's: else it stands among the checkpoints
            callback.logging_dir = str(run.output_dir / ".local/tensorboard")
    return trainer


def epochs_of(stages: Sequence[StageResult]) -> float:
    """The epochs of stages that have ended, as they were logged, where they were; logs count over all stages."""
    epochs = 0.0
    for stage in stages:
        logged = [entry["epoch"] for entry in stage.history if "epoch" in entry]
        epochs = logged[-1] if logged else epochs + stage.epochs
    return epochs


def stage_arguments(run: Run, stage: PlannedStage, folder: Path, train_examples: int) -> TrainingArguments:
    """The user's `TrainingArguments` with what the plan decides: folder, epochs, rate, evaluations, best metric."""
    args = copy.deepcopy(run.args)
    args.output_dir = str(folder)
    args.num_train_epochs = stage.epochs
    args.max_steps = stage.max_steps
    args.learning_rate = max(setting.rate for setting in stage.settings)
    if stage.scheduler is not None:
        args.lr_scheduler_type = SchedulerType(stage.scheduler)
    if stage.warmup is not None:
        args.warmup_steps = stage.warmup
    args.remove_unused_columns = False  # an image column is read by the transform, after this would drop it
    args.label_names = ["labels"]  # some models' forward takes them as one of `**kwargs`, where `Trainer` sees none
    args.push_to_hub, args.hub_token = False, None  # `training_args.bin` of each checkpoint would hold the token
    args.restore_callback_states_from_checkpoint = True  # how long early stopping has waited
    args.metric_for_best_model = run.metric
    args.greater_is_better = run.splits.target.higher_is_better(run.metric)
    given = run.config.given
    if "eval_strategy" not in given and "save_strategy" not in given:
        _schedule_evaluation(args, stage, train_examples)
    elif "save_strategy" not in given:  # the best is kept, so what is evaluated must be saved
        args.save_strategy, args.save_steps = SaveStrategy(args.eval_strategy), args.eval_steps or args.save_steps
    elif "eval_strategy" not in given and args.save_strategy in ("epoch", "steps"):
        args.eval_strategy, args.eval_steps = IntervalStrategy(args.save_strategy), args.save_steps
    if args.eval_strategy == "no" or args.save_strategy == "no":
        args.load_best_model_at_end = False
    elif "load_best_model_at_end" not in given:
        args.load_best_model_at_end = True
    if "save_total_limit" not in given:
        args.save_total_limit = 1
    if "logging_strategy" not in given and "logging_steps" not in given:
        args.logging_strategy, args.logging_steps = args.eval_strategy, args.eval_steps or args.logging_steps
    return args


def _schedule_evaluation(args: TrainingArguments, stage: PlannedStage, train_examples: int) -> None:
    """Evaluate after each epoch, or less often where epochs are a few steps long."""
    total = _steps(args, stage, train_examples)
    if total <= EVALUATIONS * _steps_per_epoch(args, train_examples) and stage.max_steps < 0:
        args.eval_strategy = args.save_strategy = "epoch"
        return
    steps = max(1, math.ceil(total / EVALUATIONS))
    args.eval_strategy = args.save_strategy = "steps"
    args.eval_steps = args.save_steps = steps


def _steps(args: TrainingArguments, stage: PlannedStage, train_examples: int) -> int:
    """How many optimizer steps a stage has."""
    return stage.max_steps if stage.max_steps > 0 else math.ceil(_steps_per_epoch(args, train_examples) * stage.epochs)


def _steps_per_epoch(args: TrainingArguments, train_examples: int) -> int:
    return math.ceil(
        train_examples / (args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)
    )


class Bar(ProgressCallback):
    """The progress bars of `Trainer` without the dictionaries that it prints between them."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print nothing: `Lines` does."""


class Lines(TrainerCallback):
    """One readable line for each evaluation."""

    def __init__(self, stage: PlannedStage, metric: str, epochs: float) -> None:
        self.stage, self.metric, self.epochs, self.loss = stage, metric, epochs, math.nan

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remember the training loss, and print when an evaluation is logged."""
        self.loss = logs.get("loss", self.loss)
        value = logs.get(f"eval_{self.metric}")
        if state.is_world_process_zero and value is not None:
            # A head that is fitted to convergence makes no steps.
            where = f"epoch {state.epoch:5.2f}/{self.epochs:g}" if state.global_step else "converged"
            tqdm.write(
                f"{self.stage.name:8} {where}  loss {self.loss:.4f}  "
                f"validation loss {logs.get('eval_loss', math.nan):.4f}  {self.metric} {value:.4f}"
            )


def _result(
    run: Run,
    trainer: StageTrainer,
    model: Any,
    stage: PlannedStage,
    seconds: float,
    checked: int,
    opened: CachedStage | str,
    images: dict[str, float] | None,
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
        cache=opened.facts if isinstance(opened, CachedStage) else None,
        live="" if isinstance(opened, CachedStage) else opened,
        images=images,
        solver=fit,
    )


def _keep_best(run: Run) -> int:
    """Go back to an earlier stage when the later ones did not do as well; returns the number of the stage kept."""
    if "load_best_model_at_end" in run.config.given and not run.args.load_best_model_at_end:
        return len(run.stages)
    scored = [stage for stage in run.stages if stage.best_metric is not None and stage.checkpoint]
    # A solved head is scored even where no stage evaluates: it must not win over one that has no score.
    if not scored or run.stages[-1].best_metric is None:
        return len(run.stages)
    sign = 1 if run.splits.target.higher_is_better(run.metric) else -1
    best = max(scored, key=lambda stage: (sign * float(stage.best_metric or 0), run.stages.index(stage)))
    if best is not run.stages[-1]:
        _restore(run.model, run.output_dir / str(best.checkpoint))
    return run.stages.index(best) + 1


def _restore(model: PreTrainedModel, checkpoint: Path) -> None:
    """Load the weights of a checkpoint folder into a model."""
    weights: dict[str, torch.Tensor] = {}
    for part in sorted(checkpoint.glob("*.safetensors")):
        weights |= load_file(part)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise RuntimeError(f"{checkpoint} does not fit the model: {[*missing, *unexpected][:3]}")


def _reset_peak_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
