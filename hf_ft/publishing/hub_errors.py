"""What went wrong with the Hub, in one line: the state of things, the reason, the fix."""

from __future__ import annotations

import os
import re

from hf_ft.errors import UserError
from hf_ft.publishing.destination import Destination
from hf_ft.publishing.hub_calls import asked_wait, cause_of, is_cut, is_passing, status_of
from hf_ft.publishing.leaks import masked

LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN."
NOTHING = "Nothing was published"


def explained(error: BaseException, repo_id: str, destination: Destination, done: str = NOTHING) -> UserError:
    """Return the error for a call to the Hub that failed.

    Args:
        error: What was raised.
        repo_id: The repository, with its namespace if that is known.
        destination: The options of the user.
        done: What had been done by then.
    """
    problem, hint = _by_class(error, repo_id, destination) or _by_status(error, repo_id, destination)
    problem = masked(problem, (destination.token,))
    return UserError(f"{done}: {problem}.", option="repo_id", value=repo_id, hint=hint)


def _by_class(error: BaseException, repo_id: str, destination: Destination) -> tuple[str, str] | None:
    """Return the problem and the fix where the class of the error says more than the status."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    found, another = cause_of(error), destination.spelled("--repo_id")
    if isinstance(found, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked", "Unset it."
    if isinstance(found, LocalTokenNotFoundError):
        return "there is no token for the Hub", LOG_IN
    if isinstance(found, GatedRepoError):
        ask = f"Ask for access at {endpoint()}/{repo_id}, or choose another {another}."
        return f"{repo_id} is gated, and this token has no access to it", ask
    if isinstance(found, RevisionNotFoundError):
        return (
            f"{repo_id} has no such revision ({_said(found)})",
            f"Give a branch with {destination.spelled('--revision')}.",
        )
    if isinstance(found, RepositoryNotFoundError):
        return f"{repo_id} does not exist, or this token may not see it", _check(destination)
    return None


def _by_status(error: BaseException, repo_id: str, destination: Destination) -> tuple[str, str]:
    """Return the problem and the fix by what the Hub answered."""
    status, said, tokens = status_of(error), _said(cause_of(error)), f"{endpoint()}/settings/tokens"
    another, again = f"choose another {destination.spelled('--repo_id')}", destination.again
    if status == 401:
        return (
            f"the Hub does not accept the token{_source(destination.token)}",
            f"Make a new one at {tokens}, and log in with it.",
        )
    if status == 403:
        fix = f"Use a token with write access ({tokens}), or {another}."
        return f"this token may not write to {repo_id} ({said})", fix
    if status == 409:
        return f"{repo_id} is being changed by somebody else ({said})", again
    if status == 412:
        return f"{repo_id} changed meanwhile", again
    if status == 429:
        wait = asked_wait(error)
        return f"the Hub limits the rate of requests{f' for another {wait:.0f} s' if wait else ''}", f"Wait. {again}"
    if is_cut(error):
        return f"the Hub at {endpoint()} cannot be reached ({said})", f"Check the network. {again}"
    if is_passing(error):
        return f"the Hub at {endpoint()} answers {status}", f"Wait. {again}"
    return f"the upload failed ({said})", _check(destination)


def _check(destination: Destination) -> str:
    return f"Check {destination.spelled('--repo_id')}, and who you are with `hf auth whoami`."


def endpoint() -> str:
    """The address of the Hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _said(error: BaseException) -> str:
    """Return what the server said, else the first line of the error, without its full stop."""
    text = str(getattr(error, "server_message", None) or error)
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")] or [type(error).__name__]
    first = " ".join(lines[: 2 if lines[0].startswith("Invalid metadata") else 1])
    return re.sub(r"\s*\(Request ID: [^)]*\)", "", first).rstrip(".")


def _source(token: str | None) -> str:
    """Where the token that the Hub refuses came from."""
    if token is not None:
        return " that was passed"
    named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    return f" in {named}" if named else " that `hf auth login` stored"
