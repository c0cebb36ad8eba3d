"""What the Hub refuses, with the status, the code and the words that its clients look at."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        message: For people; the client appends it to its own.
        code: The value of `X-Error-Code`, from which `huggingface_hub` chooses the class of its exception.
        facts: Further fields of the answer.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **facts: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.facts = status, message, code, facts


class Moved(Exception):
    """A repository that has another name now; the client is sent there."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def bad_token() -> Refusal:
    return Refusal(401, "Invalid credentials in Authorization header")


def no_such_repository(anonymous: bool) -> Refusal:
    """The Hub does not say whether a private repository exists.

    It answers 401 without a code to strangers; clients make "not found" of it for https addresses only, so the code is
    sent here.
    """
    if anonymous:
        return Refusal(401, "Invalid username or password.", "RepoNotFound")
    return Refusal(404, "Repository not found", "RepoNotFound")


def no_such_revision(revision: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def no_such_entry(path: str) -> Refusal:
    return Refusal(404, f"Entry not found: {path}", "EntryNotFound")


def gated(repo_id: str, anonymous: bool) -> Refusal:
    if anonymous:
        return Refusal(
            401,
            f"Access to model {repo_id} is restricted. You must have access to it and be authenticated to access it. "
            "Please log in.",
            "GatedRepo",
        )
    return Refusal(
        403,
        f"Access to model {repo_id} is restricted and you are not in the authorized list. Visit the page of "
        f"{repo_id} to ask for access.",
        "GatedRepo",
    )


def forbidden(message: str) -> Refusal:
    return Refusal(403, message)
