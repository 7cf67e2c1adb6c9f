# SPDX-License-Identifier: Apache-2.0
"""Kernel requests on open files: words of the protocol in, `core.vfs.posix.files` does it, replies out.

What can be answered at once is answered by a plain function; only what has to wait becomes a coroutine.
Source: the kernel's public protocol header (linux/fuse.h), and how it treats O_APPEND and O_DIRECT
(filesystems/fuse-io).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final

from core.errors import FsError
from core.meta.caller import Caller
from core.vfs.internal.inodes import ACCESS_LOG, CONTROL
from core.vfs.posix.nodes import Node
from gateways.fuse.api import Answer, Buffer, Call, Reply
from gateways.fuse.handlers import resent
from gateways.fuse.handlers.translate import Translate, stale
from gateways.fuse.operations import unsupported
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_NONSEEKABLE,
    FOPEN_PARALLEL_DIRECT_WRITES,
    OPEN_KILL_SUIDGID,
    RELEASE_FLOCK_UNLOCK,
    WRITE_KILL_SUIDGID,
)

#: Files that are read past the page cache can be mapped all the same (DIRECT_IO_ALLOW_MMAP).
DIRECT_MMAP: Final = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 6)
#: Special files that have no positions.
_STREAMS: Final = (ACCESS_LOG, CONTROL)


class FileHandlers(Translate):
    """Mixin of `PosixOperations`."""

    # -- opening -----------------------------------------------------------------------------------------------------

    async def open(self, call: Call, flags: int, open_flags: int) -> Reply:
        try:
            fh, keep = await self.posix.open(call.nodeid, flags, self.caller(call))
        except FsError as e:
            if e.errno != errno.ENOENT:
                raise
            # The name led here when it was looked up; it may lead elsewhere now. The kernel looks again then.
            raise FsError(errno.ESTALE, e.strerror or "") from e
        if self.posix.is_special_inode(call.nodeid):
            stream = FOPEN_NONSEEKABLE if call.nodeid in _STREAMS else 0
            return replies.opened(fh, FOPEN_DIRECT_IO | stream)
        if open_flags & OPEN_KILL_SUIDGID:
            await self.posix.kill_privileges(call.nodeid)
        flags_out = self._open_flags(flags, keep)
        if DIRECT_MMAP and self.posix.vfs.contended(call.nodeid):
            # Pages of a file that grows elsewhere would show zeros behind the end that the kernel knew.
            flags_out = flags_out & ~FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO
        return replies.opened(fh, flags_out)

    async def create(self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int) -> Reply:
        caller, umask, keep = self.caller(call), self.umask(umask), True
        try:
            if call.resent:
                node, fh = await self.posix.create(call.nodeid, name, flags, mode, umask, caller)
            else:
                # The kernel takes what we answer for a new file, whose mode needn't be looked at.
                node, fh, keep = await self.posix.create_or_open(
                    call.nodeid, name, flags, mode, umask, caller, lambda: self.checked_caller(call)
                )
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            node, fh = await self._created_before(call, e, name, flags, mode, umask, caller)
        return replies.created(self.entry(node), replies.opened(fh, self._open_flags(flags, keep)))

    async def _created_before(
        self, call: Call, e: FsError, name: bytes, flags: int, mode: int, umask: int, caller: Caller
    ) -> tuple[Node, int]:
        try:
            node = await resent.made_file(self.posix, e, call.nodeid, name, stat.S_IMODE(mode), umask, caller)
        except FsError:
            if e.errno != errno.EEXIST or flags & os.O_EXCL:
                raise
            raise FsError(errno.ESTALE, e.strerror or "") from e  # somebody else's file: the kernel opens it
        fh, _ = await self.posix.open(node.ino, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC), caller)
        return node, fh

    async def tmpfile(self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int) -> Reply:
        try:
            node, fh = await self.posix.tmpfile(call.nodeid, flags, mode, self.umask(umask), self.caller(call))
        except FsError as e:
            raise stale(e) from e
        return replies.created(self.entry(node), replies.opened(fh, self._open_flags(flags, True)))

    def _open_flags(self, flags: int, keep: bool) -> int:
        if flags & os.O_DIRECT:
            return FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES
        return FOPEN_KEEP_CACHE if keep else 0

    # -- reading and writing -----------------------------------------------------------------------------------------

    def read(
        self, call: Call, fh: int, offset: int, size: int, read_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        data = self.posix.read_nowait(fh, call.nodeid, flags, offset, size)
        return data if data is not None else self.posix.read(fh, call.nodeid, flags, offset, size)

    def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        file = self.posix.vfs.file(call.nodeid)
        if file is not None and offset + len(data) > (length := file.length):
            self.growth.grows(call.nodeid, call.pid, length)
        if not write_flags & WRITE_KILL_SUIDGID:
            n = self.posix.write_nowait(fh, call.nodeid, flags, offset, data, call.unique, call.resent)
            if n is not None:
                return replies.written(n)
        return self._write(call, fh, offset, data, write_flags, flags)

    async def _write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, flags: int
    ) -> Buffer:  # fmt: skip
        if self.posix.is_special_inode(call.nodeid):
            return replies.written(await self.posix.write_special(fh, call.nodeid, offset, data, self.caller(call)))
        n = await self.posix.write(fh, call.nodeid, flags, offset, data, call.unique, call.resent)
        if write_flags & WRITE_KILL_SUIDGID:
            await self.posix.kill_privileges(call.nodeid)
        return replies.written(n)

    # -- closing -----------------------------------------------------------------------------------------------------

    def flush(self, call: Call, fh: int, lock_owner: int) -> Answer:
        self.growth.settled(call.nodeid, call.pid)
        if self.posix.flush_nowait(fh, call.nodeid, lock_owner):
            return b""
        return self._flush(call, fh, lock_owner)

    async def _flush(self, call: Call, fh: int, lock_owner: int) -> Buffer:
        await self.posix.flush(fh, call.nodeid, lock_owner)
        return b""

    async def fsync(self, call: Call, fh: int, datasync: bool) -> Reply:
        self.growth.settled(call.nodeid, call.pid)
        await self.posix.fsync(fh, call.nodeid, datasync)
        return b""

    def release(self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int) -> Answer:
        flock = bool(release_flags & RELEASE_FLOCK_UNLOCK)
        if self.posix.release_nowait(fh, call.nodeid, lock_owner, flock):
            return b""
        return self._release(call, fh, lock_owner, flock)

    async def _release(self, call: Call, fh: int, lock_owner: int, flock: bool) -> Buffer:
        await self.posix.release(fh, call.nodeid, lock_owner, flock)
        return b""

    async def syncfs(self, call: Call) -> Reply:
        await self.posix.sync()
        return b""

    # -- without moving data -----------------------------------------------------------------------------------------

    async def fallocate(self, call: Call, fh: int, offset: int, length: int, mode: int) -> Reply:
        await self.posix.allocate(fh, call.nodeid, mode, offset, length)
        return b""

    async def lseek(self, call: Call, fh: int, offset: int, whence: int) -> Reply:
        if self.posix.writeback_cache:
            # What the kernel hasn't sent yet would look like a hole. It does without us from now on: all is data.
            raise unsupported("finding holes with writeback_cache")
        return replies.lseek(await self.posix.seek(fh, call.nodeid, offset, whence))

    async def copy_file_range(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Reply:
        n = await self.posix.copy_range(
            fh_in, call.nodeid, off_in, fh_out, nodeid_out, off_out, length, flags
        )  # fmt: skip
        return replies.written(n)
