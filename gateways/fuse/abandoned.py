# SPDX-License-Identifier: Apache-2.0
"""Requests that a dead process had read and not answered, on kernels that don't hand them out again (before 6.9).

The kernel would wait for their answers for ever. It numbers requests in ascending order and hands them out in that
order, so whatever has a smaller number than the first one that we read is answered, or was in the hands of the dead.
All of those numbers get an EIO: the kernel refuses answers that it doesn't wait for (ENOENT), and nothing else happens.
Source: the kernel's public protocol header (linux/fuse.h); numbers are even, the lowest bit marks interrupts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
from typing import Final

from gateways.fuse.api import Call
from gateways.fuse.channel import Channel
from gateways.fuse.wire.requests import Args

log = logging.getLogger("sluice.fuse")

_OUT: Final = struct.Struct("=IiQ")
_STEP: Final = 2
#: So many requests back; a refused answer takes about a microsecond.
MOST: Final = 1_000_000
#: Their numbers are given when they are read, not when they are queued.
_UNORDERED: Final = frozenset(("forget", "batch_forget"))


class Abandoned:
    """An observer of the channel (`FuseServer.observe`) that waits for the first request."""

    def __init__(self) -> None:
        self.done: asyncio.Future[int] | None = None

    def attach(self, channel: Channel) -> None:
        others = channel.on_request

        def first(call: Call, name: str, args: Args) -> None:
            if others is not None:
                others(call, name, args)
            if name not in _UNORDERED:
                channel.on_request = others
                loop = asyncio.get_running_loop()
                self.done = loop.run_in_executor(None, fail_below, os.dup(channel.fd), call.unique)

        channel.on_request = first


def fail_below(fd: int, unique: int) -> int:
    """Answer EIO to every request with a smaller number; how many there were. Closes the descriptor."""
    failed = 0
    try:
        for number in range(unique - _STEP, max(0, unique - MOST * _STEP), -_STEP):
            try:
                os.write(fd, _OUT.pack(_OUT.size, -errno.EIO, number))
                failed += 1
            except OSError as e:
                if e.errno != errno.ENOENT:
                    break
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    if failed:
        log.error("%d requests that the worker before had read fail with EIO: this kernel can not repeat them",
                  failed)  # fmt: skip
    return failed
