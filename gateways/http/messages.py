# SPDX-License-Identifier: Apache-2.0
"""What a door's rules see of HTTP: one request with a streamed body, one response. No sockets here.

`server.py` (httptools and asyncio) and `aiohttp_server.py` make requests; a door's `Application` answers them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from core.chunk.api import FileRange
from core.object.api import Buffer


class Body(ABC):
    """A request body. Nothing is read from the socket before `read` (then `100 Continue` is sent if it was asked for).

    length: Content-Length, or None for chunked transfer coding.
    """

    length: int | None

    @abstractmethod
    async def read(self) -> Buffer:
        """The next bytes as they came (at most 1 MiB; valid until the next call); b"" at the end.

        Raises `IncompleteBody` if the peer closed early, `SlowBody` after an idle time-out.
        """


class IncompleteBody(Exception):
    """The connection ended, or framing broke, before the declared end of the body."""


class SlowBody(Exception):
    """No byte came for the idle time-out."""


class Request:
    """One request. Header names are lower case; repeated headers are joined by a comma (repeats of Host,
    Content-Length, Authorization and Transfer-Encoding were refused with 400 before this)."""

    __slots__ = ("body", "headers", "method", "peer", "query_string", "raw_path", "secure", "target")

    def __init__(
        self, method: str, target: str, headers: dict[str, str], body: Body, *, peer: str = "", secure: bool = False
    ) -> None:
        self.method = method
        self.target = target  # as sent: path?query, latin-1 text, still percent-encoded
        path, _, query = target.partition("?")
        self.raw_path = path
        self.query_string = query
        self.headers = headers  # values decoded as latin-1
        self.body = body
        self.peer = peer
        self.secure = secure


ResponseBody = bytes | list[Buffer | FileRange] | AsyncIterator[Buffer | FileRange]


class Response:
    """One response. `length`: value of Content-Length when the body is an iterator (or for HEAD); an iterator without
    length is sent with chunked transfer coding. close: close the connection afterwards."""

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


class BadRequest(Exception):
    """Bytes that never became a request; the connection ends after the answer. `code` is a word for programs, in the
    spelling of S3's error codes; doors without such words leave it out."""

    def __init__(self, message: str, *, status: int = 400, code: str = "BadRequest") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


_TEXT = ("Content-Type", "text/plain; charset=utf-8")


class Application(ABC):
    """What a server calls for each request. Must not raise; cancellation means the peer is gone.

    `refusal` and `failure` word answers that the server has to give itself; a protocol with a format of its own for
    errors overrides them.
    """

    @abstractmethod
    async def __call__(self, request: Request) -> Response: ...

    def refusal(self, error: BadRequest) -> Response:
        """The answer to bytes that never became a request."""
        return Response(error.status, [_TEXT], f"{error.message}\n".encode(), close=True)

    def failure(self, request: Request, error: BaseException) -> Response:
        """The answer if `__call__` raised, or the first read of the body that it returned. The server has logged it."""
        return Response(500, [_TEXT], b"The server failed; its log says why.\n", close=True)


async def read_announced(body: Body, length: int) -> Buffer:
    """A body of `length` bytes in one piece, without a copy where it came in one; shorter if it ended early."""
    data = await body.read() if length else b""
    if len(data) >= length:
        return data
    pieces = [bytes(data)]
    have = len(data)
    while have < length and (more := await body.read()):
        pieces.append(bytes(more))
        have += len(more)
    return b"".join(pieces)


async def read_all(body: Body, limit: int) -> bytes | None:
    """The whole body, None if it is longer than `limit`. For documents; what is large is streamed."""
    if body.length is not None and body.length > limit:
        return None
    parts = bytearray()
    while piece := await body.read():
        parts += piece
        if len(parts) > limit:
            return None
    return bytes(parts)
