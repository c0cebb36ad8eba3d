"""The whole path in one call: what each recipe spells out step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.environment import Stop, silence_libraries, stoppable
from hf_ft.settings import Config, Settings, build, check_output_dir, parse_recipe
from hf_ft.settings import resume as resuming
from hf_ft.storage import locked

if TYPE_CHECKING:
    from transformers import TrainingArguments


def finetune(**settings: Any) -> dict[str, Any]:
    """Fine-tune a model and return its record, the content of `run.json`.

    Needs `task`, `model`, `dataset` and `output_dir`; takes every field of `Config` and of
    `transformers.TrainingArguments`. The steps are those of a recipe; who wants to replace one writes them out.

    Raises:
        UserError: a mistake in the settings or the data.
    """
    return execute(build(("the call of finetune()", settings)))


def rank(models: Sequence[str], confirm: int = 0, **settings: Any) -> dict[str, Any]:
    """Score candidate models on a data set and return the ranking, the content of `rank.json`.

    Needs `task`, `dataset` and `output_dir`, and takes every setting of `finetune` but `model`. `models` are Hub ids,
    folders or `builtin`. LogME, k-NN and a linear probe read train alone, at most 2,000 examples of it unless
    `max_train_examples` or `examples_per_class` say otherwise. With `confirm`, the first so many are fine-tuned as the
    settings say, on all of train unless these settings limit it, and scored on validation. Candidates that an earlier
    call with the same `output_dir` scored are not run again, and stay in the ranking.

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

    The model's config is read, so that a wrong model, or a method that it cannot take, is told before the data are.

    Raises:
        UserError: see `hf_ft.settings.build`; a recipe run as a script prints it and exits with code 2
            (`hf_ft.cli.run`).
    """
    own, arguments = parse_recipe(config, training, argv, description)
    from hf_ft.models import check_model

    check_model(own, arguments)
    return own, arguments


@silence_libraries()
def execute(settings: Settings) -> dict[str, Any]:
    """Train, score and save as the settings say; prints what is done and returns the record.

    Raises:
        UserError: a mistake in the settings or the data, or another process writes into the output folder.
    """
    out, resume = Path(settings.training["output_dir"]).expanduser(), settings.training.get("resume_from_checkpoint")
    with stoppable() as stop, locked(out, "run"):
        config = settings.config
        # Once more: another run may have ended there since.
        check_output_dir(str(out), config.model, config.dataset, config.overwrite_output_dir, resume)
        if resume and resuming.finished(out):
            from hf_ft.training import tidy

            tidy(out)
            print(f"resume   the run in {out} has finished: nothing is left to do")
            return dict(json.loads((out / "run.json").read_text(encoding="utf-8")))
        return _execute(settings, stop)


def _execute(settings: Settings, stop: Stop) -> dict[str, Any]:
    # Options have been checked by now; the imports below take seconds.
    from hf_ft.data import load_splits
    from hf_ft.evaluation import score
    from hf_ft.models import check_model, load_model
    from hf_ft.results import save
    from hf_ft.training import make_plan, train, writing

    chosen = None
    if settings.config.method.name == "auto":
        from hf_ft.experiments import resolve

        settings, chosen = resolve(settings)
    config, args = settings.config, settings.arguments()
    check_model(config, args)  # reading the data may take long
    splits = load_splits(config, args.seed)
    model, processor, loaded = load_model(config, splits.labels, splits.problem_type, args.seed)
    plan = make_plan(config, args, loaded.groups, len(splits.train))
    run = train(model, processor, splits, plan, config, args, loaded)
    run.chosen = chosen
    results = score(run)
    stop.check()
    with writing(run.output_dir, "The result"):
        return save(run, results)
