"""The options of a head that reads a sentence embedding: `--pooling sentence` and `--head_init label_names`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_ft.errors import UserError
from hf_ft.models.grouping import DepthGroups, depth_groups
from hf_ft.models.label_names import start_from_names
from hf_ft.models.pooling import MEAN, match_pooling, sentence_pooling
from hf_ft.models.sentence_embedding import CannotRead, read_embedding, reads_embedding
from hf_ft.settings import Config, ModelSettings
from hf_ft.tasks import Task


def matched_pooling(
    config: ModelSettings, task: Task, folder: str, model_config: PreTrainedConfig, notes: list[str]
) -> str | None:
    """Return the pooling that an encoder was trained with, set in the model config where that has an entry for it."""
    if not _reads_texts(task):
        return None
    pooling = sentence_pooling(folder, config.model_revision)
    if config.pooling != "model":
        notes += match_pooling(model_config, pooling)
    return pooling


def _reads_texts(task: Task) -> bool:
    return task.modality.sentence_encoders and task.reduce is None  # tags are read from each token


def sentence_head(
    model: PreTrainedModel,
    groups: DepthGroups,
    tokenizer: Any,
    pooling: str | None,
    config: Config,
    task: Task,
    labels: Sequence[str],
    notes: list[str],
) -> tuple[PreTrainedModel, DepthGroups]:
    """Return the model with a head that reads and starts from what the settings say, and its depth groups.

    Args:
        pooling: What the encoder was trained with, as `matched_pooling` returns it.
        notes: Gets a sentence for what was done.

    Raises:
        UserError: The user asks for what the model cannot have, or label names say nothing.
    """
    if not _reads_texts(task):
        return model, groups
    if config.reads_sentence and (pooling is not None or _asked(config)):
        model, groups = _reading(model, groups, pooling, config, notes)
    if config.head_init == "label_names":
        if not reads_embedding(model, groups, pooling):
            raise UserError(
                f"--head_init label_names: the head of '{config.model}' does not read the embedding of a sentence "
                "encoder, so the embedding of a label name means nothing to it.",
                option="head_init",
                value="label_names",
                hint="Use a sentence encoder of type BERT or RoBERTa, or leave it out.",
            )
        start_from_names(model, tokenizer, groups, labels, config.label_template)
        notes.append(f"the head starts from label names: '{config.label_template}'")
    return model, groups


def _asked(config: Config) -> bool:
    """Whether the settings need a sentence embedding, so that a model without one is reported."""
    return config.pooling == "sentence" or config.head_init == "label_names" or config.method.contrastive


def _reading(
    model: PreTrainedModel, groups: DepthGroups, pooling: str | None, config: Config, notes: list[str]
) -> tuple[PreTrainedModel, DepthGroups]:
    """The model with a head that reads the sentence embedding, where that is possible.

    Raises:
        UserError: It is not possible, and the user asks for it.
    """
    try:
        changed = read_embedding(model, groups, pooling)
    except CannotRead as reason:
        for name, value in (("head_init", "label_names"), ("pooling", "sentence")):
            if getattr(config, name) == value:
                raise UserError(
                    f"--{name} {value}: {reason}.", option=name, value=value, hint="Leave it out."
                ) from None
        notes.append(f"the head reads what the architecture pools: {reason}")
        return model, groups
    if changed is model:
        return model, groups
    added = "a block was added that averages the tokens" if pooling == MEAN else "its dense layer passes it on"
    notes[:] = [note for note in notes if "classifiers of type" not in note]
    notes.append(f"the head reads the sentence embedding that the encoder was trained for ({pooling} pooling): {added}")
    return changed, depth_groups(changed)
