"""Where a trained model is: a local folder, or a repository on the Hub, of which only safe files are downloaded."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hf_ft.environment import hub_error
from hf_ft.errors import UserError, first_line, nearest, shorten
from hf_ft.settings import check_path

SAFE = (
    ".gitattributes",  # is in every repository: where no file is wanted, the client would warn
    *("*.json", "model.safetensors", "model-*-of-*.safetensors"),
    *("*.txt", "*.jinja", "*.model", "*.spm", "*.bpe", "*.codes", "*.tiktoken"),
)
"""Files that are downloaded: configs, weights that are no pickles, and vocabularies."""
UNSAFE = ("*/*", "adapter_*", "training_args*")
"""Files that are not: whatever is in a subfolder, and adapters, which name another repository to load from."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def locate(path_or_id: str | os.PathLike[str], revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder of a trained model, downloaded first if it is one of the Hub.

    Args:
        path_or_id: A folder, `ME/NAME`, or `ME/NAME@REVISION`.
        revision: Branch, tag or commit on the Hub.
        token: A token of the Hub; by default the one that `hf auth login` stored.

    Raises:
        UserError: Nothing is there, it holds no model that can be loaded safely, or the Hub does not answer.
    """
    name = os.fspath(path_or_id)
    path = Path(name).expanduser()
    repository, at, named = name.partition("@")
    if path.is_dir() or not REPOSITORY.fullmatch(repository) or _misspelt(path):
        if revision is not None and path.is_dir():
            problem = f"A revision is for models on the Hub, and {name} is a local folder."
            raise UserError(problem, option="revision", value=revision, hint="Leave it out.")
        check_path(str(path.absolute()), "result folder")
        if path.is_file():
            raise UserError(f"{name} is a file.", value=name, hint="Pass the folder that holds it.")
        return path
    if at and not named:
        raise UserError(f"'{name}' names no revision.", value=name, hint=f"Write {repository}@main, for example.")
    if named and revision not in (None, named):
        problem = f"'{name}' names the revision {named}, and revision= another one, {revision}."
        raise UserError(problem, option="revision", value=revision, hint="Keep one of them.")
    return _downloaded(repository, named or revision, token)


def _misspelt(path: Path) -> bool:
    """Whether a path that does not exist is much like a folder beside it, so that no repository is meant."""
    if not os.path.isdir(path.parent) or path.parent == Path():
        return False
    return nearest(path.name, (item.name for item in path.parent.iterdir() if item.is_dir())) is not None


def _downloaded(repository: str, revision: str | None, token: str | None) -> Path:
    """Return the folder with the safe files of a repository.

    Raises:
        UserError: See `locate`.
    """
    from huggingface_hub import snapshot_download

    wanted, unwanted = list(SAFE), list(UNSAFE)
    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, token=token, allow_patterns=wanted, ignore_patterns=unwanted
            )
        )
    except Exception as error:  # of the Hub, of the network, of the disk
        raise _explained(error, repository, revision) from error
    if not any(folder.glob("model*.safetensors")) or not (folder / "config.json").is_file():
        raise _nothing_to_load(repository, folder.name, token)
    return folder


def _nothing_to_load(repository: str, commit: str, token: str | None) -> UserError:
    """The error for a repository without a model in safetensors: what it holds instead."""
    from huggingface_hub import HfApi

    names: Sequence[str] = []
    with suppress(Exception):  # it explains an error, and must not become one
        names = HfApi(token=token).list_repo_files(repository, revision=commit)
    if "adapter_config.json" in names:
        return adapter_error(repository)
    if pickled := [name for name in names if name.endswith(PICKLES)]:
        return UserError(
            f"'{repository}' holds no safetensors, only pickled weights ({shorten(pickled, 2)}), and loading a pickle "
            "can run any code.",
            value=repository,
            hint="Ask its author for safetensors, or convert it on a machine that you can spare.",
        )
    held = shorten(names, 4) or "nothing"
    return UserError(
        f"'{repository}' holds no model: config.json and model.safetensors are not both there, only {held}.",
        value=repository,
        hint="Pass a repository that save_pretrained or hf-ft push wrote.",
    )


def adapter_error(name: str) -> UserError:
    """The error for an adapter, which is no model by itself."""
    return UserError(
        f"'{name}' is a PEFT adapter, not a whole model.",
        value=name,
        hint="Load it with AutoPeftModel of peft, or pass the merged model.",
    )


def _explained(error: Exception, repository: str, revision: str | None) -> UserError:
    """What a failure of a download means to the user."""
    from huggingface_hub.errors import RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        problem, hint = f"'{repository}' has no revision '{revision}'.", "Pass a branch, a tag or a commit of it."
        return UserError(problem, option="revision", value=revision, hint=hint)
    found = hub_error(error, repository, revision)
    return found or UserError(first_line(f"Cannot download '{repository}'", error), value=repository)


def check_plain(folder: Path, name: str) -> None:
    """Check that a folder is no adapter: `from_pretrained` would follow it to another repository.

    Raises:
        UserError: It is one.
    """
    if (folder / "adapter_config.json").exists():
        raise adapter_error(name)
