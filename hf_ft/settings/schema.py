"""Settings: what can be set, where it may come from, and the check of every option before torch is imported.

Two kinds of settings share one name space: the fields of `Config` (what `TrainingArguments` lacks) and every
field of `transformers.TrainingArguments`. The latter are read from its source text, so that a misspelt option
is answered in a fraction of a second instead of after the ten seconds that importing them takes.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.environment import ENUMERATIONS, class_body, enum_values, missing_package, progress_shown, trackers
from hf_ft.errors import UserError, choose, nearest
from hf_ft.methods import METHODS, MethodSpec, check_options
from hf_ft.settings import resume as resuming
from hf_ft.settings.dry_run import try_arguments
from hf_ft.settings.plan_yaml import read_stages, read_yaml
from hf_ft.settings.ranges import check_range
from hf_ft.storage import check_apart, check_ours, is_first_process
from hf_ft.tasks import get_task, modalities, task_names

if TYPE_CHECKING:
    from transformers import TrainingArguments


def _option(help: str, default: Any = None, choices: Sequence[str] | None = None, group: str = "") -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "group": group})


@dataclass(frozen=True)
class Config:
    """What a run needs beyond `TrainingArguments`: task, model, data and method.

    Built by `parse` or `build`, which check every value; `given` names the settings that the user wrote, as
    opposed to defaults, and `asked` holds the values of all, for `--resume` to compare.
    """

    task: str = _option("what to learn: " + ", ".join(task_names()), "", group="what")
    model: str = _option(
        "Hub id, folder, `builtin` or `builtin:NAME` (they ship here), or `timm:ARCHITECTURE` (random weights)",
        "",
        group="what",
    )
    dataset: str = _option("Hub id (or `id:config`), folder, or file", "", group="what")
    method: MethodSpec = _option(
        "what trains: " + ", ".join(m.spelled for m in METHODS.values()), MethodSpec("lp_ft"), group="what"
    )
    plan: str | dict[str, Any] | None = _option("YAML file with stages of your own, in place of a method", group="what")

    model_revision: str | None = _option("branch, tag or commit of the model on the Hub", group="model")
    keep_head: bool = _option("keep the checkpoint's head when its labels equal the data's", False, group="model")
    trust_remote_code: bool = _option("run code that comes with the model on the Hub", False, group="model")
    allow_pickle: bool = _option("read pickled weights when there are no safetensors", False, group="model")
    max_length: int | None = _option("longest text in tokens (default: the model's limit, at most 512)", group="model")

    dataset_revision: str | None = _option("branch, tag or commit of the data set on the Hub", group="data")
    image_column: str | None = _option("column with the image", group="data")
    text_column: str | None = _option("column with the text", group="data")
    tokens_column: str | None = _option("column with the words, as lists", group="data")
    text_pair_column: str | None = _option("column with the second text of a pair", group="data")
    label_column: str | None = _option(
        "column with the label, the list of labels, the number, or the tags of the words", group="data"
    )
    label_separator: str | None = _option("splits a text cell into several labels, for example `|`", group="data")
    problem_type: str | None = _option(
        "kind of labels, such as multi_label_classification (default: found from the label column)", group="data"
    )
    train_split: str | None = _option("name of the training split", group="data")
    validation_split: str | None = _option("name of the validation split", group="data")
    test_split: str | None = _option("name of the test split", group="data")
    validation_fraction: float = _option("part of train held out when there is no validation split", 0.1, group="data")
    max_train_examples: int | None = _option("train on so many examples, drawn by class", group="data")
    max_eval_examples: int | None = _option("use so many examples of validation and of test", group="data")
    examples_per_class: int | None = _option("train on so many examples of each class", group="data")
    val_examples_per_class: int | None = _option("validate on so many examples of each class", group="data")
    bad_examples: str = _option(
        "unreadable images, empty texts and missing labels: stop with a list, or leave them out and say how many",
        "error",
        choices=("error", "skip"),
        group="data",
    )

    augment: str | None = _option(
        "image augmentation (default: by method)", choices=("none", "basic", "trivial"), group="training"
    )
    class_weights: str = _option(
        "weight the loss by inverse class frequency", "none", choices=("none", "balanced"), group="training"
    )
    head_lr_multiplier: float | None = _option("learning rate of the head over that of the rest", group="training")
    layer_decay: float | None = _option("factor on the learning rate for each block further down", group="training")
    lora_r: int = _option("rank of LoRA", 8, group="training")
    lora_alpha: int = _option("scale of LoRA", 16, group="training")
    lora_dropout: float = _option("dropout before LoRA", 0.0, group="training")
    peft_options: dict[str, Any] | None = _option(
        "options of peft:NAME or lora as JSON, such as '{\"use_dora\": true}'", group="training"
    )
    head_solver: str = _option(
        "how a stage that trains a linear head alone does it: solve it on cached features, or train by steps (default: "
        "exact wherever possible; with method `head`, settings of steps such as --learning_rate mean sgd)",
        "auto",
        choices=("auto", "exact", "sgd"),
        group="training",
    )
    cache: str = _option(
        "run frozen layers once per example and keep what they give (default: where that saves time)",
        "auto",
        choices=("auto", "on", "off"),
        group="cache",
    )
    cache_dir: str | None = _option("folder of the cache (default: hf_ft/features in HF_HOME)", group="cache")
    cache_max_gb: float = _option("most that the cache may hold; what was used longest ago goes", 20.0, group="cache")
    cache_dtype: str = _option(
        "precision in which features are kept", "float32", choices=("float32", "float16", "bfloat16"), group="cache"
    )
    early_stopping_patience: int | None = _option("stop after so many evaluations without a gain", group="training")
    overwrite_output_dir: bool = _option("replace a run that stands in the output folder", False, group="training")
    load_back_proof: bool = _option("load the result in a fresh process and compare", True, group="training")

    given: frozenset[str] = frozenset()
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def adapters(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The PEFT methods that the stages use, each with its options."""
        used = [(stage.peft, stage.peft_options) for stage in self.method.own_stages if stage.peft]
        if (name := self.method.peft) is not None:
            own = {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout}
            used.append((name, (own if name == "lora" else {}) | (self.peft_options or {})))
        return used


def config_fields() -> dict[str, dataclasses.Field[Any]]:
    """The options of `Config` by name (all fields but `given` and `asked`)."""
    return {item.name: item for item in dataclasses.fields(Config) if item.name not in ("given", "asked")}


@dataclass(frozen=True)
class TrainingField:
    """One field of `TrainingArguments` as read from its source: annotation, help text, and the values it may have."""

    annotation: str
    help: str
    choices: tuple[str, ...] = ()


@functools.cache
def training_fields() -> dict[str, TrainingField]:
    """The fields of the installed `transformers.TrainingArguments`, read without importing it."""
    found = {}
    for node in class_body("transformers", "training_args.py", "TrainingArguments"):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_init_field(node.value):
            told = _metadata(node.value)
            found[node.target.id] = TrainingField(
                ast.unparse(node.annotation), str(told.get("help", "")), tuple(told.get("choices", ()))
            )
    return found


def _is_init_field(value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return value is not None
    return not any(
        key.arg == "init" and isinstance(key.value, ast.Constant) and not key.value.value for key in value.keywords
    )


def _metadata(value: ast.expr | None) -> dict[str, Any]:
    """What `field(..., metadata={"help": ..., "choices": ...})` says in plain constants."""
    found: dict[str, Any] = {}
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Dict):
            for key, item in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("help", "choices"):
                    with suppress(ValueError):
                        found.setdefault(str(key.value), ast.literal_eval(item))
    return found


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
    "push_to_hub": "Use `hf-ft push`: it lists what will be published before it publishes.",
    "remove_unused_columns": "Each task removes the columns that its model does not take.",
    "greater_is_better": "Every metric knows its direction.",
    "prediction_loss_only": "The metrics need the predictions.",
    "batch_eval_metrics": "Metrics are computed once, over all examples.",
}
"""Options of `transformers` or its example scripts that are not supported here -> what to use, or why not."""

TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "weight_decay": 0.01,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "seed": 0,
    "report_to": "none",
    "dataloader_pin_memory": False,
}
"""Where our defaults for `TrainingArguments` differ from its own; methods and users may set others."""


def normalise(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Resolve aliases, reject unknown names, and convert and check each value of one layer of settings.

    `source` names where they came from ("the command line", a file name) and goes into the error.

    Raises:
        UserError: an unknown name with the nearest known one, or a value of the wrong type or out of range.
    """
    clean: dict[str, Any] = {}
    for written, value in settings.items():
        key = str(written).replace("-", "_")  # YAML reads `on` and `1` as no text
        name = ALIASES.get(key, key)
        annotation = annotation_of(name, written, source)
        if name in clean:
            raise UserError(f"'{name}' is set twice in {source} (as '{written}' and under another spelling).")
        clean[name] = _read_method(value) if name == "method" else _checked(name, _convert(value, annotation, name))
    return clean


def _read_method(value: Any) -> MethodSpec | None:
    if value is None or isinstance(value, MethodSpec):
        return value
    return MethodSpec.parse(_convert(value, "str", "method"))


def annotation_of(name: str, written: str, source: str, others: Iterable[str] = ()) -> str:
    """The annotation of a setting; `others` are options beside the settings, which a typo may have meant.

    Raises:
        UserError: no such setting, with the nearest, or one that has another name now.
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


def _convert(value: Any, annotation: str, name: str) -> Any:
    """Turn text (from the command line, or YAML's `1e-3`) into the type that the annotation names."""
    kinds = {part.strip().split("[")[0] for part in annotation.replace('"', "").split("|")}
    if name == "resume_from_checkpoint":
        kinds |= {"bool"}  # `Trainer` takes true as well: go on from the last checkpoint
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bool):  # as YAML reads `on`, `off` and `no`
        value = next((word for word in (("on",) if value else ("off", "no")) if word in _choices(name)), value)
    if isinstance(value, float) and value.is_integer() and kinds <= {"int", "None"}:
        value = int(value)
    if not isinstance(value, str):
        if value is not None and kinds <= {*TYPES, "None"} and not any(_is(value, kind) for kind in kinds - {"None"}):
            raise UserError(f"'{name}' takes {_spoken(kinds)}, not {_said(value, name)}.", option=name, value=value)
        return value
    if value.lower() in ("none", "null") and "None" in kinds and value not in _choices(name):
        return None
    if "dict" in kinds and value.lstrip().startswith("{") and _parse(value, "dict") is None:
        raise UserError(f"'{name}' takes a JSON object, not '{value}'.", option=name, value=value)
    for kind in ("bool", "int", "float", "dict", "list"):
        if kind in kinds:
            parsed = _parse(value, kind)
            if parsed is not None:
                return parsed
    if kinds & {"str", "list"}:
        return value
    raise UserError(f"'{name}' takes {_spoken(kinds)}, not '{value}'.", option=name, value=value)


IN_MEMORY = {
    "dataset": "Data in memory are not supported yet: write them with save_to_disk(FOLDER) and give the folder",
    "model": "Models in memory are not supported yet: write them with save_pretrained(FOLDER) and give the folder",
}
"""Setting -> what to do with an object that was given in place of a name."""


def _said(value: Any, name: str) -> str:
    """A value in a message: as it was written, unless it is a whole object."""
    plain = isinstance(value, bool | int | float | str | list | tuple | dict)
    if plain and len(repr(value)) <= 80:
        return repr(value)
    remedy = f". {IN_MEMORY[name]}" if name in IN_MEMORY else ""
    return f"an object of type {type(value).__name__}{remedy}"


TYPES = {"bool": bool, "int": Integral, "float": Real, "str": str, "dict": dict, "list": list}
"""Kind of value, as an annotation spells it -> what such a value is an instance of."""


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (isinstance(value, bool) == (kind == "bool"))


def _parse(text: str, kind: str) -> Any:
    if kind == "bool":
        return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}.get(text.lower())
    try:
        if kind in ("int", "float"):
            return (int if kind == "int" else float)(text)
        parsed = json.loads(text)
        return parsed if isinstance(parsed, dict if kind == "dict" else list) else None
    except ValueError:
        return None


def _spoken(kinds: set[str]) -> str:
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "dict": "a JSON object"}
    words |= {"str": "text", "list": "text"}
    return " or ".join(dict.fromkeys(words.get(kind, f"an object of type {kind}") for kind in sorted(kinds - {"None"})))


def _checked(name: str, value: Any) -> Any:
    if value == "" and name in config_fields() and config_fields()[name].default != "":
        raise UserError(f"'{name}' is empty.", option=name, value=value, hint="Set a value, or leave it out.")
    if _choices(name) and value is not None:
        choose(str(getattr(value, "value", value)), _choices(name), f"value for '{name}':", option=name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_range(name, value, f"'{name}'")
    return value


def _choices(name: str) -> Sequence[str]:
    options = config_fields()
    if name in options:
        return options[name].metadata["choices"] or ()
    entry = training_fields()[name]
    kinds = [kind for kind in ENUMERATIONS if kind in entry.annotation.split(" | ")]
    return enum_values(kinds[0]) if kinds else entry.choices


@dataclass(frozen=True)
class Settings:
    """All settings of a run, merged and checked, still without torch: `Config` and `TrainingArguments` fields."""

    config: Config
    training: dict[str, Any]

    def arguments(self) -> TrainingArguments:
        """Build the `TrainingArguments`; imports `transformers` and torch.

        Raises:
            UserError: a value that `TrainingArguments` refuses, or fp16 without a GPU.
        """
        import torch
        from transformers import TrainingArguments
        from transformers.integrations.integration_utils import get_available_reporting_integrations
        from transformers.training_args import trainer_log_levels

        if self.training.get("fp16") and not (torch.cuda.is_available() or self._other_accelerator(torch)):
            raise UserError("fp16 needs a GPU and this machine has none. Leave out --fp16 (float32 is used).")
        if self.training.get("bf16") and not (self._other_accelerator(torch) or self.training.get("use_cpu")):
            raise UserError(
                "bf16 was given and this machine has no GPU. Leave out --bf16 (float32 is used), or add --use_cpu: "
                "processors with bfloat16 units gain from it, others lose."
            )
        for name, options in self.config.adapters:
            check_options(name, options)
        if self.training.get("ddp_backend") and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise UserError("--ddp_backend joins several processes, and this is one. Leave it out.")
        for name in ("log_level", "log_level_replica"):
            if name in self.training:
                choose(self.training[name], trainer_log_levels, f"value for '{name}':", option=name)
        try:
            with warnings.catch_warnings():  # the old name is what everybody writes, and it works
                warnings.filterwarnings("ignore", "`gradient_checkpointing.* is deprecated", FutureWarning)
                arguments = TrainingArguments(**{"disable_tqdm": not progress_shown(), **self.training})
        except Exception as error:  # its checks, and those of what it reads, raise as many kinds as there are
            raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
        if arguments.fsdp and arguments.world_size == 1:
            raise UserError("--fsdp splits a model over several GPUs, and this is one process. Leave it out.")
        for tracker in arguments.report_to or ():  # some are installed and not set up
            choose(
                tracker,
                get_available_reporting_integrations(),
                "value for 'report_to':",
                OF_TRACKERS,
                option="report_to",
            )
        try_arguments(arguments)
        return arguments

    @staticmethod
    def _other_accelerator(torch: Any) -> bool:
        return bool(torch.accelerator.is_available())


def build(*layers: tuple[str, Mapping[str, Any]]) -> Settings:
    """Merge layers of settings, weakest first, each a pair (where it came from, mapping), and check the whole.

    `TRAINING_DEFAULTS` and the method's stand below the first layer. Everything that the layers name counts as given.

    Raises:
        UserError: unknown names, wrong values, missing task/model/dataset, contradictions, missing folders.
    """
    given: dict[str, Any] = {}
    for source, layer in layers:
        clean = normalise(layer, source)
        said = [name for name in ("method", "plan") if clean.get(name) is not None]
        if len(said) == 2:
            raise UserError(f"Give either method or plan in {source}, not both: the plan's stages say what trains.")
        for name in said:  # each replaces the other of an earlier layer
            given.pop({"method": "plan", "plan": "method"}[name], None)
        given |= clean
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("load_best_model_at_end") is True:  # is what every stage does, once its evaluations are planned
        if "no" in (given.get("eval_strategy"), given.get("save_strategy")):
            raise UserError("load_best_model_at_end needs evaluations and checkpoints. Leave out the strategy `no`.")
        del given["load_best_model_at_end"]
    task = given.get("task", "")
    if not task:
        raise UserError("`--task` is missing.", option="task", choices=task_names())
    choose(task, task_names(), "task", "Set it with --task.", option="task")
    if isinstance(given.get("plan"), str):
        given["plan"] = read_yaml(given["plan"], "plan", "`stages:` and a list")
    modality, method = get_task(task).modality.method_defaults, given.get("method", Config.method)
    if "plan" in given:
        method = MethodSpec.from_stages(read_stages(given["plan"], modality))
    merged = TRAINING_DEFAULTS | dict(get_task(task).training) | method.defaults(modality) | given | {"method": method}
    own = config_fields()
    chosen = {name: value for name, value in merged.items() if name in own}
    config = Config(**chosen, given=frozenset(given), asked=resuming.comparable(merged))
    training = {name: value for name, value in merged.items() if name not in own}
    _check_whole(config, training)
    return Settings(config, training)


OF_LORA = frozenset({"lora_r", "lora_alpha", "lora_dropout"})
OF_ADAPTERS = OF_LORA | {"peft_options"}
"""Settings that only methods with adapters take, `OF_LORA` those of LoRA alone."""


def adapter_options(method: MethodSpec) -> frozenset[str]:
    """The options of adapters that a method takes."""
    if method.peft is None:
        return frozenset()
    return OF_ADAPTERS if method.name == "lora" else OF_ADAPTERS - OF_LORA


def _check_adapters(config: Config) -> None:
    """Check that options of adapters have adapters to go to."""
    given = sorted(OF_ADAPTERS & config.given)
    if not given:
        return
    if config.method.own_stages:
        raise UserError(f"--{given[0]} does not go with a plan: write peft_options into its stage.")
    used = [name for name, _ in config.adapters]
    if not used:
        raise UserError(
            f"--{given[0]} does not go with method '{config.method}', which has no adapters. Use method lora or "
            "peft:NAME."
        )
    if given[0] in OF_LORA and used != ["lora"]:
        raise UserError(f"--{given[0]} is an option of lora, not of {used[0]}. Give --peft_options instead.")
    for option in sorted(OF_LORA):
        if option in given and option.replace("lora_r", "r") in (config.peft_options or {}):
            raise UserError(f"--{option} is given in --peft_options as well. Keep one of them.")


def _check_inputs(config: Config) -> None:
    """Check that options about inputs belong to the task, and that no column has two roles."""
    task, every = get_task(config.task), [get_task(name) for name in task_names()]
    foreign = sorted({role for other in every for role in other.inputs} - set(task.inputs))
    options = [f"{role}_column" for role in foreign]
    options += [name for other in modalities() for name in other.options if name not in task.modality.options]
    if wrong := [name for name in options if name in config.given and getattr(config, name) != "none"]:
        raise UserError(f"--{wrong[0]} does not go with {task.name}, whose inputs are {', '.join(task.inputs)}.")
    named = {role: getattr(config, f"{role}_column") for role in (*task.inputs, "label")}
    for role, column in named.items():
        for other in (other for other in named if other != role and column is not None and named[other] == column):
            raise UserError(
                f"--{role}_column and --{other}_column both name '{column}'. Give each a column of its own."
            )


OF_TRACKERS = "Install it, or all of them with pip install 'hf-ft[trackers]'."


def _check_packages(training: Mapping[str, Any]) -> None:
    """Check that trackers exist, and that the packages which options need are installed."""
    wanted = training.get("report_to") or []
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        choose(str(tracker), ["none", "all", *trackers()], "value for 'report_to':", option="report_to")
        if tracker not in ("none", "all") and (package := missing_package(tracker)):
            raise UserError(f"--report_to {tracker}: the package {package} is not installed. {OF_TRACKERS}")
    for option, package in (("deepspeed", "deepspeed"), ("use_liger_kernel", "liger_kernel")):
        if training.get(option) and missing_package(package):
            name = package.replace("_", "-")
            raise UserError(f"--{option} needs the package {name}, which is not installed: pip install {name}")


def _check_whole(config: Config, training: Mapping[str, Any]) -> None:
    for name in ("model", "dataset"):
        if not getattr(config, name):
            raise UserError(f"`--{name}` is missing.", option=name, hint="Set it to a Hub id or a folder.")
        check_path(getattr(config, name), name)
    if config.max_train_examples and config.examples_per_class:
        raise UserError("Give either max_train_examples or examples_per_class, not both.")
    if not training.get("output_dir"):
        raise UserError("`--output_dir` is missing.", option="output_dir", hint="Set it to a folder for the result.")
    if isinstance(training.get("resume_from_checkpoint"), str):
        raise UserError("--resume takes no path: it goes on from the newest checkpoint in --output_dir.")
    _check_adapters(config)
    if config.keep_head and not config.method.definition.pretrained:
        raise UserError(f"--keep_head does not go with method '{config.method}', which starts from random weights.")
    strategies = training.get("eval_strategy"), training.get("save_strategy")  # the one follows the other
    if config.early_stopping_patience and (strategies[0] or strategies[1]) == "no":
        raise UserError("early_stopping_patience needs evaluations. Leave out the strategy `no`.")
    for kind, revision in (("model", config.model_revision), ("dataset", config.dataset_revision)):
        if revision and is_local(getattr(config, kind)):
            raise UserError(f"--{kind}_revision is for the Hub, and {getattr(config, kind)} is a local folder.")
    _check_packages(training)
    _check_inputs(config)
    get_task(config.task).check({**vars(config), **training})
    check_output_dir(training["output_dir"], config, training.get("resume_from_checkpoint"))
    if training.get("resume_from_checkpoint"):
        resuming.check_settings(Path(training["output_dir"]).expanduser(), config)


def is_local(name: str) -> bool:
    """Whether a model or data set name means something on this disk rather than on the Hub."""
    return os.path.exists(os.path.expanduser(name)) or (
        name.startswith(("/", "./", "../", "~"))
        or name.count("/") > 1
        or name.endswith((".csv", ".tsv", ".json", ".jsonl", ".parquet"))
    )


LONGEST_NAME = 255
"""Bytes in the longest name of a file; asking for a longer one is an error to the system, not a no."""


def check_path(name: str, kind: str) -> None:
    """Raise a UserError naming the nearest sibling when a local path does not exist."""
    path = Path(name).expanduser()
    impossible = "\0" in name or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts)
    if os.path.exists(path) or not (impossible or is_local(name)):
        return
    siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    near = nearest(path.name, siblings)
    hint = f" Did you mean {path.parent / near}?" if near else ""
    parent = "" if os.path.isdir(path.parent) else f" ({_short(str(path.parent))} does not exist either)"
    others = "a Hub id, a folder or a file" if kind in ("model", "dataset") else "one"
    raise UserError(f"No such {kind}: {_short(name)}{parent}.{hint} Give {others} that exists.")


def check_place(output_dir: str, config: Config) -> None:
    """Refuse an output folder that cannot be made, or in which results would mix with what they are made from."""
    path = Path(output_dir).expanduser()
    if why := not_made(path.absolute()):
        raise UserError(f"No output folder {_short(output_dir)} can be made: {why}. Choose another folder.")
    for what, source in (("model", config.model), ("dataset", config.dataset)):
        check_apart(path, Path(source).expanduser(), what)


def check_output_dir(output_dir: str, config: Config, resume: Any) -> None:
    """Refuse an output folder that is not ours, or holds another run, unless told to resume or to replace that."""
    check_place(output_dir, config)
    path = Path(output_dir).expanduser()
    if not is_first_process() or check_ours(path, "run") == "nothing" or resume or config.overwrite_output_dir:
        return  # the first process of several may have begun by now
    what = "a finished run" if (path / "run.json").exists() else "an interrupted run"
    raise UserError(
        f"The output folder {output_dir} already holds {what}. Choose another folder, continue an interrupted run "
        "with --resume, or replace it with --overwrite_output_dir."
    )


def not_made(path: Path) -> str:
    """Why no folder or file of that name can be made or written to, empty where it can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8, which tokenizers refuse to write to"
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        return f"{there} is {'a file' if there.exists() else 'a link to nothing'}"
    try:
        tempfile.TemporaryFile(dir=there).close()  # root may write anywhere, but not into /proc
        longest = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else LONGEST_NAME  # not on Windows
    except OSError:
        return f"{there} cannot be written to"
    long = [part for part in path.parts if len(os.fsencode(part)) > longest]
    if long or "\0" in str(path):
        return f"'{_short(long[0])}' has more than {longest} bytes" if long else "its name holds a null byte"
    return ""


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:60]}..."
