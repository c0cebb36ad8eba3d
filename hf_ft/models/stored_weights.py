"""The weights of a model as files: whether they are pickles, and whether they arrived as the Hub has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_ft.environment import cache_folder
from hf_ft.errors import UserError, shorten
from hf_ft.storage import sha256

PICKLED = "pytorch_model*.bin"
NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
SHA256 = 64
"""Digits of a SHA-256; the Hub's cache calls a large file by it, and a small one by the shorter id of git."""


def pickled_weights(folder: str, commit: str | None) -> list[str]:
    """Return the pickled weights in a folder or a repository of the Hub that holds no safetensors, else nothing."""
    names = _names(folder, commit)
    if any(name.endswith(".safetensors") for name in names):
        return []
    return sorted(name for name in names if Path(name).match(PICKLED))


def _names(folder: str, commit: str | None) -> list[str]:
    """The files beside the config; none where the Hub does not say, since this explains an error."""
    if Path(folder).is_dir():
        return [path.name for path in Path(folder).iterdir()]
    from huggingface_hub import HfApi

    with suppress(Exception):
        return [name for name in HfApi().list_repo_files(folder, revision=commit) if "/" not in name]
    return []


def only_pickled(name: str, pickled: list[str]) -> UserError:
    """The error for a model whose weights are pickles, which may run any code when they are read."""
    return UserError(
        f"'{name}' has no safetensors, only pickled weights ({shorten(pickled, 2)}), and a pickle can run any code.",
        option="model",
        value=name,
        hint="Choose a model with safetensors; --allow_pickle reads pickled weights that you trust.",
    )


def check_weights(folder: str, commit: str | None) -> None:
    """Check that the downloaded safetensors of a model on the Hub are what the Hub has, by their SHA-256.

    Its client compares sizes alone, and weights with a wrong byte load like others.

    Raises:
        UserError: A file is damaged.
    """
    if commit is None or Path(folder).is_dir():
        return
    for path in sorted((cache_folder(folder) / "snapshots" / commit).glob("*.safetensors")):
        # The next link, not the last: files in Xet storage are shared between repositories under another hash.
        known = path.readlink().name if path.is_symlink() else ""
        if len(known) == SHA256 and sha256(path) != known:
            raise UserError(
                f"{path.name} of '{folder}' is damaged: it is not the file that the Hub has (SHA-256).",
                option="model",
                value=folder,
                hint=f"Remove it with `hf cache rm model/{folder}`, and run the command again.",
            )


@contextmanager
def without_conversion() -> Iterator[None]:
    """Keep `transformers` from having pickled weights converted by a service, to which it sends the user's token."""
    before = os.environ.get(NO_CONVERSION)
    os.environ[NO_CONVERSION] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_CONVERSION)
        os.environ |= {} if before is None else {NO_CONVERSION: before}
