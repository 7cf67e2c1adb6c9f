# SPDX-License-Identifier: Apache-2.0
"""Kernel requests about locks; `core.vfs.posix.locks` has the rules. An interrupt cancels a waiting coroutine."""

from __future__ import annotations

from gateways.fuse.api import Buffer, Call
from gateways.fuse.handlers.translate import Translate
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import LK_FLOCK


class LockHandlers(Translate):
    """Mixin of `PosixOperations`."""

    async def getlk(
        self, call: Call, fh: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int
    ) -> Buffer:
        held, low, high, whose = await self.posix.getlk(call.nodeid, owner, start, end, kind)
        return replies.lock(low, high, held, whose)

    async def setlk(
        self, call: Call, fh: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int, wait: bool
    ) -> Buffer:
        if flags & LK_FLOCK:
            await self.posix.flock(call.nodeid, owner, kind, wait=wait)
        else:
            await self.posix.setlk(fh, call.nodeid, owner, start, end, kind, pid, wait=wait)
        return b""
