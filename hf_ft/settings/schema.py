"""What can be set: the options of this package in sections by subject, each usable and checkable alone.

`Config` is all sections in one. A function that needs only the cache takes a `CacheSettings`, and a `Config` is one.
The fields of `transformers.TrainingArguments` are options too, see `training_arguments`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_ft.environment import builtin_name, missing_package
from hf_ft.errors import UserError, choose, split_argument
from hf_ft.methods import METHODS, MethodSpec
from hf_ft.modalities import AUGMENTATIONS, ERASING
from hf_ft.settings.paths import check_path, is_local
from hf_ft.settings.values import check_value
from hf_ft.tasks import LONG_TEXT_WAYS, get_task, modalities, task_names


def _option(help: str, default: Any = None, choices: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Section:
    """Options of one subject.

    Args:
        explicit: Names of the options that the user wrote, as opposed to defaults.
    """

    title: ClassVar[str] = ""
    """The heading of the section in `--help`."""

    explicit: frozenset[str] = field(default=frozenset(), kw_only=True)

    @classmethod
    def options(cls) -> dict[str, dataclasses.Field[Any]]:
        """The options of the section by name, those of its base classes first."""
        return {item.name: item for item in dataclasses.fields(cls) if "help" in item.metadata}

    @classmethod
    def own_options(cls) -> dict[str, dataclasses.Field[Any]]:
        """The options that the section adds to those of its base classes."""
        return {name: item for name, item in cls.options().items() if name in cls.__annotations__}

    def check(self) -> None:
        """Check every value alone, and then what must hold between them.

        Raises:
            UserError: the first mistake.
        """
        for name, item in self.options().items():
            check_value(name, getattr(self, name), str(item.type), item.metadata["choices"])
        for section in SECTIONS:
            if isinstance(self, section):
                section.check_together(self)

    def check_together(self) -> None:
        """Check what must hold between the options that this class adds."""


@dataclass(frozen=True)
class TaskSettings(Section):
    """What is learned."""

    title = "task"

    task: str = _option("task to train: " + ", ".join(task_names()), "")

    def check_together(self) -> None:
        """Check that there is such a task."""
        if not self.task:
            raise UserError("`--task` is missing.", option="task", choices=task_names())
        choose(self.task, task_names(), "task", "Set it with --task.", option="task")


RANDOM, TEMPLATE = "random", "This is about {label}"


@dataclass(frozen=True)
class ModelSettings(TaskSettings):
    """The model to start from, and how it may be loaded."""

    title = "model"

    model: str = _option(
        "Hub id (or `id@revision`), folder, `builtin:NAME` (needs no Hub), or `timm:ARCHITECTURE` (random weights)", ""
    )
    model_revision: str | None = _option("branch, tag or commit of the model on the Hub")
    keep_head: bool = _option("keep the checkpoint's head when its labels are those of the data", False)
    pooling: str | None = _option(
        "what the head of a text classifier reads: what its architecture pools, or the sentence embedding that its "
        "encoder was trained for (default: sentence, where there is one that a new head can read)",
        choices=("model", "sentence"),
    )
    head_init: str = _option(
        "where the head starts: random, or from the embeddings of the label names, which a solved head stays close to",
        RANDOM,
        choices=(RANDOM, "label_names"),
    )
    label_template: str = _option("text of which head_init label_names embeds one for each label", TEMPLATE)
    trust_remote_code: bool = _option("run code that comes with the model on the Hub", False)
    allow_pickle: bool = _option("load pickled weights where there are no safetensors", False)

    def check_together(self) -> None:
        """Check that a built-in or local model exists, and that options of a new head have one to go to."""
        builtin_name(self.model)
        _check_source("model", self.model, self.model_revision)
        for name in ("pooling", "head_init"):
            if self.keep_head and getattr(self, name) in ("sentence", "label_names"):
                raise UserError(
                    f"--{name} {getattr(self, name)} does not go with --keep_head: a head that is kept reads what it "
                    "was trained on.",
                    option=name,
                    value=getattr(self, name),
                    hint="Keep one of them.",
                )
        if "label_template" in self.explicit and self.head_init != "label_names":
            raise UserError("--label_template is for --head_init label_names.", option="label_template", hint="Add it.")
        if "{label}" not in self.label_template:
            raise UserError(
                f"--label_template '{self.label_template}' has no place for the label.",
                option="label_template",
                value=self.label_template,
                hint=f"Write {{label}} into it, as in '{TEMPLATE}'.",
            )


@dataclass(frozen=True)
class DataSettings(TaskSettings):
    """Where the data are, which columns and splits are used, and how many examples."""

    title = "data"

    dataset: str = _option("Hub id (or `id:config`, `id@revision`), folder, or file", "")
    dataset_revision: str | None = _option("branch, tag or commit of the dataset on the Hub")
    image_column: str | None = _option("column with the image")
    text_column: str | None = _option("column with the text")
    tokens_column: str | None = _option("column with the words, as lists")
    text_pair_column: str | None = _option("column with the second text of a pair")
    label_column: str | None = _option(
        "column with the label, the list of labels, the number, or the tags of the words"
    )
    label_separator: str | None = _option("separator between several labels in one cell, such as `|`")
    problem_type: str | None = _option(
        "kind of labels, such as multi_label_classification (default: found from the label column)"
    )
    train_split: str | None = _option("name of the training split")
    validation_split: str | None = _option("name of the validation split")
    test_split: str | None = _option("name of the test split")
    validation_fraction: float = _option(
        "fraction of the training split to hold out when there is no validation split", 0.1
    )
    max_train_examples: int | None = _option("train on at most this many examples, sampled by class")
    max_eval_examples: int | None = _option("evaluate on at most this many examples of each split")
    examples_per_class: int | None = _option("train on this many examples of each class")
    val_examples_per_class: int | None = _option("validate on this many examples of each class")
    bad_examples: str = _option(
        "on unreadable images, empty texts and missing labels: stop and list them, or skip and count them",
        "error",
        choices=("error", "skip"),
    )

    def check_together(self) -> None:
        """Check that the dataset exists where it is local, and that columns and sizes go together."""
        _check_source("dataset", self.dataset, self.dataset_revision)
        if self.max_train_examples and self.examples_per_class:
            raise UserError(
                "--max_train_examples and --examples_per_class exclude each other.",
                option="max_train_examples",
                value=self.max_train_examples,
                hint="Keep one of them.",
            )
        self._check_columns()

    def _check_columns(self) -> None:
        """Check that columns belong to the task, and that none has two roles."""
        task, every = get_task(self.task), [get_task(name) for name in task_names()]
        foreign = sorted({role for other in every for role in other.inputs} - set(task.inputs))
        _refuse_foreign(self, [f"{role}_column" for role in foreign])
        named = {role: getattr(self, f"{role}_column") for role in (*task.inputs, "label")}
        for role, column in named.items():
            for other in (other for other in named if other != role and column is not None and named[other] == column):
                raise UserError(
                    f"--{role}_column and --{other}_column both name '{column}'.",
                    option=f"{role}_column",
                    value=column,
                    hint="Use a different column for each.",
                )


@dataclass(frozen=True)
class EncodingSettings(TaskSettings):
    """How examples become the model's inputs."""

    title = "encoding"

    max_length: int | None = _option("longest text in tokens (default: the model's limit, at most 512)")
    long_text: str = _option(
        "how to read a longer text: truncate it, join its head and tail, or average over overlapping windows",
        "truncate",
        choices=LONG_TEXT_WAYS,
    )
    image_size: int | None = _option(
        "train for images of this many pixels a side; position embeddings are interpolated (default: the model's size)"
    )
    augment: str | None = _option(
        "augmentation of the training images (default: by method)", choices=tuple(AUGMENTATIONS)
    )
    random_erasing: float | None = _option(
        "erase a random rectangle of a training image with this probability (default: 0.25 with `--augment strong`, "
        "else 0)"
    )
    augment_views: int | None = _option(
        "augment each training image this many times only, such as 4, and cache these views: epochs cycle through them "
        "and frozen layers run once (default: another augmentation in each epoch, uncached)"
    )
    mixup: float | None = _option(
        "blend training images and their labels in pairs; X is the parameter of the Beta distribution, such as 0.2"
    )
    cutmix: float | None = _option(
        "paste a rectangle of one training image into another and mix their labels; X as for --mixup, such as 1.0"
    )

    @property
    def erasing(self) -> float:
        """The probability of random erasing of a training image."""
        return ERASING.get(self.augment or "none", 0.0) if self.random_erasing is None else self.random_erasing

    @property
    def mixing(self) -> dict[str, float]:
        """The options that mix training images, each with its parameter; empty if none does."""
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        return {name: alpha for name, alpha in alphas.items() if alpha}

    @property
    def random_images(self) -> list[str]:
        """The explicit options because of which an image differs each time that training reads it.

        None with `augment_views`, whose images are fixed: a head can be solved on all of them.
        """
        if self.augment_views:
            return []
        found = {"augment": self.augment not in (None, "none"), "random_erasing": self.random_erasing, **self.mixing}
        return [name for name, used in found.items() if used and name in self.explicit]

    def check_together(self) -> None:
        """Check that the options go with the kind of input."""
        task = get_task(self.task)
        own = task.modality.options
        _refuse_foreign(self, [name for other in modalities() for name in other.options if name not in own])
        if self.augment_views:
            self._check_views()
        if self.long_text != "truncate" and task.limit is None:
            raise UserError(
                f"--long_text does not go with {task.name}, which splits long texts and truncates none.",
                option="long_text",
                value=self.long_text,
                hint="Leave it out.",
            )

    def _check_views(self) -> None:
        """Check that views of an image differ, and that nothing mixes what is cached of them."""
        if self.augment in (None, "none") and not self.erasing:
            raise UserError(
                f"--augment_views {self.augment_views} needs an augmentation: else all views are the same image.",
                option="augment_views",
                value=self.augment_views,
                hint="Add --augment basic, or leave it out.",
            )
        if self.mixing:
            name = next(iter(self.mixing))
            raise UserError(
                f"--augment_views caches features of single images, and --{name} mixes images in each step.",
                option="augment_views",
                value=self.augment_views,
                hint=f"Leave out --augment_views or --{name}.",
            )


STEP_OPTIONS = frozenset(
    {
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "lr_scheduler_type",
        "optim",
        "head_lr_multiplier",
        "early_stopping_patience",
    }
)
"""Options that only mean something for gradient steps: setting one for a head alone asks for steps."""

OF_AVERAGES = frozenset({"ema", "soup"})
"""Options that average weights of training by steps, so that a head in closed form does not take them."""

OF_LORA = frozenset({"lora_r", "lora_alpha", "lora_dropout"})
OF_ADAPTERS = OF_LORA | {"peft_options"}
"""Options that only methods with adapters take, `OF_LORA` those of LoRA alone."""


@dataclass(frozen=True)
class MethodSettings(Section):
    """What trains, in which stages and at which rates."""

    title = "method"

    method: MethodSpec = _option(
        "what trains: " + ", ".join(method.spelled for method in METHODS.values()), MethodSpec("lp_ft")
    )
    plan: str | dict[str, Any] | None = _option("YAML file with your own stages, in place of a method")
    head_lr_multiplier: float | None = _option("factor on the learning rate for the head")
    layer_decay: float | None = _option("factor on the learning rate for each block further from the head")
    lora_r: int = _option("rank of LoRA", 8)
    lora_alpha: int = _option("scale of LoRA", 16)
    lora_dropout: float = _option("dropout on the inputs of LoRA", 0.0)
    peft_options: dict[str, Any] | None = _option(
        "options of lora or peft:NAME as JSON, such as '{\"use_dora\": true}'"
    )

    @property
    def adapters(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The PEFT methods that the stages use, each with its options."""
        used = [(stage.peft, stage.peft_options) for stage in self.method.own_stages if stage.peft]
        if (name := self.method.peft) is not None:
            own = {"r": self.lora_r, "lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout}
            used.append((name, (own if name == "lora" else {}) | (self.peft_options or {})))
        return used

    def check_together(self) -> None:
        """Check that options of adapters have adapters to go to."""
        wrong = sorted((OF_ADAPTERS & self.explicit) - adapter_options(self.method))
        if wrong and self.method.own_stages:
            raise UserError(
                f"--{wrong[0]} does not go with a plan.", option=wrong[0], hint="Write peft_options into its stage."
            )
        if wrong and self.method.peft is None:
            raise UserError(
                f"--{wrong[0]} does not go with method '{self.method}', which has no adapters.",
                option=wrong[0],
                hint="Use method lora or peft:NAME.",
            )
        if wrong:
            raise UserError(
                f"--{wrong[0]} is an option of lora, not of {self.method.peft}.",
                option=wrong[0],
                hint="Use --peft_options instead.",
            )
        for option in sorted(OF_LORA & self.explicit):
            if option.replace("lora_r", "r") in (self.peft_options or {}):
                raise UserError(f"--{option} is in --peft_options as well.", option=option, hint="Keep one of them.")


def adapter_options(method: MethodSpec) -> frozenset[str]:
    """The options of adapters that a method takes."""
    if method.peft is None:
        return frozenset()
    return OF_ADAPTERS if method.peft == "lora" else OF_ADAPTERS - OF_LORA


MOST_WEIGHT = 1_000_000
"""The largest weight of a class."""


@dataclass(frozen=True)
class TrainingSettings(Section):
    """How training goes, beyond `TrainingArguments`."""

    title = "training"

    class_weights: str | dict[str, Any] = _option(
        "weight the loss by class: by inverse frequency, its square root, or the effective number of examples; or "
        "weights by name as JSON, such as '{\"spam\": 4}'",
        "none",
        choices=("none", "balanced", "sqrt", "effective"),
    )
    sampler: str = _option(
        "draw training examples so that every class is equally likely", "none", choices=("none", "balanced")
    )
    loss: str = _option(
        "loss of classification; focal and logit_adjusted are for unequal classes",
        "cross_entropy",
        choices=("cross_entropy", "focal", "logit_adjusted"),
    )
    focal_gamma: float = _option("how much focal loss discounts examples that are predicted well", 2.0)
    logit_adjustment_tau: float = _option("factor on the log frequencies that logit_adjusted adds", 1.0)
    threshold: str | float | None = _option(
        "probability from which the rarer of two classes, or a label of several, is predicted; auto fits it on "
        "validation (default: the more probable class; for several labels auto)"
    )
    calibrate: bool = _option(
        "fit a temperature on validation and fold it into the last layer, so that the probabilities of a plain "
        "pipeline fit frequencies, and a threshold becomes 0.5",
        False,
    )
    head_solver: str = _option(
        "how to fit a linear head that trains alone: exact solves it on cached features, sgd trains it by steps "
        "(default: exact wherever possible; with method `head`, options of steps such as --learning_rate mean sgd)",
        "auto",
        choices=("auto", "exact", "sgd"),
    )
    early_stopping_patience: int | str = _option(
        "stop a stage after this many evaluations without improvement, 0 or none: never (default: by the number of "
        "evaluations, where validation has 100 examples or more)",
        "auto",
    )
    ema: float | str | None = _option(
        "score and save an exponential moving average of the weights with this decay, such as 0.999, or auto: over a "
        "tenth of the steps"
    )
    soup: int | None = _option(
        "average up to this many of the last stage's best checkpoints, as long as validation does not fall"
    )
    batch_norm: str | None = _option(
        "running statistics of BatchNorm in layers that train: train updates them, eval keeps those of the source "
        "model (default: eval, and train from random weights)",
        choices=("train", "eval"),
    )
    tokens_per_batch: int | None = _option(
        "fill each batch of texts up to this many tokens, padding included, with texts of similar length (default: "
        "batches of --per_device_train_batch_size texts)"
    )
    drop_path: float | None = _option(
        "rate of stochastic depth, such as 0.1: residual branches are skipped at random in training, in most models "
        "more often in later blocks (default: as the model's config says)"
    )

    @property
    def stops_early(self) -> bool:
        """Whether the user asks for early stopping, as opposed to the default."""
        return isinstance(self.early_stopping_patience, int) and self.early_stopping_patience > 0

    def check_together(self) -> None:
        """Check that weights are positive, and that no two options correct unequal classes at once."""
        _check_weights(self.class_weights)
        corrections = {
            "class_weights": self.class_weights not in ("none", {}),
            "sampler": self.sampler != "none",
            "loss logit_adjusted": self.loss == "logit_adjusted",
        }
        used = [name for name, on in corrections.items() if on]
        if len(used) > 1:
            raise UserError(
                f"--{used[0]} and --{used[1]} both make rare classes count more, together twice.",
                option=used[1].split()[0],
                hint="Keep one of them.",
            )
        for option, loss in (("focal_gamma", "focal"), ("logit_adjustment_tau", "logit_adjusted")):
            if option in self.explicit and self.loss != loss:
                raise UserError(
                    f"--{option} does not go with --loss {self.loss}.", option=option, hint=f"Add --loss {loss}."
                )
        if self.loss == "focal" and self.head_solver == "exact":
            raise UserError(
                "--head_solver exact: focal loss is not convex.",
                option="head_solver",
                hint="Leave out --head_solver, and the head trains by steps.",
            )


def asks_for_steps(config: TrainingSettings) -> frozenset[str]:
    """The options that the user set and that only mean something for gradient steps."""
    found = STEP_OPTIONS & config.explicit
    return found if config.stops_early else found - {"early_stopping_patience"}


@dataclass(frozen=True)
class CacheSettings(Section):
    """The feature cache: outputs of frozen layers, computed once per example."""

    title = "feature cache"

    cache: str = _option(
        "compute the outputs of frozen layers once per example and cache them (default: where that saves time)",
        "auto",
        choices=("auto", "on", "off"),
    )
    cache_dir: str | None = _option("folder of the feature cache (default: hf_ft/features in HF_HOME)")
    cache_max_gb: float = _option("size limit of the feature cache; the least recently used features are removed", 20.0)
    cache_dtype: str = _option("precision of cached features", "float32", choices=("float32", "float16", "bfloat16"))


@dataclass(frozen=True)
class MachineSettings(Section):
    """How a run uses the machine."""

    title = "machine"

    autotune: str = _option(
        "try memory formats and attention kernels that give the same numbers up to rounding, and run the fastest; "
        "short runs are not tried",
        "on",
        choices=("on", "off"),
    )
    energy: str = _option(
        "report the energy of training with codecarbon (default: where it is installed: pip install 'hf-ft[energy]')",
        "auto",
        choices=("auto", "on", "off"),
    )

    def check_together(self) -> None:
        """Check that codecarbon is installed where the user asks for it."""
        if self.energy == "on" and (package := missing_package("codecarbon")):
            raise UserError(
                f"--energy on needs the package {package}, which is not installed.",
                option="energy",
                value="on",
                hint="Install it: pip install 'hf-ft[energy]'",
            )


@dataclass(frozen=True)
class OutputSettings(Section):
    """What becomes of the output folder and of the result in it."""

    title = "output"

    overwrite_output_dir: bool = _option("replace a run that is already in the output folder", False)
    load_back_proof: bool = _option("load the result in a fresh process and compare its outputs", True)
    card_examples: int = _option(
        "show this many examples, and as many of the worst mistakes, with their texts or file names on the model card "
        "and in run.json, which are published with the model (default: none)",
        0,
    )


IN_MEMORY = "in memory"
"""The `dataset` of a run whose data were passed as an object."""

SECTIONS: tuple[type[Section], ...] = (
    TaskSettings,
    ModelSettings,
    DataSettings,
    EncodingSettings,
    MethodSettings,
    TrainingSettings,
    CacheSettings,
    MachineSettings,
    OutputSettings,
)
"""All sections, in the order of `--help` and of the checks."""


@dataclass(frozen=True)
class Config(
    ModelSettings,
    DataSettings,
    EncodingSettings,
    MethodSettings,
    TrainingSettings,
    CacheSettings,
    MachineSettings,
    OutputSettings,
):
    """All options of a run beyond `TrainingArguments`: every section in one.

    `parse` and `build` make one from layers of settings and check every value.

    Args:
        must_match: All settings that a resumed run must share with the one that it continues.
    """

    must_match: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds_batch_norm(self) -> bool:
        """Whether BatchNorm keeps its running statistics where a group trains as a whole."""
        return self.batch_norm == "eval" or (self.batch_norm is None and self.method.definition.pretrained)

    @property
    def reads_sentence(self) -> bool:
        """Whether the head of a text classifier is to read the sentence embedding, where its encoder has one."""
        if self.pooling is not None or self.keep_head:
            return self.pooling == "sentence"
        return self.method.definition.pretrained


def config_fields() -> dict[str, dataclasses.Field[Any]]:
    """The options of all sections by name, in the order of `SECTIONS`."""
    return {name: item for section in SECTIONS for name, item in section.own_options().items()}


def _check_weights(weights: str | Mapping[str, float]) -> None:
    """Check that weights by name are positive numbers; the names are checked once the data are read."""
    for name, weight in weights.items() if isinstance(weights, Mapping) else ():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 < weight <= MOST_WEIGHT):
            raise UserError(
                f"The weight of class '{name}' in --class_weights must be a number greater than 0 and at most "
                f"{MOST_WEIGHT:,}, not {weight}.",
                option="class_weights",
                value=weight,
            )


def _check_source(kind: str, name: str, revision: str | None) -> None:
    """Check the name of a model or dataset: a Hub id, or a local path that exists."""
    if not name:
        raise UserError(f"`--{kind}` is missing.", option=kind, hint="Set it to a Hub id or a folder.")
    check_path(name, kind)
    local = "a local folder" if is_local(name) else ""
    if kind == "model" and split_argument(name)[0] in ("builtin", "timm"):
        local = "not from there"
    if revision and local:
        raise UserError(
            f"--{kind}_revision is for the Hub, and {name} is {local}.",
            option=f"{kind}_revision",
            value=revision,
            hint="Leave it out.",
        )


def _refuse_foreign(section: TaskSettings, foreign: Sequence[str]) -> None:
    """Refuse options that the user wrote and that the task's inputs have no use for."""
    task = get_task(section.task)
    if wrong := [name for name in foreign if name in section.explicit and getattr(section, name) not in ("none", 0)]:
        raise UserError(
            f"--{wrong[0]} does not go with {task.name}, whose inputs are {', '.join(task.inputs)}.", option=wrong[0]
        )
