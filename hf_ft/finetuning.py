"""All steps of a recipe in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.environment import Stop, phase, phases_measured, print_error, silence_libraries, stoppable
from hf_ft.errors import UserError
from hf_ft.evaluation import process_ahead
from hf_ft.records import RankingRecord, RunRecord, read_record
from hf_ft.results import FinetuneResult, NotPublished, Repetition, publish_result
from hf_ft.settings import IN_MEMORY, Config, Settings, build, check_output_dir, parse_recipe
from hf_ft.settings import resume_check as resuming
from hf_ft.storage import locked
from hf_ft.tasks import Task
from hf_ft.training import Extensions, read_extensions

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_ft.evaluation import PlainProcess


def finetune(
    *,
    task: str | Task | None = None,
    dataset: Any = None,
    callbacks: Any = None,
    compute_metrics: Any = None,
    loss: Any = None,
    data_collator: Any = None,
    transform: Any = None,
    head: Any = None,
    **settings: Any,
) -> FinetuneResult:
    """Fine-tune a model.

    Needs `task`, `model`, `dataset` and `output_dir`; takes every field of `Config` and of
    `transformers.TrainingArguments`. The steps are those of a recipe: copy one to replace a step.

    Args:
        task: The name of a task, or a `Task` that replaces the one of its name.
        dataset: A Hub id, folder or file; or data in memory: a `datasets.Dataset` or `DatasetDict`, a
            `pandas.DataFrame`, an iterable of dictionaries, or a dictionary of splits.
        callbacks: `TrainerCallback` classes or objects.
        compute_metrics: A function as for `Trainer`, or a metric of `evaluate`: its id, a folder, or loaded. Reported
            beside the built-in metrics.
        loss: The name of a loss, or `loss(outputs, labels, num_items_in_batch)`, as `Trainer(compute_loss_func=...)`
            takes it.
        data_collator: Makes the batches of training; evaluation keeps the task's own.
        transform: PIL image -> PIL image or tensor, in training, before the model's processor.
        head: `mlp:WIDTH`, or a function of (in_features, num_labels) that returns a module; refused unless a plain
            `from_pretrained` loads it again.
        settings: All else.

    Returns:
        The result; with `push_to_hub=True` and an upload that failed, `result.publication` is None.

    Raises:
        UserError: a mistake in the settings, the data or the extensions.

    Example:
        >>> result = finetune(task="image_classification", model="builtin", dataset="photos", output_dir="out")
        ... # doctest: +SKIP
        >>> result.metrics["validation"]["accuracy"]  # doctest: +SKIP
        0.93
    """
    if isinstance(loss, str):
        settings, loss = {**settings, "loss": loss}, None
    extensions = read_extensions(callbacks, compute_metrics, loss, data_collator, transform, head)
    settings, brought = _read_call(task, dataset, extensions, settings)
    try:
        return execute(build(("the call of finetune()", settings)), brought)
    except NotPublished as error:  # the result must not be lost with it
        print_error(error)
        return error.result


@dataclass(frozen=True)
class Brought:
    """What a call of `finetune` brings besides settings: a task, data in memory, extensions, a metric to go by."""

    task: Task | None = None
    data: Any = None
    extensions: Extensions = field(default_factory=Extensions)
    best: str | None = None

    @property
    def names(self) -> list[str]:
        """The names of these arguments, as far as they were passed."""
        own = {"task": self.task, "dataset": self.data}
        return [name for name, value in own.items() if value is not None] + list(self.extensions.parts)


DATA = (
    "Pass a Hub id, a folder, a file, a datasets.Dataset or DatasetDict, a pandas.DataFrame, a list of "
    "dictionaries, or a dictionary of splits."
)
TASKS = "Pass the name of a task, or a Task made from one, as in dataclasses.replace(get_task(name), encode=...)."


def _read_call(
    task: Any, dataset: Any, extensions: Extensions, settings: dict[str, Any]
) -> tuple[dict[str, Any], Brought]:
    """The settings of a call, and what it brings besides them.

    Raises:
        UserError: a task or data of the wrong kind.
    """
    own = None if task is None or isinstance(task, str) else task
    if own is not None and not isinstance(own, Task):
        raise _wrong_kind("task", own, TASKS)
    data = None if dataset is None or isinstance(dataset, str | os.PathLike) else dataset
    if data is not None and (isinstance(data, bytes) or not isinstance(data, Iterable)):
        raise _wrong_kind("dataset", data, DATA)
    named = {"task": task if own is None else own.name, "dataset": dataset if data is None else IN_MEMORY}
    settings = settings | {name: value for name, value in named.items() if value is not None}
    best = settings.get("metric_for_best_model")
    if best is None or best != getattr(extensions.compute_metrics, "name", None):
        best = None
    else:  # the check of the settings knows the built-in metrics alone
        del settings["metric_for_best_model"]
    return settings, Brought(own, data, extensions, best)


def _wrong_kind(name: str, value: Any, hint: str) -> UserError:
    kind = type(value).__name__
    return UserError(f"{name}= got an object of type {kind}.", option=name, value=kind, hint=hint)


def rank(models: Sequence[str], confirm: int = 0, **settings: Any) -> RankingRecord:
    """Score candidate models on a data set and return the ranking, the content of `rank.json`.

    Needs `task`, `dataset` and `output_dir`, and takes every setting of `finetune` but `model`. `models` are Hub ids,
    folders or `builtin`. LogME, k-NN and a linear probe read train alone, at most 2,000 examples of it unless
    `max_train_examples` or `examples_per_class` say otherwise. With `confirm`, the first so many are fine-tuned as the
    settings say, on all of train unless these settings limit it, and scored on validation. Candidates that an earlier
    call with the same `output_dir` scored are not run again and stay in the ranking.

    Raises:
        UserError: a mistake in the settings or the data, fewer than two candidates that can be scored, or a folder
            that holds a ranking with other settings or data.
    """
    from hf_ft.experiments import rank_models

    return rank_models(models, confirm, (("the call of rank()", settings),), execute)


def parse(
    config: Mapping[str, Any], training: Mapping[str, Any], argv: Sequence[str] | None = None, description: str = ""
) -> tuple[Config, TrainingArguments]:
    """Settings of a recipe: its own two dictionaries, then `--config FILE.yaml`, then the command line.

    The model's config is read as well, so a wrong model or an unsupported method is reported before the data are read.

    Raises:
        UserError: see `hf_ft.settings.build`; a recipe run as a script prints it and exits with code 2
            (`hf_ft.cli.run`).
    """
    own, arguments = parse_recipe(config, training, argv, description)
    from hf_ft.models import check_model
    from hf_ft.publishing import check_publishing

    check_model(own, arguments)
    check_publishing(vars(arguments), own.task)
    return own, arguments


@silence_libraries()
def execute(settings: Settings, brought: Brought | None = None, repetition: Repetition | None = None) -> FinetuneResult:
    """Train, score and save as the settings say; prints what is done.

    Args:
        repetition: The run whose settings these are, if one is repeated; the result is compared with it.

    Raises:
        UserError: a mistake in the settings or the data, or another process writes into the output folder.
    """
    out, resume = Path(settings.training["output_dir"]).expanduser(), settings.training.get("resume_from_checkpoint")
    with stoppable() as stop, locked(out, "run"), phases_measured():
        config = settings.config
        # Once more: another run may have ended there since.
        check_output_dir(str(out), config.model, config.dataset, config.overwrite_output_dir, resume)
        if resume and resuming.finished(out):
            from hf_ft.training import tidy

            tidy(out)
            print(f"resume   the run in {out} has finished: nothing is left to do")
            return publish_result(FinetuneResult(read_record(out, RunRecord).as_dict(), out), settings.training)
        with process_ahead(config.load_back_proof) as prover:
            result = _execute(settings, brought or Brought(), stop, repetition, prover)
        if repetition is not None:
            print("\n" + "\n".join(repetition.verdict(result.record)))
        return result


def _execute(
    settings: Settings, brought: Brought, stop: Stop, repetition: Repetition | None, prover: PlainProcess | None
) -> FinetuneResult:
    # Options have been checked by now; the imports below take seconds.
    with phase("imports"):
        from hf_ft.data import load_splits
        from hf_ft.evaluation import score
        from hf_ft.models import check_model, load_model
        from hf_ft.publishing import check_publishing
        from hf_ft.results import save
        from hf_ft.training import make_plan, train, writing

    if repetition is not None:
        repetition.check_settings(settings)
    chosen = None
    if settings.config.method.name == "auto":
        if brought.names:
            name = brought.names[0]
            problem = f"method auto tries out depths without {name}=."
            raise UserError(problem, option=name, hint="Choose a method, such as lp_ft.")
        from hf_ft.experiments import resolve

        settings, chosen = resolve(settings)
    config, args = settings.config, settings.arguments()
    check_model(config, args)  # before the data are read, which may take long
    check_publishing(settings.training, config.task)
    task, head = brought.task, brought.extensions.head
    with phase("data"):
        splits = load_splits(config, args.seed, task, brought.data)
    if repetition is not None:
        repetition.check_data(splits)
    with phase("model"):
        model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed, task, head)
        plan = make_plan(config, args, loaded.groups, len(splits.train), task)
    if repetition is not None:
        repetition.check_model(loaded)
        if differing := repetition.surroundings():
            print(f"repeat   not as in the run in {repetition.folder}: {'; '.join(differing)}")
    args.metric_for_best_model = brought.best or args.metric_for_best_model
    forms = repetition.forms if repetition is not None else None
    with phase("training"):
        own = vars(brought.extensions)
        run = train(model, processor, splits, plan, config, args, loaded, task, **own, forms=forms)
    run.chosen = chosen
    results = score(run, prover)
    stop.check()
    with writing(run.output_dir, "The result"), phase("saving"):
        return save(run, results)
