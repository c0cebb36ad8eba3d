"""The pooling that a sentence encoder was trained with, read from the `modules.json` in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_ft.environment import hub_error
from hf_ft.storage import read_json

MEAN = "mean"
NEWER, OLDER = "pooling_mode", "pooling_mode_"
"""Keys of `1_Pooling/config.json`: one string in newer files, a prefix of one flag per kind in older ones."""


def sentence_pooling(folder: str, revision: str | None = None) -> str | None:
    """Return the pooling that a folder or Hub repository declares (`mean`, `cls`, `max`, ...).

    Kinds that are concatenated are joined by `+`. The result is None if it is not a sentence encoder. Format:
    https://sbert.net/docs/package_reference.
    """
    modules = _json(folder, "modules.json", revision)
    paths = [
        module.get("path", "")
        for module in (modules if isinstance(modules, list) else [])
        if isinstance(module, dict) and str(module.get("type", "")).rpartition(".")[2] == "Pooling"
    ]
    settings = _json(folder, f"{paths[0]}/config.json", revision) if paths else None
    if not isinstance(settings, dict):
        return None
    if isinstance(settings.get(NEWER), str):
        return str(settings[NEWER])
    kinds = [name.removeprefix(OLDER) for name, on in settings.items() if name.startswith(OLDER) and on is True]
    return "+".join(kind.removesuffix("_tokens").removesuffix("_token") for kind in kinds) or None


def match_pooling(settings: Any, pooling: str | None) -> list[str]:
    """Set the classifier's pooling to the one its encoder was trained with, if its config supports it; return notes."""
    if pooling != MEAN:
        return []
    said = "its folder names a sentence encoder trained for mean pooling"
    if not hasattr(settings, "classifier_pooling"):
        return [f"{said}; classifiers of type {settings.model_type} pool in a way of their own"]
    if settings.classifier_pooling == MEAN:
        return []
    before, settings.classifier_pooling = settings.classifier_pooling, MEAN
    return [f"{said}: classifier_pooling is mean, not {before}"]


def _json(folder: str, name: str, revision: str | None) -> Any:
    """Return the content of a JSON file; None if it is missing or cannot be read.

    Raises:
        UserError: The Hub cannot be asked: without the file, the model would be another one.
    """
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(folder, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        return read_json(Path(path)) if path else None
    except (OSError, ValueError) as error:
        if explained := hub_error(error, folder, revision):
            raise explained from error
        return None
