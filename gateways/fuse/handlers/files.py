# SPDX-License-Identifier: Apache-2.0
"""Kernel requests on open files: words of the protocol in, `core.vfs.posix.files` does it, replies out.

What can be answered at once is answered by a plain function; only what has to wait becomes a coroutine.
Source: the kernel's public protocol header (linux/fuse.h), and how it treats O_APPEND and O_DIRECT.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gateways.fuse.api import Answer, Buffer, Call
from gateways.fuse.operations import Operations
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_PARALLEL_DIRECT_WRITES,
    RELEASE_FLOCK_UNLOCK,
)

if TYPE_CHECKING:
    from core.meta.caller import Caller


class FileHandlers(Operations):
    """Mixin of `PosixOperations`."""

    posix: Any
    ttl: Any

    def caller(self, call: Call) -> Caller:
        raise NotImplementedError

    async def open(self, call: Call, flags: int, open_flags: int) -> Buffer:  # type: ignore[override]
        fh, keep = await self.posix.open(call.nodeid, flags, self.caller(call))
        return replies.opened(fh, _open_flags(flags, keep))

    async def create(  # type: ignore[override]
        self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int
    ) -> Buffer | tuple[Buffer, ...]:
        node, fh = await self.posix.create(call.nodeid, name, flags, mode, umask, self.caller(call))
        entry = self.entry(node)
        return replies.created(entry, replies.opened(fh, _open_flags(flags, True)))

    def entry(self, node: Any) -> bytes:
        raise NotImplementedError

    def read(
        self, call: Call, fh: int, offset: int, size: int, read_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        data = self.posix.read_nowait(fh, call.nodeid, flags, offset, size)
        return data if data is not None else self.posix.read(fh, call.nodeid, flags, offset, size)

    def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        n = self.posix.write_nowait(fh, call.nodeid, flags, offset, data, call.unique, call.resent)
        if n is not None:
            return replies.written(n)
        return self._write(call, fh, flags, offset, data)

    async def _write(self, call: Call, fh: int, flags: int, offset: int, data: memoryview) -> Buffer:
        n = await self.posix.write(fh, call.nodeid, flags, offset, data, call.unique, call.resent)
        return replies.written(n)

    async def flush(self, call: Call, fh: int, lock_owner: int) -> Buffer:  # type: ignore[override]
        await self.posix.flush(fh, call.nodeid, lock_owner)
        return b""

    async def fsync(self, call: Call, fh: int, datasync: bool) -> Buffer:  # type: ignore[override]
        await self.posix.fsync(fh, call.nodeid, datasync)
        return b""

    async def release(  # type: ignore[override]
        self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> Buffer:
        await self.posix.release(fh, call.nodeid, lock_owner, bool(release_flags & RELEASE_FLOCK_UNLOCK))
        return b""


def _open_flags(flags: int, keep: bool) -> int:
    if flags & os.O_DIRECT:
        return FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES
    return FOPEN_KEEP_CACHE if keep else 0
