# SPDX-License-Identifier: Apache-2.0
"""What the WebDAV rules see of HTTP: one request with a streamed body, one response. No sockets here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from core.chunk.api import FileRange
from core.object.api import Buffer


class Body(ABC):
    """A request body. Nothing is read before `read` (then `100 Continue` goes out if it was asked for).

    length: Content-Length, None for chunked coding.
    """

    length: int | None

    @abstractmethod
    async def read(self) -> Buffer:
        """The next bytes, b"" at the end. Raises `IncompleteBody` or `SlowBody`."""


class IncompleteBody(Exception):
    """The connection ended before the declared end of the body."""


class SlowBody(Exception):
    """No byte came for the idle time-out."""


class Request:
    """One request. Header names are lower case, values latin-1 text; repeated headers are joined by a comma."""

    __slots__ = ("body", "headers", "method", "peer", "secure", "target")

    def __init__(
        self, method: str, target: str, headers: dict[str, str], body: Body, *, peer: str = "", secure: bool = False
    ) -> None:
        self.method = method
        self.target = target  # as sent, still percent-encoded
        self.headers = headers
        self.body = body
        self.peer = peer
        self.secure = secure


ResponseBody = bytes | list[Buffer | FileRange] | AsyncIterator[Buffer | FileRange]


class Response:
    """One response. length: Content-Length of an iterator (or for HEAD); without it the coding is chunked."""

    __slots__ = ("body", "close", "headers", "length", "status")

    def __init__(
        self, status: int, headers: list[tuple[str, str]] | None = None, body: ResponseBody = b"", *,
        length: int | None = None, close: bool = False,
    ) -> None:  # fmt: skip
        self.status = status
        self.headers = headers if headers is not None else []
        self.body = body
        self.length = length
        self.close = close


async def read_all(body: Body, limit: int) -> bytes | None:
    """The whole body, None if it is longer than `limit`."""
    if body.length is not None and body.length > limit:
        return None
    parts = bytearray()
    while piece := await body.read():
        parts += piece
        if len(parts) > limit:
            return None
    return bytes(parts)
