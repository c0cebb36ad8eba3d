"""Calls to the Hub: tried again a bounded number of times where waiting helps.

`huggingface_hub` retries uploads itself, but not the calls before and after them, and announces its waits with the
addresses of requests. Both speak the same way here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

TRIES = 5
"""Most tries of a call that the Hub answers with a passing failure."""
TRIES_TO_CONNECT = 3
"""Most tries of a call that does not reach the Hub."""
LONGEST_WAIT = 300.0
"""Seconds that are waited at most before a call is tried again."""
SILENCE = 120.0
"""Seconds after which a connection on which nothing moves counts as cut; `huggingface_hub` waits for ever."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed."""


def patiently(call: Callable[[], T]) -> T:
    """Return the result of a call to the Hub; after a passing failure, say so, wait, and try again.

    Raises:
        Exception: That of the last try.
    """
    number = 1
    while True:
        try:
            with bounded_waits(), spoken_waits():
                return call()
        except Exception as error:
            wait = _wait(error, number)
            most = TRIES if status_of(error) else TRIES_TO_CONNECT
            if wait is None or wait > LONGEST_WAIT or number >= most:
                raise
            _say(status_of(error), wait, number, most - 1)
        time.sleep(wait)
        number += 1


@contextmanager
def bounded_waits() -> Iterator[None]:
    """Bound the waits of `huggingface_hub`: for a silent connection, and for as long as the Hub asks to wait."""
    from huggingface_hub import get_session

    client = get_session()
    before = client.timeout, client.event_hooks
    client.timeout = SILENCE
    client.event_hooks = {**before[1], "response": [*before[1].get("response", ()), _refuse_long_wait]}
    try:
        yield
    finally:
        client.timeout, client.event_hooks = before


def _refuse_long_wait(response: Any) -> None:
    """Raise the error of a response that asks to wait for long; the library would wait."""
    from huggingface_hub import hf_raise_for_status

    after = response.headers.get("retry-after", "").strip()
    if response.status_code in PASSING and after.isdigit() and int(after) > LONGEST_WAIT:
        response.read()
        hf_raise_for_status(response)


def cause_of(error: BaseException) -> BaseException:
    """Return the error of the request itself: an upload wraps it."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """Return the status that the Hub answered, None for an error without an answer."""
    return getattr(getattr(cause_of(error), "response", None), "status_code", None)


def is_cut(error: BaseException) -> bool:
    """Return whether a request got no answer at all: no network, or a connection that was cut."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    found = cause_of(error)
    known = isinstance(found, (http_error(), ConnectionError, TimeoutError))
    return known and status_of(found) is None and not isinstance(found, OfflineModeIsEnabled)


def http_error() -> type[Exception]:
    """Return the base class of the errors of the HTTP library that `huggingface_hub` uses, whichever that is."""
    from huggingface_hub import errors

    return errors.HTTPError  # type: ignore[attr-defined]  # imported there, not exported


def is_passing(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    return status_of(error) in PASSING or is_cut(error)


def asked_wait(error: BaseException) -> float | None:
    """Return the seconds that the Hub asked to wait, None if it did not say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # documented

    headers = getattr(getattr(cause_of(error), "response", None), "headers", None)
    if headers is None:
        return None
    after = str(headers.get("retry-after", "")).strip()
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _wait(error: BaseException, number: int) -> float | None:
    """Return the seconds to wait before the next try, None if waiting does not help."""
    if not is_passing(error):
        return None
    asked = asked_wait(error)
    return float(2 ** (number - 1)) if asked is None else asked


def _say(status: int | None, wait: float, number: int, most: int) -> None:
    what = f"The Hub answered {status}" if status else "The Hub did not answer"
    what = "The Hub limits the rate of requests" if status == 429 else what
    print(f"{what}: trying again in {wait:.0f} s ({number} of {most})", flush=True)


class _Waits(logging.Filter):
    """Prints the waits of `huggingface_hub` in our words, without addresses, which may be signed."""

    status: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "thrown while requesting" in text:
            answered = re.match(r"HTTP Error (\d+)", text)
            self.status = int(answered[1]) if answered else None
            return False
        waits = re.match(r"(?:Rate limited\. Waiting|Retrying in) ([\d.]+)s.*\[Retry (\d+)/(\d+)\]", text)
        if waits is not None:
            _say(self.status, float(waits[1]), int(waits[2]), int(waits[3]))
        return waits is None


@contextmanager
def spoken_waits() -> Iterator[None]:
    """Print the retries of `huggingface_hub` like those of `patiently`."""
    logger, waits = logging.getLogger("huggingface_hub.utils._http"), _Waits()
    logger.addFilter(waits)
    try:
        yield
    finally:
        logger.removeFilter(waits)
