"""What would give away this machine and its user: paths, names, values of secret environment variables."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

USER, HOST = "user name", "host name"
VARIABLE = "value of the environment variable"

GENERIC = frozenset(
    {
        *("root", "user", "users", "ubuntu", "debian", "admin", "administrator", "home", "work", "app", "default"),
        *("jovyan", "nobody", "runner", "vscode", "docker", "developer", "dev", "ec2-user", "centos", "azureuser"),
        *("colab", "content", "kaggle", "guest", "test", "localhost", "localhost.localdomain", "host", "server"),
        *("computer", "desktop", "laptop", "node", "main", "master", "worker", "python", "linux", "model", "models"),
        *("cpu", "gpu", "cuda", "box", "lab", "prod", "local", "login", "cluster"),
        *("data", "dataset", "train", "training", "trainer", "base", "text", "image", "results", "output"),
    }
)
"""Names of users and hosts that many machines have, and words that any card contains: they identify nobody."""
SHORTEST_NAME = 3

SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKENS?|SECRETS?|PASS(?:WORD|WD|PHRASE)?|PWD|CREDENTIALS?|KEYS?|PAT|DSN|AUTH|WEBHOOK(?:_URL)?)(?:_|$)"
    r"|(?:APIKEY|PASSWORD|TOKEN|SECRET)$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are searched for."""
SHORTEST_VALUE = 8


def own_paths(folder: Path) -> list[str]:
    """The folders of this machine that a file may name: home, working directory and the result's own."""
    with suppress(RuntimeError):  # a user without a home
        return [str(path) for path in (Path.home(), Path.cwd(), folder.resolve()) if len(str(path)) > 5]
    return [str(folder.resolve())]


def own_names(public: Iterable[str] = ()) -> dict[str, list[str]]:
    """The names of the user and of the host, by kind, without generic ones and those that are public already.

    Args:
        public: Names that are published anyway, such as the namespace of the repository.
    """
    known = GENERIC | {name.lower() for name in public}
    found = {USER: {*_users()}, HOST: {*_hosts()}}
    return {
        kind: sorted(name for name in names if len(name) >= SHORTEST_NAME and name.lower() not in known)
        for kind, names in found.items()
    }


def _users() -> Iterator[str]:
    with suppress(OSError, KeyError, ImportError):  # a user without an entry, as in some containers
        yield getpass.getuser()
    with suppress(RuntimeError):
        yield Path.home().name
    yield from (os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER"))


def _hosts() -> Iterator[str]:
    for name in (socket.gethostname(), os.environ.get("HOSTNAME", ""), os.environ.get("COMPUTERNAME", "")):
        yield name
        first = name.partition(".")[0]
        if not first.isdecimal():  # the first number of an address
            yield first


def secret_values(more: Iterable[str | None] = ()) -> dict[str, str]:
    """The values of environment variables that are named like a secret -> what to call them.

    Args:
        more: Tokens from elsewhere, such as the one that is used for the upload.
    """
    found = {value: "token in use" for value in more if value and len(value) >= SHORTEST_VALUE}
    for name, value in os.environ.items():
        value = value.strip()
        if SECRET_VARIABLE.search(name) and name not in ("PWD", "OLDPWD") and _is_secret(value):
            found[value] = f"{VARIABLE} {name}"
    return found


def _is_secret(value: str) -> bool:
    """Whether a value is long enough to be one, and neither a number nor an existing path."""
    if len(value) < SHORTEST_VALUE or value.isdecimal():
        return False
    with suppress(OSError, ValueError):
        return not Path(value).exists()
    return True
