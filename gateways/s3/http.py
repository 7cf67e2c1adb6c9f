# SPDX-License-Identifier: Apache-2.0
"""What the S3 rules see of HTTP: one request with a streamed body, one response. No sockets here.

`server.py` (httptools and asyncio) and `server_aiohttp.py` make these; `app.py` answers them.
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


class Application(ABC):
    """What a server calls for each request. Must not raise; cancellation means the peer is gone."""

    @abstractmethod
    async def __call__(self, request: Request) -> Response: ...
