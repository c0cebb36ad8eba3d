"""The whole path in one call: what each recipe spells out step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_ft import resuming
from hf_ft.config import Settings, build, check_output_dir
from hf_ft.output_folder import locked
from hf_ft.signals import Stop, stoppable
from hf_ft.terminal import quiet_libraries


def finetune(**settings: Any) -> dict[str, Any]:
    """Fine-tune a model and return its record, the content of `run.json`.

    Needs `task`, `model`, `dataset` and `output_dir`; takes every field of `Config` and of
    `transformers.TrainingArguments`. The steps are those of a recipe; who wants to replace one writes them out.

    Raises:
        UserError: a mistake in the settings or the data.
    """
    return execute(build(("the call of finetune()", settings)))


@quiet_libraries()
def execute(settings: Settings) -> dict[str, Any]:
    """Train, score and save as the settings say; prints what is done and returns the record.

    Raises:
        UserError: a mistake in the settings or the data, or another process writes into the output folder.
    """
    out, resume = Path(settings.training["output_dir"]).expanduser(), settings.training.get("resume_from_checkpoint")
    with stoppable() as stop, locked(out, "run"):
        check_output_dir(str(out), settings.config, resume)  # once more: another run may have ended there since
        if resume and resuming.finished(out):
            from hf_ft.checkpoints import tidy

            tidy(out)
            print(f"resume   the run in {out} has finished: nothing is left to do")
            return dict(json.loads((out / "run.json").read_text(encoding="utf-8")))
        return _execute(settings, stop)


def _execute(settings: Settings, stop: Stop) -> dict[str, Any]:
    # Options have been checked by now; the imports below take seconds.
    from hf_ft.checkpoints import writing
    from hf_ft.data import load_splits
    from hf_ft.evaluation import score
    from hf_ft.hub import save
    from hf_ft.model import load_model
    from hf_ft.precheck import check_model
    from hf_ft.training import make_plan, train

    chosen = None
    if settings.config.method == "auto":
        from hf_ft.depth_search import resolve

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
