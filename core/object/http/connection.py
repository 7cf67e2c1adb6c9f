# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection, one exchange at a time.

A `BufferedProtocol`: the loop receives the body of known length straight into the bytearray that `exchange` returns,
so a block is copied once, by the kernel. Bodies are sent from the caller's buffers in pieces, waiting for the socket
after each, so a transport never holds a copy of a block. Source: RFC 9112; asyncio buffered protocols.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from core.object.buffers import Views
from core.object.http.codec import (
    CHUNKED,
    MAX_HEAD,
    UNTIL_CLOSE,
    BadResponse,
    ChunkedDecoder,
    Head,
    Response,
    body_length,
    parse_head,
)

# A body up to here leaves together with its head in one write.
SMALL_BODY = 64 << 10
# What one write hands to the transport; asyncio's own transport copies what the socket doesn't take at once.
PIECE = 512 << 10


class ExchangeFailed(Exception):
    """No complete answer. untouched: not a byte of one came, so a kept connection may just have been stale."""

    def __init__(self, message: str, *, untouched: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched


class Connection(asyncio.BufferedProtocol):
    """Made by `Client`. `usable` is True while another exchange may follow."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = idle_timeout_s
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._progress = False
        # Heads, chunked bodies and small bodies; a body of known length has its own buffer.
        self._scratch = bytearray(MAX_HEAD)
        self._view = memoryview(self._scratch)
        self._have = 0
        self._method = ""
        self._head: Head | None = None
        self._body = bytearray()
        self._dest: memoryview | None = None
        self._filled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: ChunkedDecoder | None = None
        self.usable = False
        self.idle_since = 0.0

    # ---- one exchange

    async def exchange(self, method: str, head: bytes, parts: Views, size: int) -> Response:
        """Send a request, return the whole answer. Cancelling, like any failure, closes the connection."""
        transport = self._transport
        if transport is None or not self.usable:
            raise ExchangeFailed("the connection is closed", untouched=True)
        waiter: asyncio.Future[Response] = self._loop.create_future()
        self._waiter = waiter
        self._method = method
        self._head = None
        self._have = 0
        self._progress = False
        self._timer = self._loop.call_later(self._timeout_s, self._check_progress)
        try:
            if size <= SMALL_BODY:
                transport.write(b"".join((head, *parts)) if parts else head)
            else:
                transport.write(head)
                for part in parts:
                    for at in range(0, part.nbytes, PIECE):
                        transport.write(part[at : at + PIECE])
                        if self._paused:
                            await self._wait_until_drained()
                        if waiter.done():  # an error came early; the rest of the body would be noise
                            self.usable = False
                            return await waiter
            return await waiter
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._waiter = None
            if self._dest is not None:
                self._dest.release()
                self._dest = None
            if not waiter.done() or waiter.cancelled() or waiter.exception() is not None or not self.usable:
                self.abort()

    async def _wait_until_drained(self) -> None:
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def abort(self) -> None:
        """Close with a reset, not with an orderly end: versitygw 1.8 took the latter, in the middle of a PUT, for the
        end of the body and stored the short object."""
        self.usable = False
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass  # closed already
            self._transport.abort()

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        # Not high=0: over TLS asyncio then pauses with an empty buffer and never resumes.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self.usable = True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._progress = True
        self._wake_writer()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._dest is not None:
            return self._dest[self._filled :]
        return self._view[self._have :]

    def buffer_updated(self, nbytes: int) -> None:
        self._progress = True
        if self._dest is not None:
            self._filled += nbytes
            if self._filled == len(self._dest):
                self._dest.release()
                self._dest = None
                self._finish(self._body)
            return
        if self._waiter is None or self._waiter.done():
            self.abort()  # bytes that nobody asked for
            return
        try:
            if self._head is None:
                self._have += nbytes
                self._read_head(self._have - nbytes)
            else:
                self._read_rest(self._view[:nbytes])
        except BadResponse as error:
            self._fail(ExchangeFailed(str(error)))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._transport = None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if exc is None and self._head is not None and self._chunks is None and self._dest is None:
                self._finish(self._body)  # a body that ends with the connection
            elif self._dest is not None:
                got = f"{self._filled} of {len(self._dest)} bytes of the body"
                self._fail(ExchangeFailed(f"the connection ended after {got}"))
            else:
                reason = f": {exc}" if exc else ""
                untouched = self._head is None and not self._have
                self._fail(ExchangeFailed(f"the connection ended before the answer{reason}", untouched=untouched))
        self._wake_writer()

    # ---- the answer

    def _read_head(self, searched: int) -> None:
        begin = 0
        while True:
            end = self._scratch.find(b"\r\n\r\n", max(begin, searched - 3), self._have)
            if end < 0:
                if self._have == MAX_HEAD:
                    raise BadResponse("the head of the answer is too long")
                return
            head = parse_head(bytes(self._view[begin:end]))
            begin = end + 4
            if head.status >= 200:
                break
            searched = 0
            # 100 Continue and the like: the real answer follows, perhaps in the same bytes.
            rest = self._have - begin
            self._scratch[:rest] = self._scratch[begin : self._have]
            self._have, begin = rest, 0
        self._head = head
        have = self._have - begin
        self._have = 0
        length = body_length(self._method, head)
        if not head.keep_alive or have > length >= 0:
            self.usable = False
        if length >= 0 and have >= length:
            self._finish(bytes(self._view[begin : begin + length]))
        elif length >= 0:
            self._body = bytearray(length)
            self._body[:have] = self._view[begin : begin + have]
            self._dest = memoryview(self._body)
            self._filled = have
        else:
            self._body = bytearray()
            self._chunks = ChunkedDecoder() if length == CHUNKED else None
            if length == UNTIL_CLOSE:
                self.usable = False
            self._read_rest(self._view[begin : begin + have])

    def _read_rest(self, data: memoryview) -> None:
        if self._chunks is None:
            self._body += data
            return
        self._chunks.feed(data)
        if self._chunks.done:
            self.usable = self.usable and not self._chunks.excess
            body, self._chunks = self._chunks.body, None
            self._finish(body)

    def _finish(self, body: bytes | bytearray) -> None:
        assert self._head is not None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(Response(self._head.status, self._head.headers, body))
        self._body = bytearray()
        self._wake_writer()

    def _fail(self, error: ExchangeFailed) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _check_progress(self) -> None:
        if self._progress:
            self._progress = False
            self._timer = self._loop.call_later(self._timeout_s, self._check_progress)
        else:
            self._fail(ExchangeFailed(f"time-out: no byte was sent or received for {self._timeout_s:g} s"))
