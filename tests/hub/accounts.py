"""Users, organizations and tokens, and who may do what with a repository."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.hub.refusals import Refusal, bad_token, forbidden, gated, no_such_repository
from tests.hub.repository import Repository

READ, WRITE = "repo.content.read", "repo.write"
ROLES = ("read", "write", "none")


@dataclass(frozen=True)
class Token:
    """A token of a user.

    Attributes:
        role: `read`, `write`, or `fineGrained`, which grants only what `scopes` say.
        scopes: Names of users, organizations or repositories, and the rights to them.
    """

    value: str
    user: str
    role: str
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def grants(self, right: str, repo_id: str) -> bool:
        """Whether the token carries a right of its user."""
        if self.role == "fineGrained":
            return any(right in self.scopes.get(name, ()) for name in (repo_id, repo_id.partition("/")[0]))
        return right == READ or self.role == "write"


class Accounts:
    """Everybody who has a token, and the organizations that they belong to."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}
        self.organizations: dict[str, dict[str, str]] = {}
        """Name -> role of each member: `admin`, `write`, `contributor` or `read`."""

    def new_token(self, user: str, role: str, scopes: Mapping[str, Iterable[str]] | None = None) -> Token:
        """Give a user another token; `none` is a fine-grained one without rights unless `scopes` grant some."""
        if role not in ROLES:
            raise ValueError(f"Unknown role '{role}'. Choose from: {', '.join(ROLES)}.")
        if scopes and role != "none":
            raise ValueError("Only a fine-grained token has scopes: set role='none'.")
        value = f"hf_{secrets.token_hex(17)}"
        named = {name: frozenset(rights) for name, rights in (scopes or {}).items()}
        self._tokens[value] = Token(value, user, "fineGrained" if role == "none" else role, named)
        return self._tokens[value]

    def viewer(self, authorization: str | None) -> Token | None:
        """Whose token an `Authorization` header carries; None without one.

        Raises:
            Refusal: Nobody's.
        """
        if not authorization:
            return None
        known = self._tokens.get(authorization.removeprefix("Bearer "))
        if known is None:
            raise bad_token()
        return known

    def role_in(self, user: str, namespace: str) -> str | None:
        """The role of a user in a namespace: `admin` of their own, that of a member of an organization, or None."""
        return "admin" if user == namespace else self.organizations.get(namespace, {}).get(user)

    def check_visible(self, viewer: Token | None, repository: Repository) -> None:
        """Raise unless the viewer may know of a repository."""
        if repository.private and not self._may_read(viewer, repository):
            raise no_such_repository(viewer is None)

    def check_download(self, viewer: Token | None, repository: Repository) -> None:
        """Raise unless the viewer may read the files of a repository."""
        self.check_visible(viewer, repository)
        if not repository.gated or self._may_read(viewer, repository):
            return
        if viewer is not None and viewer.role == "fineGrained":
            raise Refusal(
                403,
                "Please enable access to public gated repositories in your fine-grained token settings to view this "
                "repository.",
                "GatedRepo",
            )
        if viewer is None or viewer.user not in repository.allowed:
            raise gated(repository.id, viewer is None)

    def check_write(self, viewer: Token | None, repository: Repository) -> None:
        """Raise unless the viewer may commit to a repository."""
        self.check_visible(viewer, repository)
        if viewer is None:
            raise Refusal(401, "Invalid username or password.")
        if self.role_in(viewer.user, repository.namespace) not in ("admin", "write"):
            raise forbidden("Forbidden: you don't have the rights to write to this repository")
        if not viewer.grants(WRITE, repository.id):
            raise forbidden(_needs_write(viewer))

    def check_pull_request(self, viewer: Token | None, repository: Repository) -> Token:
        """Raise unless the viewer may open a pull request or discuss: whoever can read and has a token that writes."""
        self.check_download(viewer, repository)
        if viewer is None:
            raise Refusal(401, "Invalid username or password.")
        if not viewer.grants(WRITE, repository.id):
            raise forbidden(_needs_write(viewer))
        return viewer

    def check_create(self, viewer: Token | None, namespace: str | None, kind: str) -> str:
        """Return the namespace of a new repository; raise unless the viewer may create one there."""
        if viewer is None:
            raise Refusal(401, "Invalid username or password.")
        namespace = namespace or viewer.user
        if self.role_in(viewer.user, namespace) not in ("admin", "write", "contributor"):
            raise forbidden(f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        if not viewer.grants(WRITE, namespace):
            raise forbidden(
                f'{_needs_write(viewer)} You don\'t have the rights to create a {kind} under "{namespace}".'
            )
        return namespace

    def _may_read(self, viewer: Token | None, repository: Repository) -> bool:
        member = viewer is not None and self.role_in(viewer.user, repository.namespace) is not None
        return member and viewer is not None and viewer.grants(READ, repository.id)

    def described(self, viewer: Token) -> dict[str, object]:
        """What `whoami` answers."""
        orgs = [
            {"type": "org", "name": name, "fullname": name, "roleInOrg": members[viewer.user], "isEnterprise": False}
            for name, members in self.organizations.items()
            if viewer.user in members
        ]
        token: dict[str, object] = {"displayName": viewer.role, "role": viewer.role}
        if viewer.role == "fineGrained":
            scoped = [
                {"entity": {"type": "model" if "/" in name else "user", "name": name}, "permissions": sorted(rights)}
                for name, rights in viewer.scopes.items()
            ]
            token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
        return {
            "type": "user",
            "name": viewer.user,
            "fullname": viewer.user.title(),
            "email": f"{viewer.user}@example.org",
            "emailVerified": True,
            "isPro": False,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }


def _needs_write(viewer: Token) -> str:
    if viewer.role == "read":
        return "Forbidden: you must use a write token to upload to a repository."
    return "Forbidden: your fine-grained token does not grant write access here."
