"""The parts of `run.json` that are known before training, without paths and tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from hf_ft.data import Splits
from hf_ft.errors import split_argument
from hf_ft.feature_cache import default_root
from hf_ft.heads import expects_solved_head
from hf_ft.methods import Plan
from hf_ft.models import LoadReport
from hf_ft.records import (
    DataRecord,
    DepthGroupRecord,
    DuplicatesRecord,
    GroupSettingRecord,
    ModelRecord,
    NumbersRecord,
    PlannedStageRecord,
    PlanRecord,
    RunDescription,
    TruncationRecord,
)
from hf_ft.settings import IN_MEMORY, Config
from hf_ft.tasks import Task
from hf_ft.training.public_command import public_name

RECORDED = (
    "seed",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "max_grad_norm",
    "label_smoothing_factor",
    "fp16",
    "bf16",
    "tf32",
    "gradient_checkpointing",
    "torch_compile",
)
"""The `TrainingArguments` in `run.json`: an explicit list, because others hold tokens and paths."""
UNRECORDED = ("explicit", "must_match", "cache_dir", "overwrite_output_dir")
"""The fields of `Config` that are not in `run.json`: internal ones and local places."""


def describe(
    config: Config, splits: Splits, model: PreTrainedModel, loaded: LoadReport, plan: Plan, task: Task
) -> RunDescription:
    """Return task, data, model, method and plan of a run."""
    return RunDescription(
        task=task.name,
        pipeline=task.pipeline,
        auto_class=task.auto_class,
        method=str(config.method),
        paper=config.method.definition.paper,
        model=ModelRecord(
            name=loaded.source,
            hub_id=loaded.hub_id,
            commit=loaded.commit,
            digest=loaded.digest,
            class_name=type(model).__name__,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            notes=list(loaded.notes),
            origin=loaded.origin,
            licence=loaded.card.licence,
            licence_name=loaded.card.licence_name,
            licence_link=loaded.card.licence_link,
            languages=list(loaded.card.languages),
        ),
        data=_data(config, splits, task),
        plan=PlanRecord(
            [DepthGroupRecord(group.name, group.role, group.size) for group in loaded.groups],
            [
                PlannedStageRecord(
                    name=stage.name,
                    epochs=stage.epochs,
                    max_steps=stage.max_steps,
                    scheduler=stage.scheduler,
                    warmup=stage.warmup,
                    solved=expects_solved_head(config, plan.stages, stage, loaded.groups),
                    peft=stage.peft,
                    peft_options=dict(stage.peft_options),
                    settings=[GroupSettingRecord(setting.describe(group), setting.rate) for group, setting in stage],
                    objective=stage.objective,
                )
                for stage in plan.stages
            ],
        ),
    )


def _data(config: Config, splits: Splits, task: Task) -> DataRecord:
    local = config.dataset == IN_MEMORY or Path(config.dataset).expanduser().exists()
    hub_id, subset = (None, None) if local else split_argument(config.dataset)
    three = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    parts = {name: split for name, split in three.items() if split is not None}
    counts = {name: splits.target.counts(split, splits.labels) for name, split in parts.items()}
    numbers = {name: splits.target.numbers(split) for name, split in parts.items()}
    return DataRecord(
        name=public_name(config.dataset),
        hub_id=hub_id,
        problem_type=splits.problem_type,
        predicts=splits.target.describe(splits.labels),
        labels=list(splits.labels),
        sizes={name: len(split) for name, split in parts.items()},
        fingerprint=splits.fingerprint,
        inputs=[name for name in task.inputs if name in splits.train.column_names],
        truncation=[TruncationRecord(**asdict(found)) for found in splits.truncation or ()],
        duplicates=[DuplicatesRecord(**asdict(found)) for found in splits.duplicates.overlaps],
        notes=list(splits.notes),
        config=subset,
        revision=splits.commit,
        source_splits=dict(splits.source_splits) if hub_id else {},
        counts={
            name: dict(zip(splits.labels, found, strict=True)) for name, found in counts.items() if found is not None
        },
        numbers={name: NumbersRecord(*found) for name, found in numbers.items() if found is not None},
        languages=list(splits.card.languages),
        licence=splits.card.licence,
    )


def recorded_settings(config: Config, args: TrainingArguments) -> dict[str, Any]:
    """Return the settings that may be published: local folders by their last part, a fixed list of arguments."""
    own = {name: value for name, value in asdict(config).items() if name not in UNRECORDED and value is not None}
    own |= {"method": str(config.method)}
    own |= {"model": public_name(config.model), "dataset": public_name(config.dataset)}
    return own | {name: _plain(getattr(args, name)) for name in RECORDED}


def repeatable_settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide the result of a run, local paths by their last part."""
    return {
        name: public_name(value) if isinstance(value, str) and "/" in value else value
        for name, value in config.must_match.items()
    }


def without_places(value: Any, places: Iterable[str]) -> Any:
    """Return a value with each of these folders shortened to its last part: notes may quote errors with paths."""
    if isinstance(value, str):
        for place in sorted({*places}, key=len, reverse=True):
            if len(Path(place).parts) > 2:  # not a name or the root, which occur anywhere
                value = value.replace(place, Path(place).name)
        return value
    if isinstance(value, Mapping):
        return {name: without_places(item, places) for name, item in value.items()}
    return [without_places(item, places) for item in value] if isinstance(value, list | tuple) else value


def places_of(config: Config, out: Path) -> set[str]:
    """Return the local folders that a run uses, as written and resolved."""
    named = [config.model, config.dataset, config.cache_dir or str(default_root()), str(out)]
    local = [Path(name).expanduser() for name in named if Path(name).expanduser().exists()]
    local += [Path.cwd(), Path.home(), Path(tempfile.gettempdir())]
    return {str(form) for path in local for form in (path.absolute(), path.resolve()) if len(form.parts) > 2}


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # an enumeration's own text
    return value if isinstance(value, int | float | bool | str | None) else str(value)
