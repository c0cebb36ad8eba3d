"""Everything that a local Hub is sent, as it arrives and decoded: what must not leave a machine must not be in it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from tests.hub import LocalHub


class Received:
    """The bodies of all requests to a Hub from now on."""

    def __init__(self, hub: LocalHub) -> None:
        self.bodies: list[bytes] = []
        self._app = hub._app._app
        hub._app._app = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        parts: list[bytes] = []

        async def recorded() -> Any:
            message = await receive()
            parts.append(message.get("body", b""))
            return message

        try:
            await self._app(scope, recorded, send)
        finally:
            self.bodies.append(scope.get("raw_path", b"") + b"\n" + b"".join(parts))

    def texts(self) -> Iterator[bytes]:
        """Yield each body, and what is in it in base64, as contents and samples of files are."""
        for body in self.bodies:
            yield body
            for line in body.partition(b"\n")[2].splitlines():
                yield from _decoded(line)

    def holding(self, secret: str) -> list[bytes]:
        """The texts that hold a secret."""
        return [text for text in self.texts() if secret.encode() in text]


def _decoded(line: bytes) -> Iterator[bytes]:
    try:
        content = json.loads(line)
    except ValueError:
        return
    for text in _strings(content):
        yield text.encode()
        try:
            yield base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(item)
