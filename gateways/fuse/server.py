# SPDX-License-Identifier: Apache-2.0
"""One mount being served: INIT, then a channel, until the kernel or we end it. A process may have several.

    fd = mount(path, "SluiceFS:myvol", options=options.mount_options())
    server = FuseServer(operations, options)
    await server.start(fd)
    await server.wait()

A process that takes over a running mount gives `start` what the first one had negotiated.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
from typing import Any, Protocol

from gateways.fuse.channel import Channel
from gateways.fuse.mount import abort_connection
from gateways.fuse.notify import Notifier
from gateways.fuse.operations import Operations
from gateways.fuse.session import Negotiated, Options, UnsupportedKernel, negotiate
from gateways.fuse.wire.constants import Init
from gateways.fuse.wire.requests import OVERHEAD, ProtocolError, decode

log = logging.getLogger("sluice.fuse")

INIT_TIMEOUT_S = 10.0
_OUT = struct.Struct("=IiQ")


class Observer(Protocol):
    def attach(self, channel: Channel) -> None:
        """Set on_request or on_answer of a channel."""


class FuseServer:
    """notify and channel exist from `start` on."""

    channel: Channel
    notify: Notifier
    negotiated: Negotiated

    def __init__(self, operations: Operations, options: Options | None = None) -> None:
        self.operations = operations
        self.options = options or Options()
        self.fd = -1
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Let somebody hear of requests and answers, now or from the start."""
        self._observers.append(observer)
        if hasattr(self, "channel"):
            observer.attach(self.channel)

    async def start(self, fd: int, negotiated: Negotiated | dict[str, Any] | None = None) -> Negotiated:
        """Serve the descriptor, which is the server's from now on, even if this fails.

        negotiated: of the process before us, also as `Negotiated.to_dict` saved it; None for a new mount, whose INIT is
        read here. No request is read before the caller waits for something: a server that has taken over asks for the
        unanswered ones (`notify.resend`) right after this.
        """
        self.fd = fd
        try:
            os.set_blocking(fd, False)
            if isinstance(negotiated, dict):
                negotiated = Negotiated.from_dict(negotiated)
            self.negotiated = negotiated or await self._init()
            self.channel = Channel(
                fd,
                self.operations,
                max_write=self.negotiated.max_write,
                setxattr_ext=self.negotiated.has(Init.SETXATTR_EXT),
            )
            self.notify = Notifier(fd, self.negotiated)
            for observer in self._observers:
                observer.attach(self.channel)
        except BaseException:
            self._close_fd()
            raise
        self.channel.resume()
        return self.negotiated

    async def wait(self) -> None:
        """Until the kernel has ended the connection: unmounted, or aborted."""
        await asyncio.shield(self.channel.closed)

    def give_up(self) -> None:
        """This mount can't go on: its requests fail from now on where the kernel lets us say so, and `wait` ends."""
        if self.fd >= 0 and hasattr(self, "channel"):
            abort_connection(self.fd)
            self.channel.end()

    async def stop(self, *, timeout_s: float | None = 30.0, keep_fd: bool = False, abandon_waits: bool = True) -> int:
        """Serve no more. Returns how many requests were left without an answer (see Channel.stop).

        keep_fd: the mount lives on with another process. Without, closing the last descriptor fails all its requests
        with ENOTCONN; unmount first.
        """
        if self.fd < 0:
            return 0
        left = 0
        if hasattr(self, "channel"):
            left = await self.channel.stop(timeout_s=timeout_s, abandon_waits=abandon_waits)
            await self.notify.close()
        if not keep_fd:
            self._close_fd()
        return left

    def _close_fd(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    async def _init(self) -> Negotiated:
        """The first request of a mount."""
        buffer = memoryview(bytearray(self.options.max_io + OVERHEAD))
        while True:
            async with asyncio.timeout(INIT_TIMEOUT_S):
                length = await self._read(buffer)
            try:
                call, name, args = decode(buffer, length)
            except ProtocolError as e:
                raise UnsupportedKernel(f"the kernel's first request can't be understood: {e}") from e
            if name != "init":
                raise UnsupportedKernel(
                    f"the mount begins with {name} instead of INIT: somebody has served this descriptor already; "
                    "take over with what was negotiated then, or unmount and mount again"
                )
            try:
                major, minor, max_readahead, offered = args
                reply, agreed = negotiate(major, minor, max_readahead, offered, self.options)
            except UnsupportedKernel:
                os.write(self.fd, _OUT.pack(_OUT.size, -errno.EPROTO, call.unique))
                raise
            os.write(self.fd, _OUT.pack(_OUT.size + len(reply), 0, call.unique) + reply)
            if agreed is not None:
                log.debug(
                    "FUSE protocol 7.%d, requests up to %d KiB, flags %#x", agreed.minor, agreed.max_write >> 10,
                    agreed.flags,
                )  # fmt: skip
                return agreed

    async def _read(self, buffer: memoryview) -> int:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        while True:
            try:
                return os.readv(self.fd, (buffer,))
            except BlockingIOError:
                ready.clear()
                loop.add_reader(self.fd, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(self.fd)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EINTR):
                    raise
