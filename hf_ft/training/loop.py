"""Training: the stages of a plan one after another, and the best of them for the result."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from hf_ft.data import Splits, with_truncation
from hf_ft.environment import launcher_note, machine, stoppable
from hf_ft.heads import check_solver
from hf_ft.methods import Plan
from hf_ft.modalities import check_tokens
from hf_ft.models import LoadReport, adapters, scale_of
from hf_ft.reports import run_report as report
from hf_ft.settings import Config
from hf_ft.storage import output_folder
from hf_ft.tasks import Task, get_task
from hf_ft.training.description import describe
from hf_ft.training.resuming import begin, restore, stage_folder
from hf_ft.training.run import Run
from hf_ft.training.stage_runner import run_stage


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
    check_solver(config, plan.stages)
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
            adapters.find_targets(model, stage, stage.peft, stage.peft_options)
    run = Run(config, args, splits, plan, loaded, model, processor, metric, [], task, learning, others)
    if args.should_save:
        told = report.before_training(describe(config, splits, model, loaded, plan), machine(), launcher_note())
        print(told + "\n", flush=True)
    if args.should_save:
        output_folder.hold(run.output_dir, "run")
    with output_folder.let_go_if_raised(run.output_dir):
        _run_stages(run, encoded[0], encoded[1])
        _settle(run)
    return run


def _run_stages(run: Run, train_set: Any, validation_set: Any) -> None:
    begin(run)
    with stoppable() as stop:
        for number, stage in enumerate(run.plan.stages, start=1):
            stop.check()
            run_stage(run, number, stage, train_set, validation_set, stop)
        stop.check()  # a signal came too late for the last step


def _settle(run: Run) -> None:
    """Take the best stage for the result, and make the model what is saved."""
    best = _keep_best(run)
    if best < len(run.stages):
        name = run.stages[best - 1].name
        run.stages[-1].notes.append(f"stage '{name}' scored best on validation, so the result has its weights")
    if run.learning.finish:
        run.learning.finish(run.model)
    adapter = stage_folder(run, best) / "adapter"
    run.adapter = adapter if adapter.is_dir() else None
    run.model.eval()


def _keep_best(run: Run) -> int:
    """Go back to an earlier stage when the later ones did not do as well; returns the number of the stage kept."""
    if "load_best_model_at_end" in run.config.explicit and not run.args.load_best_model_at_end:
        return len(run.stages)
    scored = [stage for stage in run.stages if stage.best_metric is not None and stage.checkpoint]
    # A solved head is scored even where no stage evaluates: it must not win over one that has no score.
    if not scored or run.stages[-1].best_metric is None:
        return len(run.stages)
    sign = 1 if run.splits.target.higher_is_better(run.metric) else -1
    best = max(scored, key=lambda stage: (sign * float(stage.best_metric or 0), run.stages.index(stage)))
    if best is not run.stages[-1]:
        restore(run.model, run.output_dir / str(best.checkpoint))
    return run.stages.index(best) + 1
