"""Layers of settings (defaults, a recipe, a YAML file, a command line) merged into one checked whole, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import UserError, nearest
from hf_ft.methods import MethodSpec, check_options
from hf_ft.settings import resume_check as resuming
from hf_ft.settings.hub_options import check_hub_options
from hf_ft.settings.method_checks import check_start
from hf_ft.settings.paths import check_output_dir
from hf_ft.settings.plan_yaml import read_stages, read_yaml
from hf_ft.settings.revisions import split_revisions
from hf_ft.settings.schema import (
    SECTIONS,
    Config,
    MethodSettings,
    ModelSettings,
    OutputSettings,
    Section,
    TaskSettings,
    TrainingSettings,
    config_fields,
)
from hf_ft.settings.step_checks import check_steps, check_token_batches
from hf_ft.settings.training_arguments import (
    TRAINING_DEFAULTS,
    check_training,
    make_arguments,
    training_choices,
    training_fields,
)
from hf_ft.settings.values import read_value
from hf_ft.tasks import get_task

if TYPE_CHECKING:
    from transformers import TrainingArguments

ALIASES = {
    "model_name_or_path": "model",
    "dataset_name": "dataset",
    "max_train_samples": "max_train_examples",
    "max_eval_samples": "max_eval_examples",
    "max_seq_length": "max_length",
    "text_column_name": "text_column",
    "image_column_name": "image_column",
    "label_column_name": "label_column",
    "train_split_name": "train_split",
    "validation_split_name": "validation_split",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "resume": "resume_from_checkpoint",
}
"""Other spellings that the example scripts of this field use."""

FORMER = {
    "warmup_ratio": "Use `--warmup_steps 0.1`: a value below 1 is a fraction of all steps.",
    "evaluation_strategy": "Use `--eval_strategy`.",
    "group_by_length": "Use `--train_sampling_strategy group_by_length`.",
    "logging_dir": "Set the environment variable TENSORBOARD_LOGGING_DIR.",
    "save_safetensors": "Weights are always saved as safetensors.",
    "no_cuda": "Use `--use_cpu`.",
    "dataset_config_name": "Name it with the dataset: `--dataset id:config`.",
    "train_file": "Use `--dataset FOLDER` with files called train.*, validation.* and test.*.",
    "do_train": "This command always trains; `hf-ft evaluate` only evaluates.",
    "do_eval": "The validation and test splits are always evaluated.",
    "do_predict": "Use `hf-ft predict` to label new inputs.",
    "remove_unused_columns": "Each task removes the columns that its model does not take.",
    "greater_is_better": "Every metric knows its direction.",
    "prediction_loss_only": "The metrics need the predictions.",
    "batch_eval_metrics": "Metrics are computed once, over all examples.",
}
"""Options of `transformers` or its example scripts that are not supported here -> what to use, or why not."""


def normalise(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Resolve aliases, reject unknown names, and convert and check each value of one layer of settings.

    Args:
        source: Where they came from ("the command line", a file name), for the error.

    Raises:
        UserError: an unknown name with the nearest known one, or a value of the wrong type or out of range.
    """
    clean: dict[str, Any] = {}
    for written, value in settings.items():
        key = str(written).replace("-", "_")  # YAML reads `on` and `1` as no text
        name = ALIASES.get(key, key)
        annotation = annotation_of(name, written, source)
        if name in clean:
            raise UserError(
                f"'{name}' is set twice in {source} (as '{written}' and under another spelling).", option=name
            )
        clean[name] = _read(name, value, annotation)
    return clean


def annotation_of(name: str, written: str, source: str, others: Iterable[str] = ()) -> str:
    """The annotation of an option; `others` are options beside the settings, which a typo may have meant.

    Raises:
        UserError: no such option, with the nearest, or one that has another name now.
    """
    if name in FORMER:
        raise UserError(f"`{written}` in {source} is not supported.", option=name, hint=FORMER[name])
    options = config_fields()
    if name in options:
        return str(options[name].type)
    fields = training_fields()
    if name in fields:
        return fields[name].annotation
    near = nearest(name, [*options, *fields, *ALIASES, *others])
    hint = "The options are those of --help and all fields of transformers.TrainingArguments."
    raise UserError(
        f"Unknown option '{written}' in {source}.",
        option=name,
        hint=f"Did you mean '{near}'? {hint}" if near else hint,
    )


def _read(name: str, value: Any, annotation: str) -> Any:
    """The value of an option, converted and checked."""
    item = config_fields().get(name)
    choices: Sequence[str] = training_choices(name) if item is None else item.metadata["choices"]
    if value == "" and item is not None and item.default != "":
        raise UserError(f"'{name}' is empty.", option=name, value=value, hint="Set a value, or leave it out.")
    return read_value(name, value, annotation, choices)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, merged and checked, still without torch.

    Args:
        config: Our options.
        training: Fields of `TrainingArguments`.
    """

    config: Config
    training: dict[str, Any]

    def arguments(self) -> TrainingArguments:
        """Build the `TrainingArguments`; imports `transformers` and torch.

        Raises:
            UserError: a value that `TrainingArguments`, `Trainer` or PEFT refuses, or fp16 without a GPU.
        """
        for name, options in self.config.adapters:
            check_options(name, options)
        return make_arguments(self.training)


def build(*layers: tuple[str, Mapping[str, Any]], sections: Sequence[type[Section]] = SECTIONS) -> Settings:
    """Merge layers of settings, weakest first, each a pair (where it came from, mapping), and check the whole.

    `TRAINING_DEFAULTS` and the defaults of task and method come before the first layer.

    Args:
        sections: The sections that are needed: a model, data or output folder is required by its section, and what no
            section here knows is checked value by value alone.

    Raises:
        UserError: unknown names, wrong values, missing task/model/dataset, contradictions, missing folders.
    """
    explicit = split_revisions(_merge(layers))
    task = explicit.get("task", "")
    TaskSettings(task=task).check()
    if isinstance(explicit.get("plan"), str):
        explicit["plan"] = read_yaml(explicit["plan"], "plan", "`stages:` and a list")
    modality, method = get_task(task).modality.method_defaults, explicit.get("method", Config.method)
    if "plan" in explicit:
        method = MethodSpec.from_stages(read_stages(explicit["plan"], modality))
    defaults = TRAINING_DEFAULTS | dict(get_task(task).training) | method.defaults(modality)
    merged = defaults | explicit | {"method": method}
    own = config_fields()
    config = Config(
        **{name: value for name, value in merged.items() if name in own},
        explicit=frozenset(explicit),
        must_match=resuming.comparable(merged),
    )
    settings = Settings(config, {name: value for name, value in merged.items() if name not in own})
    _check(settings, sections)
    return settings


def _merge(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What the layers set, later ones over earlier ones."""
    explicit: dict[str, Any] = {}
    for source, layer in layers:
        clean = normalise(layer, source)
        both = [name for name in ("method", "plan") if clean.get(name) is not None]
        if len(both) == 2:
            raise UserError(
                f"method and plan in {source} exclude each other: the plan's stages define what trains.",
                option="plan",
                hint="Keep one of them.",
            )
        for name in both:  # each replaces the other of an earlier layer
            explicit.pop({"method": "plan", "plan": "method"}[name], None)
        explicit |= clean
    explicit = {name: value for name, value in explicit.items() if value is not None}
    if explicit.get("load_best_model_at_end") is True:  # is what every stage does, once its evaluations are planned
        if "no" in (explicit.get("eval_strategy"), explicit.get("save_strategy")):
            raise UserError(
                "load_best_model_at_end needs evaluations and checkpoints.",
                option="load_best_model_at_end",
                hint="Leave out the strategy `no`.",
            )
        del explicit["load_best_model_at_end"]
    return explicit


def _check(settings: Settings, sections: Sequence[type[Section]]) -> None:
    """Check the sections that are needed, and what must hold between them and `TrainingArguments`."""
    config, training = settings.config, settings.training
    for section in sections:
        section.check_together(config)
    if OutputSettings in sections and not training.get("output_dir"):
        raise UserError("`--output_dir` is missing.", option="output_dir", hint="Set it to a folder for the result.")
    if isinstance(training.get("resume_from_checkpoint"), str):
        raise UserError(
            "--resume takes no path: it continues from the newest checkpoint in --output_dir.",
            option="resume_from_checkpoint",
        )
    if {ModelSettings, MethodSettings} <= {*sections} and config.keep_head and not config.method.definition.pretrained:
        raise UserError(
            f"--keep_head does not go with method '{config.method}', which starts from random weights.",
            option="keep_head",
        )
    if TrainingSettings in sections:
        check_steps(config, training)
        check_token_batches(config, training)
    if {ModelSettings, MethodSettings} <= {*sections}:
        check_start(config)
    if config.loss == "focal" and training.get("label_smoothing_factor"):
        raise UserError(
            "--label_smoothing_factor does not go with --loss focal.",
            option="label_smoothing_factor",
            hint="Keep one of them.",
        )
    if config.sampler != "none" and training.get("train_sampling_strategy") == "sequential":
        raise UserError(
            "--sampler draws examples at random, which --train_sampling_strategy sequential rules out.",
            option="sampler",
            hint="Keep one of them.",
        )
    check_hub_options(training, config.explicit, OutputSettings in sections)
    check_training(training)
    get_task(config.task).check({**vars(config), **training})
    if OutputSettings in sections:
        resume = training.get("resume_from_checkpoint")
        check_output_dir(training["output_dir"], config.model, config.dataset, config.overwrite_output_dir, resume)
        if resume:
            resuming.check_settings(Path(training["output_dir"]).expanduser(), config)
