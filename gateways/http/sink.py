# SPDX-License-Identifier: Apache-2.0
"""The writing half of a connection: an asyncio transport as a `write.Sink`, with a time-out on progress.

"Drained" means that the kernel has every byte, so a buffer may be reused and `sendfile` may take the socket.
Measured: a high-water mark of 0 makes uvloop send at once, which also gives the peer its answer a loop turn earlier.
"""

from __future__ import annotations

import asyncio
import math

from core.object.api import Buffer


class TransportSink(asyncio.Protocol):
    """Subclasses call `_attach` in `connection_made` and `_check_progress` when the deadline has passed."""

    __slots__ = (
        "_drain_waiter", "_loop", "_lost", "_send_timeout_s", "_transport", "_write_paused", "_write_size", "deadline",
        "secure",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, send_timeout_s: float) -> None:
        self._loop = loop
        self._send_timeout_s = send_timeout_s
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.secure = False
        self.deadline = math.inf  # loop time; what it means depends on the connection's state
        self._lost = False
        self._write_paused = False
        self._write_size = 0
        self._drain_waiter: asyncio.Future[None] | None = None

    def _attach(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.secure = transport.get_extra_info("sslcontext") is not None
        # TLS transports compare with >=, so 0 would pause them for good; what they took is copied (encrypted) anyway.
        transport.set_write_buffer_limits(high=1 if self.secure else 0)

    # ---- transport callbacks

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError("the peer is gone"))

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._drain_waiter is not None:
            _settle(self._drain_waiter)

    # ---- Sink

    def write(self, data: Buffer) -> None:
        if self._lost:
            raise ConnectionResetError("the peer is gone")
        self._transport.write(data)

    async def drained(self) -> None:
        if self._lost:
            raise ConnectionResetError("the peer is gone")
        if self._write_paused:
            self._write_size = self._transport.get_write_buffer_size()
            await self._wait()

    def socket_fd(self) -> int:
        fd: int = self._transport.get_extra_info("socket").fileno()
        return fd

    async def writable(self, fd: int) -> None:
        if self._lost:
            raise ConnectionResetError("the peer is gone")
        self._write_size = 0  # nothing is buffered here, so only the socket's readiness is progress
        try:
            await self._wait(fd)
        finally:
            self._loop.remove_writer(fd)

    async def _wait(self, fd: int = -1) -> None:
        self.deadline = self._loop.time() + self._send_timeout_s
        self._drain_waiter = waiter = self._loop.create_future()
        if fd >= 0:
            self._loop.add_writer(fd, _settle, waiter)
        try:
            await waiter
        finally:
            self._drain_waiter = None
            self.deadline = math.inf

    def _check_progress(self, now: float) -> None:
        """The send deadline passed: go on if the peer took something since, else give up on it."""
        size = self._transport.get_write_buffer_size()
        if size < self._write_size:
            self._write_size = size
            self.deadline = now + self._send_timeout_s
        elif self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_exception(ConnectionAbortedError("the peer stopped reading"))


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
