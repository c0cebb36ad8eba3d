"""Large files by their SHA-256, at signed addresses on a host of their own, as an object store serves them."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from urllib.parse import urlencode

from starlette.requests import Request

from tests.hub.refusals import Refusal

MIB = 2**20


class ObjectStore(dict[str, bytes]):
    """SHA-256 -> content.

    Attributes:
        part_size: Larger files are uploaded in parts of this size.
        parts: What has been uploaded in parts and not completed yet, by the id of the file and the number of the part.
    """

    def __init__(self, part_size: int = 64 * MIB) -> None:
        super().__init__()
        self.url = ""
        self.part_size = part_size
        self.parts: dict[tuple[str, int], bytes] = {}
        self._key = secrets.token_bytes(16)

    def add(self, content: bytes) -> str:
        """Store a content and return its id."""
        oid = hashlib.sha256(content).hexdigest()
        self[oid] = content
        return oid

    def address(self, oid: str, **query: object) -> str:
        """The signed address of a file, or of a part of it."""
        signed = {**{key: str(value) for key, value in query.items()}, "signature": self._signature(oid)}
        return f"{self.url}/storage/{oid}?{urlencode(signed)}"

    def upload_action(self, oid: str, size: int, transfers: list[str]) -> dict[str, object]:
        """Where to send a file: at once, or in parts that are put together at the end."""
        if size <= self.part_size or "multipart" not in transfers:
            return {"href": self.address(oid)}
        count = math.ceil(size / self.part_size)
        parts = {str(number): self.address(oid, part=number) for number in range(1, count + 1)}
        return {"href": self.address(oid, complete=count), "header": {"chunk_size": str(self.part_size), **parts}}

    def complete(self, oid: str, count: int) -> None:
        """Put the parts of a file together.

        Raises:
            Refusal: Some are missing.
        """
        numbers = range(1, count + 1)
        if missing := [number for number in numbers if (oid, number) not in self.parts]:
            raise Refusal(400, f"InvalidPart: {missing}")
        self.add(b"".join(self.parts.pop((oid, number)) for number in numbers))

    def check_signature(self, request: Request) -> None:
        """Raise unless an address is signed, and used without a token, which must not leave the Hub."""
        if request.headers.get("authorization"):
            raise Refusal(400, "InvalidArgument: Only one auth mechanism allowed")
        given = request.query_params.get("signature", "")
        if not hmac.compare_digest(given, self._signature(request.path_params["oid"])):
            raise Refusal(403, "SignatureDoesNotMatch")

    def _signature(self, oid: str) -> str:
        return hmac.new(self._key, oid.encode(), "sha256").hexdigest()
