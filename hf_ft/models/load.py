"""Loading: a pretrained backbone with a fresh head of the right size, and the proof that nothing else is new."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from hf_ft.errors import UserError, choose, first_line, shorten, split_argument
from hf_ft.modalities import timm_image_settings
from hf_ft.models.grouping import DepthGroups, depth_groups, label_sized_parameters, undeclared_sharing
from hf_ft.models.pooling import match_pooling, sentence_pooling
from hf_ft.models.tracing import example_inputs, padding_matters
from hf_ft.settings import Config, ModelSettings
from hf_ft.storage import files_digest
from hf_ft.tasks import Task, get_task, task_names

BUILTIN = Path(__file__).parent / "builtin"
"""Folder of the source models that ship with the package."""
BEST_BUILTIN = "resnet-cifar100"
"""The one of them that `builtin` stands for."""


@dataclass(frozen=True)
class LoadReport:
    """What loading did: where the model came from, which parameters are new, and its depth groups.

    `commit` is the Hub commit; `digest` identifies weights from a folder; `proof` states what was checked.
    """

    source: str
    hub_id: str | None
    commit: str | None
    digest: str | None
    new: tuple[str, ...]
    loaded: int
    groups: DepthGroups
    notes: tuple[str, ...] = ()


def load_model(
    config: Config, labels: Sequence[str], problem_type: str, seed: int = 0
) -> tuple[PreTrainedModel, Any, LoadReport]:
    """Load a backbone with a fresh, randomly initialised head: the model, its processor or tokenizer, and a report.

    The random seed is set first, so that the head is the same in every run with that seed. With method `scratch`
    nothing is loaded and everything is random.

    Raises:
        UserError: no such model, no weights, a model of another kind, or a checkpoint that would leave anything
            but the head randomly initialised.
    """
    task = get_task(config.task)
    folder = resolve_model(config.model)
    settings = find_config(config.model, config.model_revision, config.trust_remote_code)
    check_supports_task(settings, task, config.model)
    previous = list((settings.id2label or {}).values())
    # First the kind of problem: a config of several classes may not have one label, and that of a regression may.
    settings.problem_type = task.target(problem_type).problem_type
    name_outputs(settings, labels, previous)
    options = {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}
    processor, notes = task.modality.load_processor(folder, settings, config.model, **options)
    if task.prepare is not None:
        processor = task.prepare(processor)
    _match_padding(settings, processor, notes)
    if task.modality.sentence_encoders and task.gather is None:  # tags are read from each token
        notes += match_pooling(settings, sentence_pooling(folder, config.model_revision))

    set_seed(seed)
    if config.method.definition.pretrained:
        model, new, loaded, groups = load_weights(config, task.auto_class, folder, settings, previous, notes)
    else:
        auto = getattr(transformers, task.auto_class)
        model, loaded = from_config(auto, config, settings), 0
        new, groups = {name for name, _ in model.named_parameters()}, depth_groups(model)
    if shared := undeclared_sharing(model):
        raise UserError(
            f"'{config.model}' uses weights in several places without declaring it ({shorten(shared, 3)}), and so "
            "`save_pretrained` refuses it: the result could not be saved. Choose another model."
        )
    expected = task.modality.model_inputs
    if expected and (beside := set(example_inputs(model)) ^ expected):
        raise UserError(
            f"'{config.model}' does not read {task.modality.plural} as {', '.join(sorted(expected))} alone "
            f"({', '.join(sorted(beside))}), which is all that {task.name} passes to it. Choose another model."
        )
    _limit_length(processor, model, config.max_length)
    if padding_matters(model):
        notes.append(
            "this architecture's answer depends a little on how far a text is padded, so scores change slightly "
            "with the batch size"
        )
    return model, processor, _report(config, folder, settings, new, loaded, groups, notes)


def from_config(auto: Any, config: ModelSettings, settings: PreTrainedConfig) -> PreTrainedModel:
    """A model with random weights.

    Raises:
        UserError: the model's code cannot make one of its config.
    """
    try:
        model: PreTrainedModel = auto.from_config(settings, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        raise UserError(first_line(f"Cannot make a model of the config.json of '{config.model}'", error)) from error
    return model


def load_weights(
    config: Config,
    auto_class: str,
    folder: str,
    settings: PreTrainedConfig,
    previous: Sequence[str],
    notes: list[str],
) -> tuple[PreTrainedModel, set[str], int, DepthGroups]:
    """Load weights and make the head fresh, proved to be all that is new.

    `settings` name the new labels and `previous` are those of the checkpoint. Returns the model, the names of its
    new parameters, the number of tensors loaded, and the depth groups.

    Raises:
        UserError: as `load_model`.
    """
    if split_argument(config.model)[0] == "timm":
        raise UserError(
            f"{config.model} is an architecture with random weights, and method '{config.method}' needs pretrained "
            "ones. Use --method scratch, or pretrained weights from the Hub: --model timm/NAME."
        )
    model, new, loaded = _pretrained(getattr(transformers, auto_class), config, folder, settings)
    groups = depth_groups(model)
    renewed = _renew_head(model, groups, config, previous, list((settings.id2label or {}).values()), new, notes)
    new, loaded = new | renewed, loaded - len(renewed - new)
    prove_only_head_is_new(model, new, groups, config.model)
    if not new <= set(groups.of_role("head")[0].parameters):
        groups = depth_groups(model, new)
    return model, new, loaded, groups


def resolve_model(model: str) -> str:
    """The folder or Hub id that a model name stands for; `builtin` and `builtin:NAME` are folders of this package.

    Raises:
        UserError: no built-in model of that name.
    """
    kind, name = split_argument(model)
    if kind != "builtin":
        return str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else model
    there = sorted(path.name for path in BUILTIN.iterdir() if path.is_dir()) if BUILTIN.is_dir() else []
    if not there:
        raise UserError("This installation has no built-in model.")
    return str(BUILTIN / choose(name or BEST_BUILTIN, there, "built-in model", option="model"))


def find_config(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The configuration of a model by Hub id, folder, `builtin` or `timm:ARCHITECTURE`.

    Raises:
        UserError: there is none.
    """
    kind, architecture = split_argument(name)
    if kind == "timm" and architecture:
        return _timm_settings(architecture)
    folder = resolve_model(name)
    path = Path(folder)
    if path.is_file():
        raise UserError(f"The model {name} is a file. Give the folder that holds config.json and the weights.")
    if path.is_dir() and not (path / "config.json").exists():
        there = shorten(sorted(item.name for item in path.iterdir())) or "nothing"
        raise UserError(
            f"The folder {name} holds no model: no config.json in it (there is: {there}). Give a folder that "
            "save_pretrained wrote."
        )
    try:
        return AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # what is wrong in a config shows in as many kinds as there are models
        remedy = "" if path.is_dir() else " Check the name and the network, or give a folder."
        raise UserError(first_line(f"Cannot load the model '{name}'", error) + remedy) from error


def name_outputs(settings: PreTrainedConfig, labels: Sequence[str], previous: Sequence[str]) -> None:
    """Write the labels wherever this kind of configuration holds those that the checkpoint had.

    `id2label` is one place; timm's wrapper reads `label_names`, a configuration with code of its own whatever it likes.
    So each list of the `previous` names becomes the new one, what was said of each of them goes, and then the
    configuration is saved and loaded to see whether it answers with the new names.

    Raises:
        UserError: it does not, so that whoever loads the result would read other names.
    """
    for name, value in list(vars(settings).items()):
        if isinstance(value, list | tuple) and list(value) == list(previous):
            setattr(settings, name, list(labels))
        elif isinstance(value, dict) and len(value) > 1 and list(value) == list(previous):  # timm's label_descriptions
            delattr(settings, name)
    settings.id2label = dict(enumerate(labels))
    settings.label2id = {label: i for i, label in enumerate(labels)}
    found = type(settings).from_dict(json.loads(settings.to_json_string())).id2label
    if found != settings.id2label:
        raise UserError(
            f"A model of type {settings.model_type} does not keep the names of classes: saved and loaded again, its "
            f"configuration calls them {shorten((found or {}).values(), 3)}, and the data {shorten(labels, 3)}. Choose "
            "another model."
        )


def _timm_settings(architecture: str) -> Any:
    import timm

    choose(architecture, timm.list_models(), "timm architecture", option="model")
    timm_config: Any = transformers.TimmWrapperConfig
    return timm_config(architecture=architecture, pretrained_cfg=timm_image_settings(architecture))


def check_supports_task(settings: PreTrainedConfig, task: Task, name: str) -> None:
    """Refuse a model of another kind.

    Raises:
        UserError: names the tasks that it can do.
    """
    if supports_task(settings, task):
        return
    fitting = [other for other in task_names() if supports_task(settings, get_task(other))]
    can = f" It can do: {', '.join(fitting)}." if fitting else ""
    raise UserError(
        f"'{name}' is a model of type {settings.model_type}, which does not do {task.name}.{can} "
        f"Choose a model that {task.auto_class} knows."
    )


def supports_task(settings: PreTrainedConfig, task: Task) -> bool:
    """Whether a model with these settings has a version for the task."""
    auto = getattr(transformers, task.auto_class)
    return type(settings) in auto._model_mapping or task.auto_class in getattr(settings, "auto_map", {})


def _match_padding(settings: PreTrainedConfig, processor: Any, notes: list[str]) -> None:
    """Give a decoder model a padding token, on tokenizer and configuration, so that it can be batched and saved."""
    if not hasattr(processor, "pad_token_id"):
        return
    if processor.pad_token_id is None:
        processor.pad_token = processor.unk_token or processor.eos_token
        notes.append(f"the model had no padding token: '{processor.pad_token}' is used and saved")
    text = settings.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = processor.pad_token_id
        settings.pad_token_id = processor.pad_token_id


def _pretrained(
    auto: Any, config: ModelSettings, folder: str, settings: PreTrainedConfig
) -> tuple[PreTrainedModel, set[str], int]:
    """Load weights in float32; returns the model, the names left random, and how many tensors were loaded."""
    try:
        with silent_loading():
            model, info = auto.from_pretrained(
                folder,
                config=settings,
                revision=config.model_revision,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=None if config.allow_pickle else True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # a broken pickle, a size that is none, an activation that nobody knows
        message = first_line(f"Cannot load weights of '{config.model}'", error)
        ignored = _pickled(folder) and not config.allow_pickle
        hint = " Only safetensors are read; --allow_pickle reads pickled weights too." if ignored else ""
        scratch = " To train this architecture from random weights use --method scratch." if not hint else ""
        raise UserError(message + (hint or scratch)) from error
    new = set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    new &= {name for name, _ in model.named_parameters()}
    return model, new, len(model.state_dict()) - len(new)


def _pickled(folder: str) -> bool:
    return Path(folder).is_dir() and any(Path(folder).glob("pytorch_model*.bin"))


def _renew_head(
    model: PreTrainedModel,
    groups: DepthGroups,
    config: ModelSettings,
    previous: Sequence[str],
    labels: Sequence[str],
    new: set[str],
    notes: list[str],
) -> set[str]:
    """Make the head fresh when the checkpoint's fitted by its size alone; returns the names made new.

    A checkpoint with as many other classes loads without a mismatch, and would silently keep the old head.
    """
    loaded = label_sized_parameters(model) - new
    same = list(previous) == list(labels)
    if config.keep_head and same and loaded:
        notes.append("the checkpoint's head is kept: its labels are those of the data")
        return set()
    if config.keep_head:
        raise UserError(
            f"--keep_head: the head of '{config.model}' has the labels {shorten(previous)}, "
            f"the data {shorten(labels)}. Leave out --keep_head for a fresh head."
        )
    if not loaded:
        return set()
    names = set(groups.of_role("head")[0].parameters)
    fresh = dict(type(model)(model.config).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.copy_(fresh[name])
    notes.append("the checkpoint's head was patched_forward by a fresh one")
    return names


def prove_only_head_is_new(model: PreTrainedModel, new: set[str], groups: DepthGroups, name: str) -> None:
    """Raise unless everything new lies above the last block, and is a sane random number.

    A missing pooler is new as well, and joins the head, so that it trains. A new tensor *below* the last block
    means that the backbone itself did not load (another image size, other layer widths, renamed keys).

    Raises:
        UserError: names the tensors of the backbone that would be random.
    """
    wild = [key for key, value in model.named_parameters() if key in new and not bool((value.abs() < 1e4).all())]
    if wild:
        raise RuntimeError(f"New parameters hold wild or non-finite numbers: {shorten(wild, 3)}")
    below = sorted(key for key in new if groups.owner(key).role in ("stem", "block"))
    if below:
        raise UserError(
            f"'{name}' does not fit its weights: {len(below)} tensors of the backbone would be random, not "
            f"pretrained: {shorten(below, 3)}. Check config.json against the checkpoint (image_size, sizes of layers)."
        )


def _limit_length(processor: Any, model: PreTrainedModel, asked: int | None) -> None:
    """Tell the tokenizer the model's longest text; many say nothing, which stands there as 1e30.

    Models with relative positions state no longest text, or -1 (XLNet), which is none either.
    """
    if not hasattr(processor, "model_max_length"):
        return
    if processor.model_max_length < 1:
        processor.model_max_length = VERY_LARGE_INTEGER
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and 0 < limit < processor.model_max_length:
        processor.model_max_length = limit - _first_position(model, limit)
    longest = processor.model_max_length
    if asked and asked > longest:
        raise UserError(f"max_length {asked:,} is more than the model's longest text, {longest:,} tokens.")
    special = processor.num_special_tokens_to_add()
    if asked and asked <= special:
        raise UserError(
            f"max_length {asked} leaves nothing of a text, to which the tokenizer adds {special} tokens of its own. "
            f"Use at least --max_length {special + 1}."
        )


def _first_position(model: PreTrainedModel, limit: int) -> int:
    """How many positions are never used: models of RoBERTa's kind count from behind the padding index on."""
    tables = [part for part in model.modules() if isinstance(part, torch.nn.Embedding) and part.num_embeddings == limit]
    return next((int(table.padding_idx) + 1 for table in tables if table.padding_idx is not None), 0)


def _report(
    config: ModelSettings,
    folder: str,
    settings: PreTrainedConfig,
    new: set[str],
    loaded: int,
    groups: DepthGroups,
    notes: list[str],
) -> LoadReport:
    local = Path(folder).is_dir()
    kind, _ = split_argument(config.model)
    is_hub = not local and kind != "timm"
    return LoadReport(
        source=Path(folder).name if local and kind != "builtin" else config.model,
        hub_id=config.model if is_hub else None,
        commit=getattr(settings, "_commit_hash", None),
        digest=_weights_digest(Path(folder)) if local and loaded else None,
        new=tuple(sorted(new)),
        loaded=loaded,
        groups=groups,
        notes=tuple(notes),
    )


def _weights_digest(folder: Path) -> str:
    return files_digest(sorted(folder.glob("*.safetensors")))


@contextmanager
def silent_loading() -> Iterator[None]:
    """Silence the library's load report and bars: the report is checked and told in one line instead."""
    logging = importlib.import_module("transformers.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars of `transformers` for loading and saving weights; that of training stays."""
    logging = importlib.import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
