# SPDX-License-Identifier: Apache-2.0
"""Request bodies between a connection (which pushes bytes in) and a handler (which reads them out).

Three kinds: none, one that is complete already (reading it never suspends), and a stream with back-pressure.
No sockets: the connection passes itself as a `Source`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from core.object.api import Buffer
from gateways.http.messages import Body

#: More unread bytes than this stop the socket; below the low mark it starts again. 2 MiB is eight reads of uvloop.
HIGH_WATER = 2 * 1024 * 1024
LOW_WATER = 512 * 1024


class Source(Protocol):
    """What a stream asks of its connection."""

    def body_wanted(self) -> None:
        """The handler is about to wait: send `100 Continue` if it is due, start the idle clock."""

    def body_drained(self) -> None:
        """Unread bytes fell below the low mark: read from the socket again."""


class NoBody(Body):
    """A request without a body (neither Content-Length nor a coding, or Content-Length: 0)."""

    length = 0

    async def read(self) -> Buffer:
        return b""


NO_BODY = NoBody()


class WholeBody(Body):
    """A body that has arrived completely."""

    __slots__ = ("_data", "length")

    def __init__(self, data: Buffer) -> None:
        self.length = len(data)
        self._data = data

    async def read(self) -> Buffer:
        data, self._data = self._data, b""
        return data


class StreamBody(Body):
    """A body that is still arriving."""

    __slots__ = ("_error", "_parts", "_source", "_waiter", "ended", "length", "started", "unread_bytes")

    def __init__(self, source: Source, length: int | None) -> None:
        self.length = length
        self.ended = False  # the last byte has been pushed
        self.started = False  # the handler has asked for bytes
        self.unread_bytes = 0
        self._source = source
        self._parts: deque[Buffer] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    async def read(self) -> Buffer:
        self.started = True
        while not self._parts:
            if self.ended:
                return b""
            if self._error is not None:
                raise self._error
            self._source.body_wanted()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = self._parts.popleft()
        before = self.unread_bytes
        self.unread_bytes = after = before - len(part)
        if after < LOW_WATER <= before:
            self._source.body_drained()
        return part

    @property
    def waiting(self) -> bool:
        """A handler waits for bytes now."""
        return self._waiter is not None

    def push(self, data: Buffer) -> bool:
        """Bytes came. False: enough for now, stop reading from the socket."""
        self._parts.append(data)
        self.unread_bytes += len(data)
        self._wake()
        return self.unread_bytes < HIGH_WATER

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """No more bytes will come; what came before can still be read."""
        if self._error is None and not self.ended:
            self._error = error
            self._wake()

    def drop(self) -> None:
        """Forget unread bytes; the answer is out."""
        self._parts.clear()
        self.unread_bytes = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
