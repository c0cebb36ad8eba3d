"""Reading from the Hub: the commit that a revision means, and what each failure means to the user.

A run asks once which commit a revision is, and reads everything at that commit, so that config, weights and tokenizer
belong together and a repetition reads the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_ft.errors import UserError, nearest

TIMEOUT = 20.0
"""Seconds until the Hub counts as not answering; its client waits for ever."""
MOST_NAMES = 300
"""Repositories of an owner that are looked through for a name like the one that does not exist."""
COMMIT = re.compile("[0-9a-f]{40}")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
AGAIN = "run the command again: files that are complete are not downloaded twice"


def pinned_revision(name: str, revision: str | None = None, kind: str = "model") -> str:
    """The commit that a branch or tag of a repository on the Hub is now.

    Without a connection it is the one that the cache has for this revision.

    Args:
        name: The id of the repository.
        revision: Branch, tag or commit; the main branch by default.
        kind: `model` or `dataset`.

    Raises:
        UserError: No such repository or revision, no access to it, or the Hub does not answer and the cache has none.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        found: Any = api.repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT)
        if found.gated:
            api.auth_check(name, repo_type=kind)
    except Exception as error:  # of the client, of the connection, of a proxy on the way
        if _passing(error) and (cached := _cached_commit(name, revision, kind)):
            return cached
        raise (hub_error(error, name, revision, kind) or _unexplained(error, name, kind)) from error
    _remember(name, revision, kind, found.sha)
    return str(found.sha)


def hub_error(error: BaseException, name: str, revision: str | None = None, kind: str = "model") -> UserError | None:
    """What a failure that comes from the Hub or the way to it means; None if it is another one.

    Args:
        error: What a library raised; the failure may be anywhere in its chain of causes.
    """
    from huggingface_hub import errors

    option = f"{kind}_revision"
    for found in _chain(error):
        if isinstance(found, errors.GatedRepoError):
            return _gated(name, kind)
        if isinstance(found, errors.RevisionNotFoundError):
            problem = f"The {kind} '{name}' has no revision '{revision}'."
            names, hint = _revisions(name, kind), f"Set --{option} to one, or to a commit."
            return UserError(problem, option=option, value=revision, choices=names, hint=hint)
        if isinstance(found, errors.RepositoryNotFoundError):
            return _missing(name, kind)
        if isinstance(found, errors.HFValidationError):
            return UserError(
                f"'{name}' cannot be a {kind} on the Hub, and no such folder exists.",
                option=kind,
                value=name,
                hint="Use OWNER/NAME, or a folder that exists.",
            )
    return next((made for found in _chain(error) if (made := _of_connection(found, name, kind))), None)


def _of_connection(found: BaseException, name: str, kind: str) -> UserError | None:
    """The error for a Hub that refuses, is busy, cannot be reached or was cut off; None if it is none of these."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    def failed(problem: str, hint: str) -> UserError:
        return UserError(f"Cannot load the {kind} '{name}': {problem}.", option=kind, value=name, hint=hint)

    status = _status(found)
    if isinstance(found, errors.OfflineModeIsEnabled):
        return failed("it is not in the cache, and HF_HUB_OFFLINE is set", "Unset it, or pass a folder.")
    if status == 401:
        return failed("the Hub does not accept your token", "Log in again with `hf auth login`, or set HF_TOKEN.")
    if status == 403:
        return failed("your token may not read it", "Use a token with the right to read it: set HF_TOKEN.")
    if status == 429:
        return failed("the Hub limits the rate of requests", f"Wait{_wait(found)}, then {AGAIN}.")
    if status is not None and status >= 500:
        return failed(f"the Hub at {constants.ENDPOINT} answers {status}", f"Wait, then {AGAIN}.")
    if status is None and isinstance(found, HTTPError | ConnectionError | TimeoutError):
        reason = " ".join(str(found).split()).rstrip(".") or type(found).__name__
        return failed(f"the connection to {constants.ENDPOINT} failed ({reason})", f"Check the network, then {AGAIN}.")
    if isinstance(found, OSError) and "Consistency check failed" in str(found):
        return failed("a file arrived incomplete", f"Check the network, then {AGAIN}.")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from or while, outermost first."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        found = pending.pop(0)
        if id(found) not in seen:
            seen.add(id(found))
            yield found
            pending += [one for one in (found.__cause__, found.__context__) if one is not None]


def _status(error: BaseException) -> int | None:
    """The status that the Hub answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _passing(error: BaseException) -> bool:
    """Whether the Hub does not answer for now, so that the cache may."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    status = _status(error)
    offline = isinstance(error, OfflineModeIsEnabled | ConnectionError | TimeoutError)
    return offline or (isinstance(error, HTTPError) and (status is None or status == 429 or status >= 500))


def cache_folder(name: str, kind: str = "model") -> Path:
    """The folder of a repository in the cache of the Hub's client."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def _cached_commit(name: str, revision: str | None, kind: str) -> str | None:
    """The commit that a revision was when the cache last heard of it."""
    folder = cache_folder(name, kind)
    if revision and COMMIT.fullmatch(revision):
        return revision if (folder / "snapshots" / revision).is_dir() else None
    with suppress(OSError):
        return (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    return None


def _remember(name: str, revision: str | None, kind: str, commit: str) -> None:
    """Write down where the Hub's client does what a revision is: it is not told, since files are asked by commit."""
    if revision == commit:
        return
    path = cache_folder(name, kind) / "refs" / (revision or "main")
    with suppress(OSError):  # a cache that cannot be written to serves as it is
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit, encoding="utf-8")


def _gated(name: str, kind: str) -> UserError:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    who = "your token has no access to it" if get_token() else "you are not logged in"
    then = "run the command again" if get_token() else LOG_IN
    return UserError(
        f"The {kind} '{name}' is gated, and {who}.",
        option=kind,
        value=name,
        hint=f"Ask for access on {page}, then {then}.",
    )


def _missing(name: str, kind: str) -> UserError:
    """The error for a repository that is not there, or not for this user: what it may have been meant."""
    from huggingface_hub import get_token

    hidden = "or your token may not see it" if get_token() else "or it is private and you are not logged in"
    hint = f"Check the name{'' if get_token() else f' and {LOG_IN}'}, or pass a folder."
    other = "dataset" if kind == "model" else "model"
    if _exists(name, other):
        hint = f"There is a {other} of that name: is it --{other} that you mean?"
    elif near := nearest(name, _neighbours(name, kind)):
        hint = f"Did you mean '{near}'? {hint}"
    return UserError(f"There is no {kind} '{name}' on the Hub, {hidden}.", option=kind, value=name, hint=hint)


# What follows explains an error, and must not become one, whatever the Hub answers.


def _exists(name: str, kind: str) -> bool:
    from huggingface_hub import HfApi

    with suppress(Exception):
        return HfApi().repo_exists(name, repo_type=kind)
    return False


def _neighbours(name: str, kind: str) -> list[str]:
    """The repositories of the same owner."""
    from huggingface_hub import HfApi

    api, owner = HfApi(), name.partition("/")[0]
    with suppress(Exception):
        listed = api.list_models if kind == "model" else api.list_datasets
        return [one.id for one in listed(author=owner, limit=MOST_NAMES)]
    return []


def _revisions(name: str, kind: str) -> list[str]:
    """The branches and tags of a repository."""
    from huggingface_hub import HfApi

    with suppress(Exception):
        refs = HfApi().list_repo_refs(name, repo_type=kind)
        return [ref.name for ref in (*refs.branches, *refs.tags)]
    return []


def _wait(error: BaseException) -> str:
    """How long the Hub asks to wait, as words that follow `Wait`; empty if it does not say."""
    after = str(getattr(getattr(error, "response", None), "headers", {}).get("retry-after", ""))
    return f" {after} s" if after.isdigit() else ""


def _unexplained(error: Exception, name: str, kind: str) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    problem = f"Cannot load the {kind} '{name}' from the Hub: {lines[0].rstrip('.')}."
    return UserError(problem, option=kind, value=name, hint="Check the name and the network.")
