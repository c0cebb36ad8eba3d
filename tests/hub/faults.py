"""Faults by switch: refused, slow, cut and corrupted requests; and the list of all requests.

This is the outermost layer of the server, so a fault happens before the routes see a request or after they answered.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UPLOADS = ("PUT", "POST", "PATCH")
"""Methods whose content is in the request; that of others is in the response."""


@dataclass
class Fault:
    """What goes wrong with requests whose method and path fit.

    Attributes:
        path: A regular expression that is searched for in the decoded path, which starts with `/`.
        status: The answer, in place of that of the routes.
        times: How often; None for always.
        retry_after: Seconds, sent as `Retry-After`.
        cut_at: The connection ends at this byte of the content, wherever a range begins.
        delay: Seconds before anything else happens.
        corrupt: A byte of the content is another one, the last of the first part that is sent.
        error_code: Sent as `X-Error-Code` with the status.
        hits: How often it happened.
    """

    method: str
    path: str
    status: int | None = None
    times: int | None = 1
    retry_after: int | None = None
    cut_at: int | None = None
    delay: float | None = None
    corrupt: bool = False
    error_code: str | None = None
    hits: int = 0

    def __post_init__(self) -> None:
        if not any((self.status, self.cut_at is not None, self.delay, self.corrupt)):
            raise ValueError("A fault needs one of status, cut_at, delay and corrupt.")

    def fits(self, method: str, path: str) -> bool:
        """Whether this request is to fail."""
        left = self.times is None or self.hits < self.times
        return left and self.method in (method, "*") and re.search(self.path, path) is not None


class FaultyApp:
    """An application with the faults that tests ask for.

    Attributes:
        requests: Method, path and status of every request so far; status 0 where a connection was cut before an answer.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        method, path = scope["method"], scope["path"]
        fault = next((fault for fault in self.faults if fault.fits(method, path)), None)
        exchange = _Exchange(fault, receive, send, _range_start(scope), upload=method in UPLOADS)
        exchange.answered = lambda status: self.requests.append((method, path, status))
        try:
            if fault is not None:
                fault.hits += 1
                await asyncio.sleep(fault.delay or 0)
            if fault is not None and fault.status:
                await exchange.refuse(fault)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except _Cut:
            await exchange.disconnect()


class _Cut(BaseException):
    """The connection is to end here; no handler of the application catches it."""


class _Exchange:
    """One request and its response, on which a fault may act."""

    def __init__(self, fault: Fault | None, receive: Receive, send: Send, start: int, upload: bool) -> None:
        self._receive, self._send, self._upload = receive, send, upload
        self._cut_at = fault.cut_at if fault else None
        self._corrupt = fault.corrupt if fault else False
        self._position = 0 if upload else start
        self._started = False
        self.answered: Callable[[int], None] = lambda status: None
        """Called with the status before the answer is sent, so that who has it finds it recorded."""

    async def refuse(self, fault: Fault) -> None:
        """Answer with the status of a fault, whatever was asked."""
        message = f"This is a fault that a test asked for ({fault.status})."
        content = json.dumps({"error": message}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), "x-error-message": message}
        if fault.retry_after is not None:
            headers["retry-after"] = str(fault.retry_after)
        if fault.error_code:
            headers["x-error-code"] = fault.error_code
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": fault.status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": content})

    async def receive(self) -> Message:
        """The next part of the request, as the application gets it."""
        message = await self._receive()
        if self._upload and message["type"] == "http.request":
            message["body"] = self._through(message.get("body", b""))
            if self._cut_at is not None and self._position >= self._cut_at:
                raise _Cut
        return message

    async def send(self, message: Message) -> None:
        """Pass on a part of the response, up to where the connection is cut."""
        if message["type"] == "http.response.start":
            self._started = True
            self.answered(message["status"])
        elif not self._upload and message["type"] == "http.response.body":
            message["body"] = self._through(message.get("body", b""))
            if self._cut_at is not None and self._position >= self._cut_at:
                await self._send({**message, "more_body": True})
                raise _Cut
        await self._send(message)

    def _through(self, body: bytes) -> bytes:
        """What is left of a part of the content."""
        if self._corrupt and body:
            body, self._corrupt = body[:-1] + bytes([body[-1] ^ 0xFF]), False
        if self._cut_at is not None:
            body = body[: max(0, self._cut_at - self._position)]
        self._position += len(body)
        return body

    async def disconnect(self) -> None:
        """Close the connection in the middle of an exchange, which ASGI has no message for, but uvicorn can."""
        if not self._started:
            self.answered(0)
        self._receive.__self__.transport.close()  # type: ignore[attr-defined]
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _range_start(scope: MutableMapping[str, Any]) -> int:
    ranges = [value for name, value in scope["headers"] if name == b"range"]
    found = re.match(rb"bytes=(\d+)-", ranges[0]) if ranges else None
    return int(found.group(1)) if found else 0
