# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the line to its holder, on the worker's event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

from gateways.fuse.holder import messages
from gateways.fuse.holder.children import VARIABLE

log = logging.getLogger("sluice.fuse")


class HolderLine:
    """Descriptors that the holder gave us, and what it says. Descriptors don't reach programs that we start."""

    def __init__(self, sock: socket.socket, fuse_fd: int, table_fd: int) -> None:
        self.fuse_fd = fuse_fd
        self.table_fd = table_fd
        self.on_hand_over: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self._sock = sock
        self._go: asyncio.Future[dict[str, Any]] | None = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> HolderLine | None:
        """None if this process isn't a worker. The variable is removed: our children are no workers."""
        text = environment.pop(VARIABLE, "")
        if not text:
            return None
        line, fuse_fd, table_fd = (int(part) for part in text.split(","))
        for fd in (line, fuse_fd, table_fd):
            os.set_inheritable(fd, False)
        os.set_blocking(fuse_fd, False)
        sock = socket.socket(fileno=line)
        sock.setblocking(False)
        return cls(sock, fuse_fd, table_fd)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._go = loop.create_future()
        loop.add_reader(self._sock, self._hear)

    async def go(self) -> bool:
        """Wait until it is our turn to serve. True if the worker before us could not finish what it had begun."""
        assert self._go is not None
        return bool((await self._go).get("crashed"))

    def tell(self, what: str, **more: Any) -> None:
        messages.send(self._sock, {"is": what, **more})

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _hear(self) -> None:
        try:
            message = messages.receive(self._sock)
        except BlockingIOError:
            return
        if message is None:
            self._gone()
            return
        what = message.get("do")
        if what == "ping":
            self.tell("pong")
        elif what == "go" and self._go is not None and not self._go.done():
            self._go.set_result(message)
        elif what == "hand-over":
            self.on_hand_over()
        elif what == "stop":
            self.on_stop()

    def _gone(self) -> None:
        """The holder died. The mount goes on with what we have, without anybody to take over."""
        asyncio.get_running_loop().remove_reader(self._sock)
        if self._go is not None and not self._go.done():
            self._go.cancel()
            return
        log.error("the holder process is gone: this mount won't survive its worker any more; unmount and mount again")
