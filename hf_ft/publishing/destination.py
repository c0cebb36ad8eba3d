"""Where a result goes on the Hub, and how: the options of a push, checked before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hf_ft.errors import UserError

OF_TRAINING = {"--repo_id": "--hub_model_id", "--public": "--hub_private_repo false", "--revision": "--hub_revision"}
"""Option of `hf-ft push` -> that of a training."""
COMMIT = re.compile(r"[0-9a-f]{40}")
REFERENCE = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$|[./]$))[A-Za-z0-9_][A-Za-z0-9_./+-]*")
"""Names of branches and tags, without the rarer characters that git allows."""


@dataclass(frozen=True)
class Destination:
    """Where a result goes on the Hub, and how.

    Attributes:
        repo_id: `NAME` or `USER/NAME`; made if it does not exist.
        private: Whether only the user may read it. A public repository is never written to otherwise.
        revision: The branch, made from `main` if it does not exist; None is `main`.
        create_pr: Open a pull request instead of writing to the branch.
        tag: A tag for the commit.
        commit_message: The title of the commit.
        overwrite: Replace what the repository holds, also if it is not this model.
        token: The token; None is that of the environment or of `hf auth login`.
        command: The command that repeats the upload, if a training does the first one.
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    create_pr: bool = False
    tag: str | None = None
    commit_message: str | None = None
    overwrite: bool = False
    token: str | None = field(default=None, repr=False)
    command: str = ""

    @property
    def again(self) -> str:
        """How to repeat an upload that failed on the way."""
        how = f"Publish it with `{self.command}`" if self.command else "Run the same command again"
        return f"{how}: what the Hub has already received is not sent twice."

    def spelled(self, option: str) -> str:
        """An option of `hf-ft push` as the user would have written it: in a training it has another name."""
        return OF_TRAINING.get(option, option) if self.command else option

    def check(self) -> None:
        """Check names, and what goes together.

        Raises:
            UserError: The first mistake.
        """
        check_repo_id(self.repo_id, self.spelled("--repo_id"))
        for option, what in (("revision", "branch"), ("tag", "tag")):
            name = getattr(self, option)
            if name is not None and not REFERENCE.fullmatch(name):
                raise UserError(
                    f"{self.spelled(f'--{option}')} '{name}' cannot be the name of a {what}.",
                    option=option,
                    value=name,
                    hint="Use letters, digits, and . _ - / between them.",
                )
        if self.revision and COMMIT.fullmatch(self.revision):
            raise UserError(
                f"{self.spelled('--revision')} {self.revision} is a commit, and nothing can be added to a commit.",
                option="revision",
                value=self.revision,
                hint="Give the name of a branch.",
            )
        if self.tag and self.create_pr:
            raise UserError(
                "--tag does not go with --create_pr: a pull request is not part of the repository until it is merged.",
                option="tag",
                value=self.tag,
                hint="Keep one of them.",
            )
        if self.commit_message is not None and not self.commit_message.strip():
            raise UserError("--commit_message is empty.", option="commit_message", hint="Leave it out, or say more.")


def check_repo_id(repo_id: str, option: str) -> None:
    """Check that a name, which an option gave, is valid for a repository on the Hub.

    Raises:
        UserError: It is not; says why.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in `__all__`

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(
            f"{option} '{repo_id}' cannot be a repository: {error} Give NAME or USER/NAME.",
            option=option.lstrip("-"),
            value=repo_id,
        ) from None
